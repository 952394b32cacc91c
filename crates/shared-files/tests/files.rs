//! What a client may do in a network file system, and what a container that means harm cannot make of it.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use dorian_shared_files::{Content, EntryKind, FilesError, SharedFiles};

struct Machine {
    folder: tempfile::TempDir,
    files: SharedFiles,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = SharedFiles::open(folder.path().join("nfs")).unwrap();
        files.ensure("sv-1").unwrap();
        fs::write(folder.path().join("secret"), "hush").unwrap();
        Self { folder, files }
    }

    /// As a container sees it.
    fn inside(&self, path: &str) -> PathBuf {
        self.folder.path().join("nfs/sv-1").join(path)
    }

    fn put(&self, path: &str, text: &str) -> Result<(), FilesError> {
        self.files.put("sv-1", path, Content::Bytes(text.to_owned().into()), None)
    }

    fn get(&self, path: &str) -> Result<String, FilesError> {
        let (mut file, length) = self.files.get("sv-1", path)?;
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        Ok(text)
    }

    fn find(&self, path: &str) -> Result<Vec<String>, FilesError> {
        let mut found = Vec::new();
        self.files.find("sv-1", path, &mut |entry| {
            found.push(format!("{}{}", entry.path, if entry.kind == EntryKind::Folder { "/" } else { "" }));
            true
        })?;
        Ok(found)
    }
}

#[test]
fn a_file_that_is_put_is_there_whole_with_its_folders() {
    let machine = Machine::new();
    machine.put("/a/b/c.txt", "one").unwrap();
    assert_eq!(fs::read_to_string(machine.inside("a/b/c.txt")).unwrap(), "one");
    machine.put("a/b/c.txt", "two").unwrap();
    assert_eq!(machine.get("//a/./b/c.txt").unwrap(), "two");
    assert!(fs::read_dir(machine.folder.path().join("nfs/.incoming")).unwrap().next().is_none());
}

#[test]
fn a_wrong_digest_changes_nothing() {
    let machine = Machine::new();
    machine.put("f", "old").unwrap();
    let put = machine.files.put("sv-1", "f", Content::Bytes("new".into()), Some(&"0".repeat(64)));
    assert!(matches!(put, Err(FilesError::WrongDigest { .. })));
    assert_eq!(machine.get("f").unwrap(), "old");
    assert!(fs::read_dir(machine.folder.path().join("nfs/.incoming")).unwrap().next().is_none());
}

#[test]
fn folders_files_and_patterns_are_listed_each_in_its_way() {
    let machine = Machine::new();
    for path in ["top.txt", "d/x.txt", "d/y.bin", "d/e/z.txt"] {
        machine.put(path, "1").unwrap();
    }
    assert_eq!(machine.find("/").unwrap(), ["d/", "top.txt"]);
    assert_eq!(machine.find("d").unwrap(), ["e/", "x.txt", "y.bin"]);
    assert_eq!(machine.find("/d/x.txt").unwrap(), ["d/x.txt"]);
    assert_eq!(machine.find("**").unwrap(), ["d/", "d/e/", "d/e/z.txt", "d/x.txt", "d/y.bin", "top.txt"]);
    assert_eq!(machine.find("/d/*.txt").unwrap(), ["d/x.txt"]);
    assert_eq!(machine.find("d/**/*.txt").unwrap(), ["d/e/z.txt", "d/x.txt"]);
    assert_eq!(machine.find("nothing/*").unwrap(), Vec::<String>::new());
    assert!(matches!(machine.find("nothing"), Err(FilesError::NotFound(_))));
}

#[test]
fn removing_needs_a_word_more_for_folders() {
    let machine = Machine::new();
    machine.put("d/e/f", "1").unwrap();
    assert!(matches!(machine.files.remove("sv-1", "d", false), Err(FilesError::IsFolder(_))));
    machine.files.remove("sv-1", "d/e/f", false).unwrap();
    assert!(matches!(machine.files.remove("sv-1", "d/e/f", false), Err(FilesError::NotFound(_))));
    machine.put("d/e/f", "1").unwrap();
    machine.files.remove("sv-1", "d", true).unwrap();
    machine.put("g", "1").unwrap();
    machine.files.remove("sv-1", "/", true).unwrap();
    assert!(machine.find("/").unwrap().is_empty());
}

#[test]
fn links_lead_nowhere_outside() {
    let machine = Machine::new();
    let secret = machine.folder.path().join("secret");
    symlink(&secret, machine.inside("absolute")).unwrap();
    symlink("../../secret", machine.inside("relative")).unwrap();
    symlink(machine.folder.path(), machine.inside("folder")).unwrap();
    symlink("/proc/self/root", machine.inside("magic")).unwrap();
    for path in ["absolute", "relative", "folder/secret", "magic/etc/passwd"] {
        assert!(machine.get(path).is_err(), "{path}");
        assert!(machine.files.find("sv-1", path, &mut |_| true).is_err(), "{path}");
    }
    // What is put in place of a link replaces the link; below a link it stays inside.
    machine.put("absolute", "mine").unwrap();
    assert_eq!(machine.get("absolute").unwrap(), "mine");
    let _ = machine.put("folder/secret", "mine");
    machine.files.remove("sv-1", "relative", true).unwrap();
    machine.files.remove("sv-1", "folder", true).unwrap();
    machine.files.remove("sv-1", "/", true).unwrap();
    assert_eq!(fs::read_to_string(secret).unwrap(), "hush");
}

#[test]
fn links_inside_are_followed_as_a_container_would() {
    let machine = Machine::new();
    machine.put("real/f", "1").unwrap();
    symlink("real", machine.inside("link")).unwrap();
    symlink("/real", machine.inside("rooted")).unwrap();
    assert_eq!(machine.get("link/f").unwrap(), "1");
    assert_eq!(machine.get("rooted/f").unwrap(), "1");
    machine.put("link/new/g", "2").unwrap();
    assert_eq!(machine.get("real/new/g").unwrap(), "2");
    machine.files.remove("sv-1", "link", true).unwrap();
    assert_eq!(machine.get("real/f").unwrap(), "1");
    // A walk shows links and does not follow them, so a ring of links is no trap.
    symlink("..", machine.inside("real/up")).unwrap();
    assert_eq!(machine.find("real/**").unwrap(), ["real/f", "real/new/", "real/new/g", "real/up"]);
}

#[test]
fn a_pipe_is_no_file_and_does_not_wait() {
    let machine = Machine::new();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        machine.inside("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert!(matches!(machine.files.get("sv-1", "pipe"), Err(FilesError::NoFile(_))));
}

#[test]
fn nobody_climbs_out_by_dots() {
    let machine = Machine::new();
    assert!(matches!(machine.put("../x", "1"), Err(FilesError::BadPath(_))));
    assert!(matches!(machine.get("/../../secret"), Err(FilesError::BadPath(_))));
    assert!(matches!(machine.files.remove("sv-1", "a/../..", true), Err(FilesError::BadPath(_))));
}

#[test]
fn a_deleted_file_system_is_gone_and_a_half_deleted_one_at_the_next_start() {
    let machine = Machine::new();
    machine.put("f", "1").unwrap();
    machine.files.ensure("sv-2").unwrap();
    machine.files.sweep(|id| id == "sv-1");
    assert!(machine.inside("f").exists() && !machine.folder.path().join("nfs/sv-2").exists());
    machine.files.remove_all("sv-1").unwrap();
    machine.files.remove_all("sv-1").unwrap();
    assert!(!machine.inside("").exists());
}
