//! COPY, ADD and WORKDIR: files written straight into a new layer, with an eye on the layers below.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use image_plan::{CopyItem, CopySource, LayerKey, ModeChange, glob};
use types::owners;

use crate::archives;
use crate::blocking::{Stop, blocking};
use crate::builder::{ContextSource, ImageBuilder, StepContext};
use crate::downloads::Downloaded;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::registry::{LayerLimits, unpack_alone};
use crate::stack::{Found, LayerStack};
use crate::steps::run::read;
use crate::store::Workspace;

impl ImageBuilder {
    #[expect(clippy::too_many_arguments, reason = "one step's whole circumstances")]
    pub(crate) async fn copy_step(
        &self,
        below: &[LayerKey],
        items: &[CopyItem],
        owner: Option<&str>,
        mode: Option<&ModeChange>,
        context: &StepContext,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        let owner = resolve_owner(&stack, owner)?;
        let mut downloads = BTreeMap::new();
        for item in items {
            if let CopySource::Url { url, checksum } = &item.source {
                let found = match context.downloads.get(url).filter(|_| checksum.is_none()) {
                    Some(found) => found.clone(),
                    None => self.download(url, checksum.as_deref(), logs).await?,
                };
                downloads.insert(url.clone(), found);
            }
        }
        let (items, sources, mode) = (items.to_vec(), context.context.clone(), mode.cloned());
        let (diff, spare) = (workspace.diff(), workspace.path().join("unpacked"));
        let workspace = workspace.clone();
        let work = move |stop: &Stop| {
            let _held = workspace;
            let writer = LayerWriter::new(&stack, diff, owner, stop.clone())?;
            let mut copying = Copying { writer, sources: &sources, downloads: &downloads, mode: mode.as_ref(), spare };
            items.iter().try_for_each(|item| copying.item(item))
        };
        blocking(work).await
    }

    pub(crate) fn make_folder_step(
        &self,
        below: &[LayerKey],
        path: &str,
        workspace: &Workspace,
    ) -> Result<(), BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        LayerWriter::new(&stack, workspace.diff(), None, Stop::default())?.folder(Path::new(path))
    }

    pub(crate) fn is_folder(&self, below: &[LayerKey], path: &str) -> Result<bool, BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        let resolved = stack.resolve(path).map_err(BuildError::io(format!("look at `{path}` in the image")))?;
        Ok(resolved.found.is_some_and(|found| found.meta.is_dir()))
    }
}

/// One COPY or ADD of files that are not another image's.
struct Copying<'a> {
    writer: LayerWriter<'a>,
    sources: &'a [ContextSource],
    downloads: &'a BTreeMap<String, Downloaded>,
    mode: Option<&'a ModeChange>,
    /// A folder for an archive's contents on their way, to be made.
    spare: PathBuf,
}

/// As every builder does: a download is for its owner alone.
const DOWNLOAD_MODE: u32 = 0o600;

impl Copying<'_> {
    fn item(&mut self, item: &CopyItem) -> Result<(), BuildError> {
        let (disk, mode) = match &item.source {
            CopySource::Folder => return self.writer.folder(Path::new(&item.dest)),
            CopySource::Inline(text) => return self.bytes(item, text.as_bytes()),
            CopySource::Context(index) => match &self.sources[*index] {
                ContextSource::Memory(data) => {
                    if item.unpack_into.is_none() {
                        return self.bytes(item, data);
                    }
                    // Small; on disk it is unpacked, or copied, like any other.
                    let path = self.spare.with_extension("file");
                    fs::write(&path, data).map_err(BuildError::on("write", &path))?;
                    (path, 0o644)
                }
                ContextSource::Disk(path, own) => (path.clone(), *own),
            },
            CopySource::Url { url, .. } => {
                let missing = || BuildError::Refused(format!("`{url}` was not downloaded"));
                (self.downloads.get(url).ok_or_else(missing)?.path.clone(), DOWNLOAD_MODE)
            }
        };
        if let Some(folder) = &item.unpack_into
            && let Some(archive) = archives::open(&disk).map_err(BuildError::on("read", &disk))?
        {
            return self.unpack(archive, folder);
        }
        let target = self.writer.place(Path::new(&item.dest), item.name_within_folder.as_deref().map(OsStr::new))?;
        self.writer.copy_new(&disk, &target)?;
        self.finish(&target, mode)
    }

    fn bytes(&mut self, item: &CopyItem, bytes: &[u8]) -> Result<(), BuildError> {
        let target = self.writer.place(Path::new(&item.dest), item.name_within_folder.as_deref().map(OsStr::new))?;
        let written = create_new(&target).and_then(|mut file| file.write_all(bytes));
        written.map_err(BuildError::on("write", &target))?;
        self.finish(&target, 0o644)
    }

    fn finish(&self, target: &Path, own: u32) -> Result<(), BuildError> {
        let mode = self.mode.map_or(own, |change| change.apply(own, false));
        self.writer.set(target, mode & 0o7777, self.writer.owner)
    }

    /// First into a folder of its own, by the rules for registry layers, since an archive is as little to be believed as
    /// those; then from there as from another image.
    fn unpack(&mut self, archive: Box<dyn Read + Send>, dest: &str) -> Result<(), BuildError> {
        let _ = trees::remove(&self.spare);
        unpack_alone(archive, &self.spare, LayerLimits::default(), &self.writer.stop)
            .map_err(|error| BuildError::Refused(format!("cannot unpack the archive: {error}")))?;
        let from = LayerStack::new([self.spare.clone()]);
        let mut copier = Copier { from: &from, writer: &mut self.writer, exclude: &[], mode: self.mode };
        copier.folder_contents(Path::new(""), Path::new(dest), Path::new(""))
    }
}

