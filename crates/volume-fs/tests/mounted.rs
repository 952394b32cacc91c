//! Volumes under real overlay mounts: random programs write, commit and reload, and what the kernel shows is compared with
//! what was written and with what the store reads. Needs root; skips itself without.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use dorian_volume_fs as volume_fs;
use manifest::changes::Committed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volume_fs::commit::{Taking, collect};
use volume_fs::{Kind, View, Volumes};

const VOLUME: &str = "vo-1";

/// A container's mount of the volume.
struct Mount {
    folder: PathBuf,
    generation: u32,
    layers: Vec<PathBuf>,
    committed: Committed,
}

impl Mount {
    fn new(volumes: &Volumes, folder: PathBuf) -> Self {
        let mut mount = Self { folder, generation: 0, layers: Vec::new(), committed: Committed::default() };
        mount.show_newest(volumes);
        mount
    }

    fn root(&self) -> PathBuf {
        self.folder.join("mounted")
    }

    fn upper(&self) -> PathBuf {
        self.folder.join(self.generation.to_string())
    }

    fn show_newest(&mut self, volumes: &Volumes) {
        self.unmount();
        self.generation += 1;
        self.layers = volumes.layers(VOLUME).unwrap().folders;
        self.committed = Committed::default();
        let (empty, work, diff) = (self.folder.join("empty"), self.upper().join("work"), self.upper().join("diff"));
        for path in [&self.root(), &empty, &work, &diff] {
            fs::create_dir_all(path).unwrap();
        }
        let mut lower: Vec<String> = self.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        lower.push(empty.display().to_string());
        let options = format!(
            "lowerdir={}::{},upperdir={},workdir={},redirect_dir=on,metacopy=on,index=off",
            lower.join(":"),
            volumes.contents().folder().display(),
            diff.display(),
            work.display()
        );
        let status = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(self.root()).status();
        assert!(status.expect("Debian's package `mount` is installed").success(), "{options}");
    }

    fn commit(&mut self, volumes: &Volumes, taking: Taking) {
        let below = View::of(self.layers.iter().cloned());
        let (layer, committed) = collect(
            volumes.contents(),
            &volumes.building(VOLUME).unwrap(),
            &self.upper().join("diff"),
            &below,
            &self.committed,
            taking,
        )
        .unwrap();
        if let Some(layer) = layer {
            volumes.publish(VOLUME, &layer).unwrap();
        }
        self.committed = committed;
    }

    fn unmount(&self) {
        let _ = Command::new("umount").arg(self.root()).stderr(std::process::Stdio::null()).status();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Everything about a name that a program can rely on.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    kind: &'static str,
    mode: u32,
    /// Length, and a digest.
    bytes: (usize, u64),
    modified_s: i64,
}

fn digest(bytes: &[u8]) -> (usize, u64) {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, bytes);
    (bytes.len(), std::hash::Hasher::finish(&hasher))
}

fn walk(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    walk_into(root, Path::new(""), &mut seen);
    seen
}

fn walk_into(root: &Path, below: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let real = root.join(&path);
        let metadata = fs::symlink_metadata(&real).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let found = if metadata.is_dir() {
            Seen { kind: "folder", mode, bytes: (0, 0), modified_s: 0 }
        } else if metadata.is_symlink() {
            let target = fs::read_link(&real).unwrap();
            Seen { kind: "link", mode: 0, bytes: digest(target.as_os_str().as_encoded_bytes()), modified_s: 0 }
        } else {
            Seen { kind: "file", mode, bytes: digest(&fs::read(&real).unwrap()), modified_s: metadata.mtime() }
        };
        let is_folder = found.kind == "folder";
        seen.insert(path.clone(), found);
        if is_folder {
            walk_into(root, &path, seen);
        }
    }
}

