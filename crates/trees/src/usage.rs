//! How much of the disk folders take up.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What was measured so far. A file with several names counts once, under whichever was seen first.
#[derive(Debug, Default)]
pub struct Usage {
    linked: HashSet<(u64, u64)>,
}

impl Usage {
    /// Bytes on disk of what is below, without what was counted before, other file systems, and what vanishes meanwhile.
    pub fn of(&mut self, path: &Path) -> u64 {
        let Ok(root) = fs::symlink_metadata(path) else { return 0 };
        let mut bytes = self.of_file(&root);
        let mut folders: Vec<PathBuf> = if root.is_dir() { vec![path.to_owned()] } else { Vec::new() };
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.dev() != root.dev() {
                    continue;
                }
                bytes += self.of_file(&metadata);
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        bytes
    }

    /// Bytes of one file; none if it was counted before.
    pub fn of_file(&mut self, metadata: &Metadata) -> u64 {
        let has_names = !metadata.is_dir() && metadata.nlink() > 1;
        if has_names && !self.linked.insert((metadata.dev(), metadata.ino())) {
            return 0;
        }
        metadata.blocks() * 512
    }
}

/// Free bytes of the file system that `path` is on, and all its bytes; nothing where it does not say.
pub fn disk_room(path: &Path) -> (u64, u64) {
    let bytes = |disk: rustix::fs::StatVfs| {
        (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize))
    };
    rustix::fs::statvfs(path).map(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        for place in [&one, &two] {
            fs::create_dir(place).unwrap();
        }
        fs::write(one.join("file"), vec![1; 100_000]).unwrap();
        fs::hard_link(one.join("file"), two.join("same")).unwrap();
        std::os::unix::fs::symlink(&one, two.join("link")).unwrap();
        let mut usage = Usage::default();
        assert!(usage.of(&one) >= 100_000);
        assert!(usage.of(&two) < 100_000);
        assert_eq!(Usage::default().of(&folder.path().join("nothing")), 0);
    }
}