/// Copies from a merged tree with owners, modes and times as they are there, unless told otherwise.
pub(crate) struct Copier<'a, 'b> {
    pub from: &'a LayerStack,
    pub writer: &'a mut LayerWriter<'b>,
    pub exclude: &'a [String],
    pub mode: Option<&'a ModeChange>,
}

impl Copier<'_, '_> {
    /// `relative`: the path below the source, for exclusions.
    pub fn file(
        &mut self,
        found: &Found,
        dest: &Path,
        name_within_folder: Option<&OsStr>,
        relative: &Path,
    ) -> Result<(), BuildError> {
        let meta = &found.meta;
        if self.excludes(relative) || !(meta.is_file() || meta.is_symlink()) {
            return Ok(());
        }
        let target = self.writer.place(dest, name_within_folder)?;
        let owner = Some(self.writer.owner.unwrap_or((meta.uid(), meta.gid())));
        if meta.is_symlink() {
            let made = fs::read_link(&found.path).and_then(|link| std::os::unix::fs::symlink(link, &target));
            made.map_err(BuildError::on("make the link", &target))?;
            return self.writer.set_owner(&target, owner);
        }
        self.writer.copy_new(&found.path, &target)?;
        let own = meta.mode() & 0o7777;
        self.writer.set(&target, self.mode.map_or(own, |change| change.apply(own, false)), owner)?;
        // Python's bytecode is valid for a source of a certain time.
        let time = rustix::fs::Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, &target, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| BuildError::on("set the time of", &target)(error.into()))
    }

    /// The contents of `folder` (of the tree, relative, without links) below `dest`.
    pub fn folder_contents(&mut self, folder: &Path, dest: &Path, relative: &Path) -> Result<(), BuildError> {
        if relative.as_os_str().is_empty() {
            self.writer.folder(dest)?;
        }
        for name in self.from.list(folder).map_err(BuildError::on("read the folder", folder))? {
            let path = folder.join(&name);
            let Some(found) = self.from.entry(&path).map_err(BuildError::on("look at", &path))? else { continue };
            let (dest, relative) = (dest.join(&name), relative.join(&name));
            if !found.meta.is_dir() {
                self.file(&found, &dest, None, &relative)?;
            } else if !self.excludes(&relative) {
                self.writer.folder_like(&dest, &found.meta)?;
                self.folder_contents(&path, &dest, &relative)?;
            }
        }
        Ok(())
    }

    fn excludes(&self, relative: &Path) -> bool {
        let shown = relative.to_string_lossy();
        self.exclude.iter().any(|pattern| glob::excludes(pattern, &shown))
    }
}

/// Writes into a layer as if it were mounted on top of `stack`.
///
/// What an earlier source of the same instruction wrote is not in `stack`, so a link among it is never followed: it is
/// replaced, or refused where a folder is needed.
pub(crate) struct LayerWriter<'a> {
    stack: &'a LayerStack,
    diff: PathBuf,
    owner: Option<(u32, u32)>,
    /// Folders that `diff` has already, relative.
    made: HashSet<PathBuf>,
    stop: Stop,
}

impl<'a> LayerWriter<'a> {
    pub fn new(
        stack: &'a LayerStack,
        diff: PathBuf,
        owner: Option<(u32, u32)>,
        stop: Stop,
    ) -> Result<Self, BuildError> {
        make_layer_root(&diff)?;
        let mut writer = Self { stack, diff, owner, made: HashSet::new(), stop };
        writer.made.insert(PathBuf::new());
        Ok(writer)
    }