/// The same, as the store reads it.
fn read(volumes: &Volumes) -> BTreeMap<PathBuf, Seen> {
    let view = volumes.view(VOLUME).unwrap();
    let root = view.find(Path::new("")).unwrap().unwrap();
    let mut seen = BTreeMap::new();
    read_into(volumes, &view, Path::new(""), &root, &mut seen);
    seen
}

fn read_into(
    volumes: &Volumes,
    view: &View,
    below: &Path,
    folder: &volume_fs::Node,
    seen: &mut BTreeMap<PathBuf, Seen>,
) {
    for (name, node) in view.list(folder).unwrap() {
        let path = below.join(name);
        let found = match node.kind {
            Kind::Folder => Seen { kind: "folder", mode: node.mode, bytes: (0, 0), modified_s: 0 },
            Kind::Symlink => {
                let target = fs::read_link(node.path()).unwrap();
                Seen { kind: "link", mode: 0, bytes: digest(target.as_os_str().as_encoded_bytes()), modified_s: 0 }
            }
            _ => {
                let content = node.content().unwrap();
                let real = content.map_or_else(|| node.path().to_owned(), |id| volumes.contents().path(&id));
                let modified_s = node.modified_s as i64;
                Seen { kind: "file", mode: node.mode, bytes: digest(&fs::read(real).unwrap()), modified_s }
            }
        };
        seen.insert(path.clone(), found);
        if node.kind == Kind::Folder {
            read_into(volumes, view, &path, &node, seen);
        }
    }
}

/// One thing that a program does. Names are few, so that they meet.
fn act(random: &mut StdRng, root: &Path) {
    let mut name = || {
        let depth = random.random_range(1..4);
        (0..depth).fold(root.to_owned(), |path, _| path.join(["a", "b", "c"][random.random_range(0..3)]))
    };
    let (one, two) = (name(), name());
    let is_folder = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    // What cannot be done is not: the program gets its error as anywhere.
    let _ = match random.random_range(0..14) {
        0..3 => {
            let size = [0, 10, 5000, 70_000, 200_000][random.random_range(0..5)];
            fs::write(&one, vec![random.random_range(b'a'..=b'z'); size])
        }
        3 | 4 => fs::create_dir_all(&one),
        5 => fs::rename(&one, &two),
        6 if is_folder(&one) => fs::rename(&one, &two),
        7 if is_folder(&one) => fs::remove_dir_all(&one),
        7 => fs::remove_file(&one),
        8 => fs::set_permissions(&one, fs::Permissions::from_mode([0o700, 0o755, 0o640][random.random_range(0..3)])),
        9 => symlink("../a", &one),
        10 => fs::hard_link(&one, &two),
        11 if is_folder(&one) => fs::remove_dir_all(&one).and_then(|()| fs::create_dir(&one)),
        12 if is_folder(&one) && is_folder(&two) && !one.starts_with(&two) && !two.starts_with(&one) => {
            fs::remove_dir_all(&two).and_then(|()| fs::rename(&one, &two))
        }
        _ => {
            fs::File::options().append(true).open(&one).and_then(|mut file| std::io::Write::write_all(&mut file, b"+"))
        }
    };
}

/// `DORIAN_TEST_SEED` begins elsewhere.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = std::env::var("DORIAN_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    first..first + count
}

fn is_root() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        eprintln!("skipped: needs root");
    }
    may
}

/// Overlayfs does not write to the file systems on which `/tmp` may be.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn what_a_program_has_written_is_what_it_sees_after_a_commit_and_a_reload() {
    if !is_root() {
        return;
    }
    for seed in seeds(20) {
        let (folder, mut random) = (folder(), StdRng::seed_from_u64(seed));
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let mut mount = Mount::new(&volumes, folder.path().join("one"));
        for round in 0..12 {
            for _ in 0..random.random_range(1..15) {
                act(&mut random, &mount.root());
            }
            if random.random_bool(0.4) {
                mount.commit(&volumes, Taking::All);
                continue;
            }
            let written = walk(&mount.root());
            let taking = if random.random_bool(0.5) { Taking::Final } else { Taking::All };
            if taking == Taking::Final {
                mount.unmount();
            }
            mount.commit(&volumes, taking);
            while random.random_bool(0.7) && volumes.merge(VOLUME, volume_fs::Need::Usual).unwrap() {}
            mount.show_newest(&volumes);
            assert_eq!(walk(&mount.root()), written, "seed {seed}, round {round}: the kernel's view");
            assert_eq!(read(&volumes), written, "seed {seed}, round {round}: the store's view");
        }
    }
}

