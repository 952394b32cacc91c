//! What containers wrote and could not commit, most often for a full disk.
//!
//! It is moved aside whole, by one rename: that needs no room. So what lies here has the shape of a layer (`diff`, maybe
//! `refs`) or of a container's own writes. It may hold files that were committed before; who puts it into the volume later
//! must not undo what others have done since. Hence the rule: a file goes in where the volume has none or an older one, and
//! nothing is deleted. Rejected: committing it as if no time had passed (the last writer would win, with old files), and a note
//! of what had been committed (there is no room for a note).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::error::{Doing, VolumeError};
use crate::layer::{Attributes, LayerBuilder, Source};
use crate::store::Volumes;
use crate::sys;
use crate::view::{Kind, Node, View};

/// The folders for it, made ahead: a full disk may refuse a new one. One on each file system that something may come from.
/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct UnsavedFolder(Arc<RwLock<Vec<PathBuf>>>);

/// One thing that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsaved {
    /// By which it is recovered.
    pub name: String,
    pub volume: String,
    /// What wrote it.
    pub task: String,
    pub since: SystemTime,
    pub place: PathBuf,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Files that are in the volume now, or were there already.
    pub files: u64,
    /// Those that stay aside: the volume has something newer.
    pub left: Vec<PathBuf>,
}

impl UnsavedFolder {
    /// Makes a folder, for what comes from its file system.
    pub fn add(&self, path: PathBuf) -> Result<(), VolumeError> {
        fs::create_dir_all(&path).doing("make folder", &path)?;
        let closed = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        closed.doing("set the permissions of", &path)?;
        self.0.write().push(path);
        Ok(())
    }

    /// Moves a folder that holds a `diff` here; where it is then.
    ///
    /// # Errors
    /// When it cannot be moved: it is where it was.
    pub fn set_aside(&self, volume: &str, task: &str, folder: &Path) -> io::Result<PathBuf> {
        let mut moved = Err(io::Error::from(io::ErrorKind::NotFound));
        for root in &*self.0.read() {
            moved = Self::move_to(root, volume, task, folder);
            if !moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::CrossesDevices) {
                break;
            }
        }
        moved
    }

    fn move_to(root: &Path, volume: &str, task: &str, folder: &Path) -> io::Result<PathBuf> {
        for number in 1.. {
            let end = if number == 1 { String::new() } else { format!(".{number}") };
            let place = root.join(format!("{volume}.{task}{end}"));
            if !place.exists() {
                fs::rename(folder, &place)?;
                // It counts from now on.
                let _ = fs::File::open(&place).and_then(|file| file.set_modified(SystemTime::now()));
                let _ = sys::sync_folder(root);
                return Ok(place);
            }
        }
        unreachable!("some number is free")
    }

    /// Oldest first.
    pub fn list(&self) -> Result<Vec<Unsaved>, VolumeError> {
        let mut found = Vec::new();
        for root in &*self.0.read() {
            found.extend(fs::read_dir(root).doing("list", root)?.flatten().filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (volume, task) = name.split_once('.')?;
                let (volume, task) = (volume.to_owned(), task.split('.').next()?.to_owned());
                let since = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
                Some(Unsaved { volume, task, since, place: entry.path(), name })
            }));
        }
        found.sort_by_key(|unsaved| unsaved.since);
        Ok(found)
    }
}

impl Volumes {
    /// Puts into its volume what was moved aside. It stays aside as long as some file of it is not in the volume.
    pub fn recover(&self, unsaved: &Unsaved) -> Result<Recovered, VolumeError> {
        let place = &unsaved.place;
        if !place.exists() {
            return Err(VolumeError::NotFound(place.clone()));
        }
        let aside = View::of(std::iter::once(place.join("diff")));
        let mut recovered = Recovered::default();
        self.change(&unsaved.volume, |now, mut layer| {
            let root = aside.find(Path::new(""))?.ok_or_else(|| VolumeError::NotFound(place.clone()))?;
            recover_folder(&aside, &root, Path::new(""), now, &mut layer, &mut recovered)?;
            layer.finish()
        })?;
        if recovered.left.is_empty() {
            trees::remove(place).doing("remove", place)?;
        }
        Ok(recovered)
    }
}