    /// Where a file for `dest` is to be made, which does not exist; its folders do.
    fn place(&mut self, dest: &Path, name_within_folder: Option<&OsStr>) -> Result<PathBuf, BuildError> {
        self.stop.check().map_err(BuildError::on("write", dest))?;
        let mut dest = dest.to_owned();
        if let Some(name) = name_within_folder
            && self.look(&dest)?.1
        {
            dest.push(name);
        }
        let (path, is_folder) = self.look(&dest)?;
        if is_folder {
            let dest = dest.display();
            return Err(BuildError::Refused(format!("cannot copy a file to `{dest}`: it is a folder in the image")));
        }
        if let Some(parent) = path.parent() {
            self.folder_resolved(parent)?;
        }
        let target = self.diff.join(path);
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BuildError::on("replace", &target)(error)),
            _ => Ok(target),
        }
    }

    /// Makes a folder and those above it.
    pub fn folder(&mut self, path: &Path) -> Result<(), BuildError> {
        let (resolved, _) = self.look(path)?;
        self.folder_resolved(&resolved)
    }

    /// As [`LayerWriter::folder`]; one that is new is owned and may be entered as `like` says.
    fn folder_like(&mut self, path: &Path, like: &fs::Metadata) -> Result<(), BuildError> {
        let (resolved, exists) = self.look(path)?;
        self.folder_resolved(&resolved)?;
        if exists {
            return Ok(());
        }
        let owner = self.owner.unwrap_or((like.uid(), like.gid()));
        self.set(&self.diff.join(resolved), like.mode() & 0o7777, Some(owner))
    }

    /// The place with links followed, and whether a folder is there.
    fn look(&self, path: &Path) -> Result<(PathBuf, bool), BuildError> {
        let look = BuildError::on("look in the image at", path);
        let resolved = self.stack.resolve_path(path).map_err(look)?;
        let is_folder = self.made.contains(&resolved.path) || resolved.found.is_some_and(|found| found.meta.is_dir());
        Ok((resolved.path, is_folder))
    }

    fn folder_resolved(&mut self, path: &Path) -> Result<(), BuildError> {
        if self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder_resolved(parent)?;
        }
        let full = self.diff.join(path);
        let below = self.stack.entry(path).map_err(BuildError::on("look in the image at", path))?;
        if below.as_ref().is_some_and(|found| !found.meta.is_dir()) || fs::symlink_metadata(&full).is_ok() {
            return Err(BuildError::Refused(format!("`/{}` is a file and cannot hold others", path.display())));
        }
        fs::create_dir(&full).map_err(BuildError::on("create", &full))?;
        // A folder that is in the image keeps its owner and mode: the upper layer's are the ones that count.
        let (mode, owner) = match &below {
            Some(found) => (found.meta.mode() & 0o7777, Some((found.meta.uid(), found.meta.gid()))),
            None => (0o755, self.owner),
        };
        self.set(&full, mode, owner)?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// The copy, a new file, is for its owner alone.
    fn copy_new(&self, from: &Path, to: &Path) -> Result<(), BuildError> {
        let copied = fs::File::open(from).and_then(|from| self.stop.copy_file(from, create_new(to)?));
        copied.map_err(BuildError::on("copy a file to", to))
    }

    fn set(&self, path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), BuildError> {
        self.set_owner(path, owner)?;
        // After the owner: changing it clears the set-user bit.
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(BuildError::on("set the mode of", path))
    }

    fn set_owner(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), BuildError> {
        let Some((uid, gid)) = owner else { return Ok(()) };
        lchown(path, Some(uid), Some(gid)).map_err(BuildError::on("change the owner of", path))
    }
}