#[test]
fn two_programs_that_commit_in_turn_leave_one_tree_that_all_read_alike() {
    if !is_root() {
        return;
    }
    for seed in seeds(12) {
        let (folder, mut random) = (folder(), StdRng::seed_from_u64(seed));
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let mut mounts = ["one", "two"].map(|name| Mount::new(&volumes, folder.path().join(name)));
        for round in 0..25 {
            let mount = &mut mounts[random.random_range(0..2)];
            for _ in 0..random.random_range(1..6) {
                act(&mut random, &mount.root());
            }
            mount.commit(&volumes, Taking::All);
            if random.random_bool(0.3) {
                mount.show_newest(&volumes);
                assert_eq!(walk(&mount.root()), read(&volumes), "seed {seed}, round {round}");
            }
        }
        let before = read(&volumes);
        while volumes.merge(VOLUME, volume_fs::Need::Usual).unwrap() {}
        assert_eq!(read(&volumes), before, "seed {seed}: merging changes nothing");
        let reopened = Volumes::open(&folder.path().join("volumes")).unwrap();
        assert_eq!(read(&reopened), before, "seed {seed}: nor does a new start");
    }
}

#[test]
fn files_of_two_programs_in_a_folder_that_both_made_are_both_there() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let mut mounts = ["one", "two"].map(|name| Mount::new(&volumes, folder.path().join(name)));
    for (number, mount) in mounts.iter_mut().enumerate() {
        fs::create_dir_all(mount.root().join("results/deep")).unwrap();
        fs::write(mount.root().join(format!("results/deep/{number}")), b"x").unwrap();
        fs::write(mount.root().join("results/last"), number.to_string()).unwrap();
        mount.commit(&volumes, Taking::All);
    }
    mounts[0].show_newest(&volumes);
    let names: Vec<_> = walk(&mounts[0].root()).into_keys().collect();
    assert_eq!(
        names,
        ["results", "results/deep", "results/deep/0", "results/deep/1", "results/last"].map(PathBuf::from)
    );
    assert_eq!(fs::read(mounts[0].root().join("results/last")).unwrap(), b"1");
}

/// Overlayfs notes the old name of a file that it renames, and goes on noting it when the file gets bytes of its own.
#[test]
fn a_file_whose_old_name_looks_like_a_content_is_none() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    let claimed = "0123456789abcdef0123456789abcdef";
    for path in [claimed, "pending"] {
        fs::create_dir_all(mount.root().join("running")).unwrap();
        fs::create_dir_all(mount.root().join("pending")).unwrap();
        let from = if path == "pending" { mount.root().join(path).join(claimed) } else { mount.root().join(path) };
        fs::write(&from, "a job").unwrap();
        mount.commit(&volumes, Taking::All);
        mount.show_newest(&volumes);
        let to = mount.root().join("running").join(path);
        fs::rename(&from, &to).unwrap();
        fs::write(&to, "a job that runs").unwrap();
        mount.unmount();
        mount.commit(&volumes, Taking::Final);
        mount.show_newest(&volumes);
        assert_eq!(fs::read_to_string(mount.root().join("running").join(path)).unwrap(), "a job that runs");
        assert_eq!(read(&volumes), walk(&mount.root()));
    }
    volumes.merge(VOLUME, volume_fs::Need::Usual).unwrap();
    mount.show_newest(&volumes);
    assert_eq!(read(&volumes), walk(&mount.root()));
}