fn recover_folder(
    aside: &View,
    folder: &Node,
    path: &Path,
    now: &View,
    layer: &mut LayerBuilder<'_>,
    recovered: &mut Recovered,
) -> Result<(), VolumeError> {
    for (name, node) in aside.list(folder)? {
        let path = path.join(name);
        let there = now.find(&path)?;
        match (node.kind, there) {
            (Kind::Socket, _) => {}
            (Kind::Folder, Some(there)) if there.kind != Kind::Folder => recovered.left.push(path),
            (Kind::Folder, there) => {
                if there.is_none() {
                    layer.folder(&path, &Attributes::of(node.path())?)?;
                }
                recover_folder(aside, &node, &path, now, layer, recovered)?;
            }
            (_, there) if has_no_bytes(&node)? => drop(there),
            (_, Some(there)) if is_same(&node, &there)? => recovered.files += 1,
            (_, Some(there)) if there.kind == Kind::Folder || modified(&there)? > modified(&node)? => {
                recovered.left.push(path);
            }
            _ => match put(layer, &path, &node) {
                // The bytes were committed once, and are gone since.
                Err(VolumeError::UnknownBlock) => recovered.left.push(path),
                put => {
                    put?;
                    recovered.files += 1;
                }
            },
        }
    }
    Ok(())
}

fn put(layer: &mut LayerBuilder<'_>, path: &Path, node: &Node) -> Result<(), VolumeError> {
    if node.kind != Kind::File {
        return layer.special(path, node.path());
    }
    let attributes = Attributes::of(node.path())?;
    match node.content()? {
        Some(_) => layer.file_like(path, node, &attributes),
        None => layer.file(path, Source::Copy(node.path()), &attributes),
    }
}

/// Only owner, mode or time of a file of the volume were changed.
fn has_no_bytes(node: &Node) -> Result<bool, VolumeError> {
    if node.kind != Kind::File || node.content()?.is_some() {
        return Ok(false);
    }
    Ok(sys::xattr(node.path(), sys::METACOPY).doing("read", node.path())?.is_some())
}

fn is_same(one: &Node, two: &Node) -> Result<bool, VolumeError> {
    Ok(one.kind == two.kind && one.size == two.size && modified(one)? == modified(two)?)
}

