//! COPY and WORKDIR: files written straight into a new layer, with an eye on the layers below.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use image_plan::{CopyItem, CopySource, LayerKey};

use crate::builder::{ContextSource, ImageBuilder, StepContext};
use crate::error::BuildError;
use crate::stack::LayerStack;
use crate::steps::run::read;
use crate::store::Workspace;

impl ImageBuilder {
    pub(crate) async fn copy_step(
        &self,
        below: &[LayerKey],
        items: &[CopyItem],
        owner: Option<&str>,
        mode: Option<u32>,
        context: &StepContext,
        workspace: &Workspace,
    ) -> Result<(), BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        let owner = resolve_owner(&stack, owner)?;
        let (items, context, diff) = (items.to_vec(), context.context.clone(), workspace.diff());
        let work = move || {
            let mut writer = LayerWriter::new(&stack, diff, owner)?;
            for item in &items {
                writer.item(item, &context, mode)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(BuildError::Abandoned))
    }

    pub(crate) fn make_folder_step(
        &self,
        below: &[LayerKey],
        path: &str,
        workspace: &Workspace,
    ) -> Result<(), BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        LayerWriter::new(&stack, workspace.diff(), None)?.folder(path).map(drop)
    }

    pub(crate) fn is_folder(&self, below: &[LayerKey], path: &str) -> Result<bool, BuildError> {
        let stack = LayerStack::new(self.layer_paths(below));
        let resolved = stack.resolve(path).map_err(BuildError::io(format!("look at `{path}` in the image")))?;
        Ok(resolved.found.is_some_and(|found| found.meta.is_dir()))
    }
}

/// Writes into a layer as if it were mounted on top of `stack`.
pub(crate) struct LayerWriter<'a> {
    stack: &'a LayerStack,
    diff: PathBuf,
    owner: Option<(u32, u32)>,
    /// Folders that `diff` has already, relative.
    made: HashSet<PathBuf>,
}

impl<'a> LayerWriter<'a> {
    pub fn new(stack: &'a LayerStack, diff: PathBuf, owner: Option<(u32, u32)>) -> Result<Self, BuildError> {
        make_layer_root(&diff)?;
        let mut writer = Self { stack, diff, owner, made: HashSet::new() };
        writer.made.insert(PathBuf::new());
        Ok(writer)
    }

    fn item(&mut self, item: &CopyItem, context: &[ContextSource], mode: Option<u32>) -> Result<(), BuildError> {
        match &item.source {
            CopySource::Folder => self.folder(&item.dest).map(drop),
            CopySource::Inline(text) => {
                let target = self.place(&item.dest, item.name_within_folder.as_deref())?;
                fs::write(&target, text).map_err(BuildError::on("write", &target))?;
                self.finish(&target, mode.unwrap_or(0o644))
            }
            CopySource::Context(index) => {
                let target = self.place(&item.dest, item.name_within_folder.as_deref())?;
                match &context[*index] {
                    ContextSource::Memory(data) => {
                        fs::write(&target, data).map_err(BuildError::on("write", &target))?;
                        self.finish(&target, mode.unwrap_or(0o644))
                    }
                    ContextSource::Disk(source, own) => {
                        fs::copy(source, &target)
                            .map_err(BuildError::on("copy a file of the build context to", &target))?;
                        self.finish(&target, mode.unwrap_or(*own))
                    }
                }
            }
        }
    }

    /// Where a file for `dest` is to be written, its folders made.
    pub fn place(&mut self, dest: &str, name_within_folder: Option<&str>) -> Result<PathBuf, BuildError> {
        let mut dest = dest.to_owned();
        if let Some(name) = name_within_folder
            && self.look(&dest)?.1
        {
            dest = format!("{dest}/{name}");
        }
        let (path, is_folder) = self.look(&dest)?;
        if is_folder {
            return Err(BuildError::Refused(format!("cannot copy a file to `{dest}`: it is a folder in the image")));
        }
        if let Some(parent) = path.parent() {
            self.folder_resolved(parent.to_owned())?;
        }
        Ok(self.diff.join(path))
    }

    /// Makes a folder and those above it; answers its path in the layer.
    pub fn folder(&mut self, path: &str) -> Result<PathBuf, BuildError> {
        let (resolved, _) = self.look(path)?;
        self.folder_resolved(resolved)
    }