#[test]
fn what_one_program_has_deleted_long_ago_another_may_write_again() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let [mut deleting, mut writing] = ["one", "two"].map(|name| Mount::new(&volumes, folder.path().join(name)));
    for name in ["f", "g", "d/x"] {
        fs::create_dir_all(writing.root().join("d")).unwrap();
        fs::write(writing.root().join(name), "old").unwrap();
    }
    writing.commit(&volumes, Taking::All);
    deleting.show_newest(&volumes);
    fs::remove_file(deleting.root().join("f")).unwrap();
    fs::remove_file(deleting.root().join("d/x")).unwrap();
    deleting.commit(&volumes, Taking::WithoutOpenFiles);
    writing.show_newest(&volumes);
    fs::write(writing.root().join("f"), "new").unwrap();
    fs::write(writing.root().join("d/x"), "new").unwrap();
    writing.commit(&volumes, Taking::All);
    fs::remove_file(deleting.root().join("g")).unwrap();
    deleting.commit(&volumes, Taking::WithoutOpenFiles);
    let names: Vec<_> = read(&volumes).into_keys().collect();
    assert_eq!(names, ["d", "d/x", "f"].map(PathBuf::from));
}

#[test]
fn names_of_one_file_that_get_rights_of_their_own_keep_them() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    fs::write(mount.root().join("a"), "x").unwrap();
    fs::hard_link(mount.root().join("a"), mount.root().join("b")).unwrap();
    mount.commit(&volumes, Taking::All);
    mount.show_newest(&volumes);
    for (name, mode) in [("a", 0o600), ("b", 0o644)] {
        fs::set_permissions(mount.root().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let wanted = walk(&mount.root());
    mount.commit(&volumes, Taking::All);
    mount.show_newest(&volumes);
    assert_eq!(walk(&mount.root()), wanted);
}

#[test]
fn equal_large_files_are_kept_once_and_a_sparse_one_stays_sparse() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    for name in ["x", "y"] {
        fs::write(mount.root().join(name), vec![7; 3 << 20]).unwrap();
    }
    let sparse = fs::File::create(mount.root().join("sparse")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (10 << 30) - 3).unwrap();
    drop(sparse);
    mount.commit(&volumes, Taking::All);
    let contents: Vec<_> = fs::read_dir(volumes.contents().folder()).unwrap().flatten().collect();
    assert_eq!(contents.len(), 2, "one for x and y, one for the sparse file");
    let blocks: u64 = contents.iter().map(|entry| entry.metadata().unwrap().blocks() * 512).sum();
    assert!(blocks < 5 << 20, "{blocks} bytes on disk");
    mount.show_newest(&volumes);
    let mut end = [0; 3];
    let sparse = fs::File::open(mount.root().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut end, (10 << 30) - 3).unwrap();
    assert_eq!((&end, sparse.metadata().unwrap().len()), (b"end", 10 << 30));
}

/// A file system in memory of its own, unmounted with its owner.
struct OtherDisk(tempfile::TempDir);

impl OtherDisk {
    fn of(bytes: u64) -> Self {
        let disk = Self(folder());
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.0.path()).status();
        assert!(mounted.expect("Debian's package `mount` is installed").success());
        disk
    }
}