fn modified(node: &Node) -> Result<(i64, i64), VolumeError> {
    let metadata = fs::symlink_metadata(node.path()).doing("look at", node.path())?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use manifest::changes::Committed;

    use super::*;
    use crate::commit::{Taking, collect};

    const VOLUME: &str = "vo-1";

    /// What a container wrote: each file with its time.
    fn written(folder: &Path, files: &[(&str, &str, u64)]) -> PathBuf {
        let upper = folder.join("upper");
        for (path, text, seconds) in files {
            let path = upper.join("diff").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(*seconds);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        upper
    }

    fn commit(volumes: &Volumes, upper: &Path) {
        let below = volumes.view(VOLUME).unwrap();
        let building = volumes.building(VOLUME).unwrap();
        let collected =
            collect(volumes.contents(), &building, &upper.join("diff"), &below, &Committed::default(), Taking::All);
        volumes.publish(VOLUME, &collected.unwrap().0.unwrap()).unwrap();
    }

    fn text(volumes: &Volumes, path: &str) -> Option<String> {
        let node = volumes.view(VOLUME).unwrap().find(path.as_ref()).unwrap()?;
        let real = node.content().unwrap().map_or(node.path().to_owned(), |id| volumes.contents().path(&id));
        Some(fs::read_to_string(real).unwrap())
    }

    #[test]
    fn what_was_moved_aside_is_put_where_the_volume_has_nothing_newer() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let large = "x".repeat(100 << 10);
        commit(
            &volumes,
            &written(
                &folder.path().join("one"),
                &[("same", "same", 10), ("older", "theirs", 10), ("newer", "theirs", 30)],
            ),
        );
        let ours = [
            ("same", "same", 10),
            ("older", "ours", 20),
            ("newer", "ours", 20),
            ("deep/new", "ours", 20),
            ("large", &*large, 20),
        ];
        let upper = written(&folder.path().join("two"), &ours);
        let place = volumes.unsaved().set_aside(VOLUME, "ta-1", &upper).unwrap();
        let listed = volumes.unsaved().list().unwrap();
        assert_eq!(listed.iter().map(|u| (&*u.name, &*u.task)).collect::<Vec<_>>(), [("vo-1.ta-1", "ta-1")]);
        let recovered = volumes.recover(&listed[0]).unwrap();
        assert_eq!(recovered, Recovered { files: 4, left: vec!["newer".into()] });
        assert_eq!(text(&volumes, "older").as_deref(), Some("ours"));
        assert_eq!(text(&volumes, "deep/new").as_deref(), Some("ours"));
        assert_eq!(text(&volumes, "large").as_deref(), Some(&*large));
        assert_eq!(text(&volumes, "newer").as_deref(), Some("theirs"));
        assert!(place.join("diff/newer").exists(), "what is not in the volume stays aside");
        fs::remove_file(place.join("diff/newer")).unwrap();
        assert_eq!(volumes.recover(&listed[0]).unwrap(), Recovered { files: 4, left: Vec::new() });
        assert!(!place.exists());
        assert!(matches!(volumes.recover(&listed[0]), Err(VolumeError::NotFound(_))));
    }

    #[test]
    fn a_last_commit_that_fails_leaves_what_the_container_wrote_whole() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let large = "x".repeat(100 << 10);
        let upper = written(folder.path(), &[("a", "small", 1), ("b", &*large, 1), ("z", "last", 1)]);
        let cut = fs::File::options().write(true).open(upper.join("diff/z")).unwrap();
        // Longer than any file may be: it is refused after those before it were taken.
        cut.set_len(crate::layer::MAX_FILE_BYTES + 1).unwrap();
        let building = volumes.building(VOLUME).unwrap();
        let below = volumes.view(VOLUME).unwrap();
        let diff = upper.join("diff");
        let collected = collect(volumes.contents(), &building, &diff, &below, &Committed::default(), Taking::Final);
        assert!(matches!(collected, Err(VolumeError::TooLarge(_))), "{collected:?}");
        assert_eq!(fs::read_to_string(diff.join("a")).unwrap(), "small");
        assert_eq!(fs::read_to_string(diff.join("b")).unwrap(), large);
    }

    #[test]
    fn a_layer_that_could_not_be_published_is_where_it_was() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let upper = written(folder.path(), &[("a", "small", 1)]);
        let below = volumes.view(VOLUME).unwrap();
        let building = volumes.building(VOLUME).unwrap();
        let diff = upper.join("diff");
        let collected = collect(volumes.contents(), &building, &diff, &below, &Committed::default(), Taking::Final);
        let layer = collected.unwrap().0.unwrap();
        // The volume's head cannot be written.
        fs::create_dir(building.parent().unwrap().join("head.next")).unwrap();
        assert!(volumes.publish(VOLUME, &layer).is_err());
        let place = volumes.unsaved().set_aside(VOLUME, "ta-1", &layer.folder).unwrap();
        assert_eq!(fs::read_to_string(place.join("diff/a")).unwrap(), "small");
        fs::remove_dir(building.parent().unwrap().join("head.next")).unwrap();
        let listed = volumes.unsaved().list().unwrap();
        assert_eq!(volumes.recover(&listed[0]).unwrap().files, 1);
        assert_eq!(text(&volumes, "a").as_deref(), Some("small"));
    }
}
