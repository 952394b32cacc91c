//! Archives that strangers could send.

use super::*;

struct Made {
    folder: tempfile::TempDir,
    archive: tar::Builder<Vec<u8>>,
}

impl Made {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        Self { folder, archive: tar::Builder::new(Vec::new()) }
    }

    fn below(&self, path: &str, text: &str) {
        let path = self.folder.path().join("below").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A file of this owner; the number is written as large numbers are, in base 256.
    fn owned(&mut self, path: &str, id: u64) {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(id);
        header.set_gid(id);
        self.archive.append_data(&mut header, path, io::empty()).unwrap();
    }

    /// As [`Made::owned`], with the number in an extended header before the file, which itself says 0.
    fn owned_by_extension(&mut self, path: &str, id: u64) {
        let text = id.to_string();
        let extensions = [("uid", text.as_bytes()), ("gid", text.as_bytes())];
        self.archive.append_pax_extensions(extensions).unwrap();
        self.owned(path, 0);
    }

    /// With the path as it is: `tar` itself would refuse the dangerous ones.
    fn add(&mut self, kind: EntryType, path: &str, link: &str, mode: u32, text: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.archive.append(&header, text.as_bytes()).unwrap();
    }

    fn file(&mut self, path: &str, text: &str) {
        self.add(EntryType::Regular, path, "", 0o644, text);
    }

    fn dir(&mut self, path: &str) {
        self.add(EntryType::Directory, path, "", 0o755, "");
    }

    fn unpack_within(self, limits: LayerLimits) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let bytes = self.archive.into_inner().unwrap();
        let path = self.folder.path().join("layer.tar");
        fs::write(&path, &bytes).unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        let (diff, below) = (self.folder.path().join("diff"), self.folder.path().join("below"));
        let outcome = unpack(&path, &diff, &[below], &digest, limits, &Stop::default());
        (self.folder, outcome)
    }

    fn unpack(self) -> (tempfile::TempDir, Result<(), UnpackError>) {
        self.unpack_within(LayerLimits::default())
    }
}

/// Owners and whiteouts need root; elsewhere these tests have nothing to say.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.file("a/../../escaped", "x");
    let (folder, outcome) = made.unpack();
    assert!(matches!(outcome, Err(UnpackError::Entry { .. })));
    assert!(!folder.path().join("escaped").exists());
}

#[test]
fn a_link_to_the_outside_leads_nowhere_but_into_the_image() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    let outside = made.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    made.add(EntryType::Symlink, "out", outside.to_str().unwrap(), 0o777, "");
    made.file("out/file", "x");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    assert!(!outside.join("file").exists());
    let inside = folder.path().join("diff").join(outside.strip_prefix("/").unwrap()).join("file");
    assert_eq!(fs::read_to_string(inside).unwrap(), "x");
}

#[test]
fn a_folder_that_becomes_a_link_is_not_remembered_as_a_folder() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.file("a/first", "x");
    made.add(EntryType::Symlink, "a", "/b", 0o777, "");
    made.file("a/second", "y");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("diff/b/second")).unwrap(), "y");
    assert!(folder.path().join("diff/a").is_symlink());
}

#[test]
fn a_file_below_a_link_of_a_lower_layer_lands_where_it_leads() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.below("usr/lib/old", "old");
    symlink("usr/lib", made.folder.path().join("below/lib")).unwrap();
    made.file("lib/new", "new");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("diff/usr/lib/new")).unwrap(), "new");
    assert!(!folder.path().join("diff/lib").exists());
}

#[test]
fn hard_links_stay_inside_and_reach_lower_layers() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.below("etc/low", "low");
    made.file("high", "high");
    made.add(EntryType::Link, "to-high", "high", 0o644, "");
    made.add(EntryType::Link, "to-low", "etc/low", 0o644, "");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    let diff = folder.path().join("diff");
    assert_eq!(fs::read_to_string(diff.join("to-low")).unwrap(), "low");
    assert_eq!(fs::metadata(diff.join("high")).unwrap().ino(), fs::metadata(diff.join("to-high")).unwrap().ino());

    let mut made = Made::new();
    made.add(EntryType::Link, "shadow", "../../../../etc/shadow", 0o644, "");
    assert!(made.unpack().1.is_err());
    let mut made = Made::new();
    made.add(EntryType::Link, "shadow", "/etc/shadow", 0o644, "");
    assert!(made.unpack().1.is_err(), "this machine's file must not be found");
}

#[test]
fn whiteouts_hide_what_is_below_and_only_that() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.below("gone/file", "low");
    made.below("replaced/old", "low");
    made.below("emptied/old", "low");
    made.file(".wh.gone", "");
    made.file(".wh.never-was", "");
    made.file(".wh.replaced", "");
    made.dir("replaced");
    made.file("replaced/new", "new");
    made.dir("emptied");
    made.file("emptied/new", "new");
    made.file("emptied/.wh..wh..opq", "");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    let diff = folder.path().join("diff");
    let stack = LayerStack::new([folder.path().join("below"), diff.clone()]);
    assert_eq!(stack.read("/gone/file").unwrap(), None);
    assert_eq!(stack.read("/replaced/old").unwrap(), None);
    assert_eq!(stack.read("/replaced/new").unwrap().unwrap(), "new");
    assert_eq!(stack.read("/emptied/old").unwrap(), None);
    assert_eq!(stack.read("/emptied/new").unwrap().unwrap(), "new");
    assert!(!diff.join("never-was").exists());
    assert!(
        fs::read_dir(&diff).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with(".wh."))
    );
}