impl Drop for OtherDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn volumes_may_have_a_disk_of_their_own() {
    if !is_root() {
        return;
    }
    let (folder, disk) = (folder(), OtherDisk::of(64 << 20));
    let volumes = Volumes::open(&disk.0.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    fs::write(mount.root().join("small"), b"small").unwrap();
    fs::write(mount.root().join("large"), vec![7; 1 << 20]).unwrap();
    let written = walk(&mount.root());
    mount.unmount();
    mount.commit(&volumes, Taking::Final);
    assert_eq!(read(&volumes), written);
}

#[test]
fn a_full_disk_refuses_a_commit_whole_and_the_next_one_takes_all_of_it() {
    if !is_root() {
        return;
    }
    let (folder, disk) = (folder(), OtherDisk::of(8 << 20));
    let volumes = Volumes::open(&disk.0.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    fs::write(mount.root().join("first"), b"first").unwrap();
    mount.commit(&volumes, Taking::All);
    let before = read(&volumes);
    let filler = disk.0.path().join("filler");
    fs::write(&filler, vec![1; 6 << 20]).unwrap();
    fs::write(mount.root().join("first"), b"changed").unwrap();
    fs::write(mount.root().join("large"), vec![7; 4 << 20]).unwrap();
    let below = View::of(mount.layers.iter().cloned());
    let (upper, building) = (mount.upper().join("diff"), volumes.building(VOLUME).unwrap());
    let refused = collect(volumes.contents(), &building, &upper, &below, &mount.committed, Taking::All);
    assert!(matches!(refused, Err(volume_fs::VolumeError::NoSpace(_))), "{refused:?}");
    assert_eq!(read(&volumes), before, "neither of the two files");
    assert_eq!(fs::read_dir(&building).unwrap().count(), 0, "and nothing is left behind");
    fs::remove_file(&filler).unwrap();
    mount.commit(&volumes, Taking::All);
    assert_eq!(read(&volumes), walk(&mount.root()));
}

/// With the stack that the server's threads have for the 2,048 folders which the longest path can name.
#[test]
fn deep_folders_are_committed_merged_renamed_and_removed() {
    if !is_root() {
        return;
    }
    const DEPTH: usize = 500;
    let worked = std::thread::Builder::new().stack_size((16 << 20) * DEPTH / 2_048).spawn(|| {
        let folder = folder();
        let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
        let mut mount = Mount::new(&volumes, folder.path().join("one"));
        let deep: PathBuf = std::iter::repeat_n("d", DEPTH).collect();
        fs::create_dir_all(mount.root().join(&deep)).unwrap();
        for round in 0..5 {
            fs::write(mount.root().join(&deep).join(round.to_string()), b"x").unwrap();
            mount.commit(&volumes, Taking::All);
        }
        while volumes.merge(VOLUME, volume_fs::Need::Usual).unwrap() {}
        mount.show_newest(&volumes);
        assert_eq!(walk(&mount.root()).len(), DEPTH + 5);
        fs::rename(mount.root().join("d"), mount.root().join("e")).unwrap();
        mount.commit(&volumes, Taking::All);
        assert_eq!(read(&volumes), walk(&mount.root()));
        mount.unmount();
        volumes.delete(VOLUME).unwrap();
    });
    worked.unwrap().join().unwrap();
}

#[test]
fn what_is_stored_through_a_mapping_after_a_commit_is_in_the_next() {
    if !is_root() {
        return;
    }
    let folder = folder();
    let volumes = Volumes::open(&folder.path().join("volumes")).unwrap();
    let mut mount = Mount::new(&volumes, folder.path().join("one"));
    for size in [4_096, 1 << 20] {
        let path = mount.root().join(format!("mapped-{size}"));
        fs::write(&path, vec![0_u8; size]).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: a mapping of a file of this size that nobody cuts; unmapped below.
        let bytes = unsafe {
            use rustix::mm::{MapFlags, ProtFlags};
            rustix::mm::mmap(std::ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)
                .unwrap()
        }
        .cast::<u8>();
        for value in 1..4_u8 {
            // SAFETY: within the mapping.
            unsafe { bytes.write_volatile(value) };
            mount.commit(&volumes, Taking::All);
        }
        // SAFETY: the mapping made above, once.
        unsafe { rustix::mm::munmap(bytes.cast(), size).unwrap() };
        mount.show_newest(&volumes);
        assert_eq!(fs::read(&path).unwrap()[0], 3, "{size} bytes");
    }
}