fn create_new(path: &Path) -> io::Result<fs::File> {
    fs::File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// The folder that becomes `/`, open to everybody whatever this process's umask says.
pub(crate) fn make_layer_root(diff: &Path) -> Result<(), BuildError> {
    fs::create_dir(diff).map_err(BuildError::on("create", diff))?;
    fs::set_permissions(diff, fs::Permissions::from_mode(0o755)).map_err(BuildError::on("set the mode of", diff))
}

pub(crate) fn resolve_owner(stack: &LayerStack, owner: Option<&str>) -> Result<Option<(u32, u32)>, BuildError> {
    let Some(owner) = owner else { return Ok(None) };
    let (passwd, group) = (read(stack, "/etc/passwd")?, read(stack, "/etc/group")?);
    let ids = owner_ids(owner, &passwd, &group);
    ids.map(Some).map_err(|reason| BuildError::Refused(format!("`--chown={owner}`: {reason}")))
}

/// `user[:group]`, each a name or a number. A name without a group takes the user's own; a number takes the same.
pub(crate) fn owner_ids(owner: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    let (user, group_name) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    let field = |text: &str, name: &str, index: usize| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(index)?.parse::<u64>().ok()
    };
    let unknown = |kind: &str, name: &str| format!("the image has no {kind} `{name}`");
    let uid = user.parse().ok().or_else(|| field(passwd, user, 2)).ok_or_else(|| unknown("user", user))?;
    let gid = match group_name {
        Some(name) => name.parse().ok().or_else(|| field(group, name, 2)).ok_or_else(|| unknown("group", name))?,
        None => field(passwd, user, 3).unwrap_or(uid),
    };
    Ok((owners::of_container(uid)?, owners::of_container(gid)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:\n";

    #[test]
    fn owners_are_names_or_numbers_of_the_image() {
        assert_eq!(owner_ids("www", PASSWD, GROUP), Ok((33, 34)));
        assert_eq!(owner_ids("www:staff", PASSWD, GROUP), Ok((33, 50)));
        assert_eq!(owner_ids("1000", PASSWD, GROUP), Ok((1000, 1000)));
        assert_eq!(owner_ids("1000:7", PASSWD, GROUP), Ok((1000, 7)));
        assert_eq!(owner_ids("nobody", PASSWD, GROUP), Err("the image has no user `nobody`".to_owned()));
    }

    #[test]
    fn owners_may_be_large_and_those_that_no_container_has_are_refused() {
        assert_eq!(owner_ids("1000650000", PASSWD, GROUP), Ok((1_000_650_000, 1_000_650_000)));
        for (owner, id) in [("4294967295", "4294967295"), ("0:99999999999", "99999999999")] {
            let refused = owner_ids(owner, PASSWD, GROUP).unwrap_err();
            assert!(refused.contains(id) && refused.contains("2147483647"), "{refused}");
        }
    }

    #[test]
    fn copying_below_a_link_writes_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let low = folder.path().join("low");
        fs::create_dir_all(low.join("usr/lib")).unwrap();
        fs::set_permissions(low.join("usr"), fs::Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::symlink("usr/lib", low.join("lib")).unwrap();
        let stack = LayerStack::new([low]);
        let writer = LayerWriter::new(&stack, folder.path().join("diff"), None, Stop::default()).unwrap();
        let spare = folder.path().join("spare");
        let mut copying = Copying { writer, sources: &[], downloads: &BTreeMap::new(), mode: None, spare };
        let item = |dest: &str, name: Option<&str>| CopyItem {
            source: CopySource::Inline("text".to_owned()),
            dest: dest.to_owned(),
            name_within_folder: name.map(str::to_owned),
            unpack_into: None,
        };
        copying.item(&item("/lib/new/file", None)).unwrap();
        copying.mode = Some(&ModeChange::Exactly(0o600));
        copying.item(&item("/lib", Some("name"))).unwrap();
        let diff = folder.path().join("diff");
        assert_eq!(fs::read_to_string(diff.join("usr/lib/new/file")).unwrap(), "text");
        assert_eq!(fs::metadata(diff.join("usr/lib/name")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(diff.join("usr")).unwrap().mode() & 0o7777, 0o711);
        assert!(!diff.join("lib").exists());
    }

    #[test]
    fn a_link_that_one_source_brings_is_not_followed_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("file"), "mine").unwrap();
        let tree = |name: &str| {
            let tree = folder.path().join(name);
            fs::create_dir(&tree).unwrap();
            tree
        };
        let (evil, plain, nested) = (tree("evil"), tree("plain"), tree("nested"));
        std::os::unix::fs::symlink(outside.join("file"), evil.join("a")).unwrap();
        std::os::unix::fs::symlink(&outside, evil.join("b")).unwrap();
        fs::write(plain.join("a"), "theirs").unwrap();
        fs::create_dir(nested.join("b")).unwrap();
        fs::write(nested.join("b/file"), "theirs").unwrap();
        let below = LayerStack::new([]);
        let mut writer = LayerWriter::new(&below, folder.path().join("diff"), None, Stop::default()).unwrap();
        let mut copy = |from: &Path| {
            let from = LayerStack::new([from.to_owned()]);
            let mut copier = Copier { from: &from, writer: &mut writer, exclude: &[], mode: None };
            copier.folder_contents(Path::new(""), Path::new("/out"), Path::new(""))
        };
        copy(&evil).unwrap();
        copy(&plain).unwrap();
        assert!(matches!(copy(&nested), Err(BuildError::Refused(_))));
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(folder.path().join("diff/out/a")).unwrap(), "theirs");
    }
}