#[test]
fn modes_owners_and_times_are_kept_and_devices_left_out() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.add(EntryType::Regular, "bin/su", "", 0o4755, "x");
    made.add(EntryType::Char, "dev/zero", "", 0o666, "");
    made.add(EntryType::Fifo, "pipe", "", 0o600, "");
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    let meta = fs::metadata(folder.path().join("diff/bin/su")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o4755, 1_000_000));
    assert!(!folder.path().join("diff/dev/zero").exists());
    assert!(folder.path().join("diff/pipe").exists());
}

#[test]
fn owners_may_be_as_large_as_those_of_containers() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    let ids = [100_500, 2_097_152, 1_000_650_000, 2_147_483_647];
    for id in ids {
        made.owned(&format!("{id}"), id);
        made.owned_by_extension(&format!("extended-{id}"), id);
    }
    let (folder, outcome) = made.unpack();
    outcome.unwrap();
    for id in ids {
        for name in [format!("{id}"), format!("extended-{id}")] {
            let meta = fs::metadata(folder.path().join("diff").join(&name)).unwrap();
            assert_eq!((u64::from(meta.uid()), u64::from(meta.gid())), (id, id), "{name}");
        }
    }
}

#[test]
fn an_owner_that_no_container_has_is_refused_with_its_file_and_the_limit() {
    if !is_root() {
        return;
    }
    // The last is what says "leave the owner as it is" to the kernel.
    for id in [2_147_483_648, 4_294_967_294, 4_294_967_295, 1 << 40] {
        let mut made = Made::new();
        made.owned("home/somebody/file", id);
        let refused = made.unpack().1.unwrap_err().to_string();
        for part in ["`home/somebody/file`", &id.to_string(), "2147483647"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}

#[test]
fn an_archive_that_unpacks_to_too_much_is_stopped() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.file("a", &"x".repeat(600));
    made.file("b", &"x".repeat(600));
    let limits = LayerLimits { bytes: 1000, entries: 10 };
    assert!(matches!(made.unpack_within(limits).1, Err(UnpackError::TooLarge { .. })));
}

#[test]
fn a_header_that_does_not_end_is_not_read_into_memory() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.add(EntryType::GNULongName, "././@LongLink", "", 0o644, &"x".repeat(16 << 20));
    made.file("a", "x");
    let error = made.unpack().1.unwrap_err();
    assert!(matches!(error, UnpackError::Archive(_)), "{error:?}");
}

#[test]
fn zeros_without_end_behind_the_last_file_are_not_read() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.file("a", "x");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.gz");
    let mut bomb = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    io::Write::write_all(&mut bomb, &made.archive.into_inner().unwrap()).unwrap();
    (0..80).for_each(|_| io::Write::write_all(&mut bomb, &vec![0; 1 << 20]).unwrap());
    bomb.finish().unwrap();
    let error = unpack(&path, &folder.path().join("diff"), &[], "sha256:00", LayerLimits::default(), &Stop::default())
        .unwrap_err();
    assert!(matches!(error, UnpackError::Archive(_)), "{error:?}");
}

#[test]
fn too_many_files_are_stopped_by_their_number() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    (0..20).for_each(|number| made.file(&format!("{number}"), ""));
    let limits = LayerLimits { bytes: 1 << 30, entries: 10 };
    let error = made.unpack_within(limits).1.unwrap_err();
    let UnpackError::TooLarge { limit, setting } = &error else { panic!("{error}") };
    assert_eq!((limit.as_str(), *setting), ("10 files", "registries.most_layer_files"));
}

#[test]
fn damaged_and_cut_off_compression_is_an_error() {
    if !is_root() {
        return;
    }
    let mut made = Made::new();
    made.file("a", &"some text of some length\n".repeat(5_000));
    let plain = made.archive.into_inner().unwrap();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&plain)));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &plain).unwrap();
    let (gzip, zstd) = (gzip.finish().unwrap(), zstd::encode_all(&plain[..], 3).unwrap());
    let damaged = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 40].fill(0xff);
        bytes
    };
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    for (name, bytes) in [("damaged gzip", damaged(&gzip)), ("cut gzip", cut(&gzip)), ("cut zstd", cut(&zstd))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("layer");
        fs::write(&path, bytes).unwrap();
        let outcome =
            unpack(&path, &folder.path().join("diff"), &[], &digest, LayerLimits::default(), &Stop::default());
        let error = outcome.map(|()| name).unwrap_err();
        assert!(matches!(error, UnpackError::Archive(_) | UnpackError::Entry { .. }), "{name}: {error:?}");
    }
}

#[test]
fn content_with_another_digest_is_refused() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("layer.tar");
    fs::write(&archive, tar::Builder::new(Vec::new()).into_inner().unwrap()).unwrap();
    let outcome =
        unpack(&archive, &folder.path().join("diff"), &[], "sha256:00", LayerLimits::default(), &Stop::default());
    assert!(matches!(outcome, Err(UnpackError::Digest { .. })));
}