    /// The place with links followed, and whether a folder is there.
    fn look(&self, path: &str) -> Result<(PathBuf, bool), BuildError> {
        let resolved = self.stack.resolve(path).map_err(BuildError::io(format!("look at `{path}` in the image")))?;
        let is_folder = self.made.contains(&resolved.path) || resolved.found.is_some_and(|found| found.meta.is_dir());
        Ok((resolved.path, is_folder))
    }

    fn folder_resolved(&mut self, path: PathBuf) -> Result<PathBuf, BuildError> {
        let full = self.diff.join(&path);
        if self.made.contains(&path) {
            return Ok(full);
        }
        if let Some(parent) = path.parent() {
            self.folder_resolved(parent.to_owned())?;
        }
        let below = self.stack.entry(&path).map_err(BuildError::on("look in the image at", &path))?;
        if below.as_ref().is_some_and(|found| !found.meta.is_dir()) || full.is_file() {
            return Err(BuildError::Refused(format!("`/{}` is a file and cannot hold others", path.display())));
        }
        fs::create_dir(&full).map_err(BuildError::on("create", &full))?;
        // A folder that is in the image keeps its owner and mode: the upper layer's are the ones that count.
        let (mode, owner) = match &below {
            Some(found) => (found.meta.mode() & 0o7777, Some((found.meta.uid(), found.meta.gid()))),
            None => (0o755, self.owner),
        };
        self.set(&full, mode, owner)?;
        self.made.insert(path);
        Ok(full)
    }

    pub fn finish(&self, path: &Path, mode: u32) -> Result<(), BuildError> {
        self.set(path, mode & 0o7777, self.owner)
    }

    fn set(&self, path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), BuildError> {
        if let Some((uid, gid)) = owner {
            chown(path, Some(uid), Some(gid)).map_err(BuildError::on("change the owner of", path))?;
        }
        // After the owner: changing it clears the set-user bit.
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(BuildError::on("set the mode of", path))
    }
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
    ids.map(Some).map_err(|what| BuildError::Refused(format!("`--chown={owner}`: the image has no {what}")))
}

/// `user[:group]`, each a name or a number. A name without a group takes the user's own; a number takes the same.
pub(crate) fn owner_ids(owner: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    let (user, group_name) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    let field = |text: &str, name: &str, index: usize| {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(index)?.parse::<u32>().ok()
    };
    let uid = user.parse().ok().or_else(|| field(passwd, user, 2)).ok_or_else(|| format!("user `{user}`"))?;
    let gid = match group_name {
        Some(name) => name.parse().ok().or_else(|| field(group, name, 2)).ok_or_else(|| format!("group `{name}`"))?,
        None => field(passwd, user, 3).unwrap_or(uid),
    };
    Ok((uid, gid))
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
        assert_eq!(owner_ids("nobody", PASSWD, GROUP), Err("user `nobody`".to_owned()));
    }

    #[test]
    fn copying_below_a_link_writes_where_it_leads() {
        let folder = tempfile::tempdir().unwrap();
        let low = folder.path().join("low");
        fs::create_dir_all(low.join("usr/lib")).unwrap();
        fs::set_permissions(low.join("usr"), fs::Permissions::from_mode(0o711)).unwrap();
        std::os::unix::fs::symlink("usr/lib", low.join("lib")).unwrap();
        let stack = LayerStack::new([low]);
        let mut writer = LayerWriter::new(&stack, folder.path().join("diff"), None).unwrap();
        let item = |dest: &str, name: Option<&str>| CopyItem {
            source: CopySource::Inline("text".to_owned()),
            dest: dest.to_owned(),
            name_within_folder: name.map(str::to_owned),
        };
        writer.item(&item("/lib/new/file", None), &[], None).unwrap();
        writer.item(&item("/lib", Some("name")), &[], Some(0o600)).unwrap();
        let diff = folder.path().join("diff");
        assert_eq!(fs::read_to_string(diff.join("usr/lib/new/file")).unwrap(), "text");
        assert_eq!(fs::metadata(diff.join("usr/lib/name")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::metadata(diff.join("usr")).unwrap().mode() & 0o7777, 0o711);
        assert!(!diff.join("lib").exists());
    }
}
