//! Names and attributes: what can be changed of them, which is little.

use std::time::Instant;

use super::{Answer, Failure, Handle, Mount};
use crate::keys;
use crate::s3::ListAsk;
use crate::tree::{Facts, Kind};

pub const FILE_MODE: u16 = 0o644;
pub const FOLDER_MODE: u16 = 0o755;

/// Attributes that a program sets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change {
    pub mode: Option<u32>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub size: Option<u64>,
    pub times: bool,
    pub handle: Option<u64>,
}

impl Mount {
    /// A folder exists here until something is in it.
    pub async fn make_folder(&self, parent: u64, name: &str) -> Answer<u64> {
        let path = self.child_of(parent, name)?;
        if self.spec.read_only {
            return Err(libc::EROFS.into());
        }
        match self.facts(&path).await {
            Ok(_) => return Err(libc::EEXIST.into()),
            Err(Failure { errno: libc::ENOENT, .. }) => {}
            Err(failure) => return Err(failure),
        }
        let mut tree = self.tree.lock();
        if !tree.make_folder(&path) {
            let reason = "too many folders of this mount have no file in them".to_owned();
            return Err(Failure { errno: libc::ENOSPC, reason: Some(reason) });
        }
        Ok(tree.nodes.tell(&path, Kind::Folder))
    }

    pub async fn remove_file(&self, parent: u64, name: &str) -> Answer<()> {
        let path = self.child_of(parent, name)?;
        if self.spec.read_only {
            return Err(libc::EROFS.into());
        }
        self.let_it_end(&path).await;
        if self.tree.lock().is_draft(&path) {
            return Err(libc::EBUSY.into());
        }
        self.s3.delete(&keys::object_key(&self.spec.prefix, &path)).await?;
        self.tree.lock().remove(&path, Instant::now());
        Ok(())
    }

    /// Of a folder in the store only its marker can be removed, when there is nothing else in it. One without a marker
    /// went with its last file, but to whoever removes that file and then its folder the folder was there.
    pub async fn remove_folder(&self, parent: u64, name: &str) -> Answer<()> {
        let path = self.child_of(parent, name)?;
        if self.spec.read_only {
            return Err(libc::EROFS.into());
        }
        if !self.tree.lock().only_here(&path).is_empty() {
            return Err(libc::ENOTEMPTY.into());
        }
        let marker = keys::folder_key(&self.spec.prefix, &path);
        let inside = self.s3.list(ListAsk { prefix: &marker, limit: 2, ..Default::default() }).await?;
        match inside.objects.as_slice() {
            [] => {}
            [only] if only.key == marker => self.s3.delete(&marker).await?,
            _ => return Err(libc::ENOTEMPTY.into()),
        }
        self.tree.lock().remove_folder(&path, Instant::now());
        Ok(())
    }

    /// Owners, modes and times are nothing that objects have: setting what is there is no error, anything else is. A
    /// file that is being written takes any time, as if it were the time of its end, and may be emptied while it is.
    pub async fn change(&self, number: u64, change: Change) -> Answer<(String, Facts)> {
        let (path, kind) = self.path_of(number)?;
        let mode = u32::from(if kind == Kind::Folder { FOLDER_MODE } else { FILE_MODE });
        let same = |wanted: Option<u32>, is: u32| wanted.is_none_or(|wanted| wanted == is);
        let keeps_mode = same(change.mode.map(|mode| mode & 0o7777), mode);
        if !keeps_mode || !same(change.user, self.owner) || !same(change.group, self.owner) {
            return Err(libc::EPERM.into());
        }
        let draft = self.tree.lock().draft(&path);
        if change.size.is_some() && change.size != draft.map(|draft| draft.size) {
            return Err(libc::EPERM.into());
        }
        let is_only_here =
            draft.is_some() || self.tree.lock().is_new_folder(&path) || self.is_ended_writer(change.handle);
        if change.times && !is_only_here {
            return Err(libc::EPERM.into());
        }
        let facts = self.facts(&path).await?;
        Ok((path, facts))
    }

    fn is_ended_writer(&self, handle: Option<u64>) -> bool {
        handle.is_some_and(|handle| matches!(self.handle(handle), Ok(Handle::Writer(_))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::testing::Store;
    use crate::tree::{Kind, ROOT};

    #[tokio::test]
    async fn a_tree_is_removed_from_its_leaves_to_its_root() {
        let store = Store::start().await;
        for key in ["a/b/c/1", "a/b/c/2", "a/b/", "other"] {
            store.put(key, b"x");
        }
        let mount = store.mount_with(Duration::from_secs(3600));
        let [a, b, c] = ["a", "a/b", "a/b/c"].map(|path| mount.tree.lock().nodes.tell(path, Kind::Folder));
        assert_eq!(mount.remove_folder(b, "c").await.unwrap_err().errno, libc::ENOTEMPTY);
        for file in ["1", "2"] {
            mount.remove_file(c, file).await.unwrap();
        }
        for (parent, name, path) in [(b, "c", "a/b/c"), (a, "b", "a/b"), (ROOT, "a", "a")] {
            // The kernel may ask whether it is there before it removes it.
            assert_eq!(mount.facts(path).await.unwrap().kind, Kind::Folder, "{path}");
            mount.remove_folder(parent, name).await.unwrap();
            assert_eq!(mount.facts(path).await.unwrap_err().errno, libc::ENOENT, "{path}");
        }
        assert_eq!(store.keys(), ["other"]);
    }

    #[tokio::test]
    async fn a_folder_that_went_with_its_last_file_is_not_told_of_for_long() {
        let store = Store::start().await;
        store.put("a/1", b"x");
        let mount = store.mount_with(Duration::ZERO);
        let a = mount.tree.lock().nodes.tell("a", Kind::Folder);
        mount.remove_file(a, "1").await.unwrap();
        assert_eq!(mount.facts("a").await.unwrap_err().errno, libc::ENOENT);
    }
}
