use std::time::SystemTime;

use super::*;
use crate::layer::{Attributes, Source};
use crate::view::Kind;

fn store() -> (tempfile::TempDir, Volumes) {
    // Trusted attributes need a real file system.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let volumes = Volumes::open(folder.path()).unwrap();
    (folder, volumes)
}

fn put(volumes: &Volumes, path: &str) {
    let change = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new(path), Source::Empty, &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", change).unwrap();
}

fn names(volumes: &Volumes) -> Vec<String> {
    let view = volumes.view("vo-1").unwrap();
    let root = view.find(Path::new("")).unwrap().unwrap();
    view.list(&root).unwrap().into_keys().map(|name| name.into_string().unwrap()).collect()
}

/// Looking for a file's writers takes a lease on it, and who opens the file meanwhile has this signal sent to us.
#[test]
fn a_broken_lease_does_not_end_the_server() {
    let (_folder, _volumes) = store();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_ne!(ignored & (1 << (libc::SIGIO - 1)), 0, "{ignored:x}");
}

#[test]
fn a_change_that_fails_leaves_the_volume_and_the_disk_as_they_were() {
    let (folder, volumes) = store();
    put(&volumes, "kept");
    let failed = volumes.change("vo-1", |_, mut layer| {
        layer.file(Path::new("half"), Source::Empty, &Attributes::now())?;
        Err(VolumeError::NotFound("else".into()))
    });
    assert!(matches!(failed, Err(VolumeError::NotFound(_))));
    assert_eq!(names(&volumes), ["kept"]);
    assert_eq!(fs::read_dir(folder.path().join("vo-1/building")).unwrap().count(), 0);
}

#[test]
fn a_layer_without_a_head_that_names_it_was_never_committed() {
    let (folder, volumes) = store();
    put(&volumes, "committed");
    // As after a crash between the two renames of a commit.
    let stray = folder.path().join("vo-1/layers/stray/diff");
    fs::create_dir_all(&stray).unwrap();
    fs::write(stray.join("uncommitted"), b"x").unwrap();
    fs::write(folder.path().join("vo-1/head.next"), b"{\"version\":9").unwrap();
    let reopened = Volumes::open(folder.path()).unwrap();
    assert_eq!(names(&reopened), ["committed"]);
    reopened.sweep(SystemTime::now() + UNUSED_KEPT * 2).unwrap();
    assert!(!stray.exists());
    assert_eq!(names(&reopened), ["committed"]);
}

#[test]
fn a_file_that_was_named_in_a_url_stays_over_a_merge_and_a_restart() {
    let (folder, volumes) = store();
    for name in ["a", "b", "c", "d", "e"] {
        put(&volumes, name);
    }
    let layer = volumes.volume("vo-1").unwrap().state.lock().head.layers[0].name.clone();
    assert!(volumes.merge("vo-1").unwrap());
    let reopened = Volumes::open(folder.path()).unwrap();
    let named = |at: SystemTime| {
        reopened.sweep(at).unwrap();
        reopened.file_of_layer("vo-1", &layer, Path::new("a")).map(|path| path.exists())
    };
    assert_eq!(named(SystemTime::now()), Some(true));
    assert_eq!(named(SystemTime::now() + UNUSED_KEPT * 2), None);
}

#[test]
fn a_reader_goes_on_reading_what_it_began_with() {
    let (folder, volumes) = store();
    for name in ["a", "b", "c", "d", "e"] {
        put(&volumes, name);
    }
    let view = volumes.view("vo-1").unwrap();
    assert!(volumes.merge("vo-1").unwrap());
    volumes
        .change("vo-1", |_, mut layer| {
            layer.remove(Path::new("a"))?;
            layer.finish()
        })
        .unwrap();
    volumes.sweep(SystemTime::now() + UNUSED_KEPT * 2).unwrap();
    assert!(view.find(Path::new("a")).unwrap().is_some());
    assert_eq!(names(&volumes), ["b", "c", "d", "e"]);
    drop(view);
    volumes.sweep(SystemTime::now() + UNUSED_KEPT * 2).unwrap();
    let left = fs::read_dir(folder.path().join("vo-1/layers")).unwrap().count();
    assert_eq!(left, 2, "the merged layer and the removal");
}

#[test]
fn a_deleted_volume_goes_with_its_last_reader() {
    let (folder, volumes) = store();
    put(&volumes, "a");
    let view = volumes.view("vo-1").unwrap();
    volumes.delete("vo-1").unwrap();
    assert_eq!(view.find(Path::new("a")).unwrap().map(|node| node.kind), Some(Kind::File));
    assert!(folder.path().join("vo-1").exists());
    drop(view);
    let is_gone = || !folder.path().join("vo-1").exists();
    while !is_gone() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // A request that was on its way does not bring it back.
    assert!(matches!(volumes.view("vo-1"), Err(VolumeError::Deleted)));
    assert!(volumes.file_of_layer("vo-1", "x", Path::new("a")).is_none());
    assert!(is_gone());
}

#[test]
fn what_was_sent_stays_until_all_of_it_can_have_come() {
    use manifest::content::{ContentId, block_digest};
    let (_folder, volumes) = store();
    let bytes = vec![6; 100_000];
    let digests = [block_digest(&bytes)];
    let id = ContentId::of(100_000, &digests);
    volumes.uploads().missing(100_000, &digests).unwrap();
    volumes.sweep(SystemTime::now() + UNUSED_KEPT * 2).unwrap();
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    volumes.sweep(SystemTime::now() + UNUSED_KEPT * 2).unwrap();
    assert!(volumes.contents().has(&id), "another file of the same client may take hours");
    volumes.sweep(SystemTime::now() + SENT_KEPT * 2).unwrap();
    assert!(!volumes.contents().has(&id));
}

#[test]
fn an_upload_leaves_the_same_bytes_in_their_place_that_came_another_way_meanwhile() {
    use manifest::content::{ContentId, block_digest};
    let (folder, volumes) = store();
    let bytes = vec![8; 100_000];
    let digests = [block_digest(&bytes)];
    let id = ContentId::of(100_000, &digests);
    volumes.uploads().missing(100_000, &digests).unwrap();
    let written = folder.path().join("written");
    fs::write(&written, &bytes).unwrap();
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("large"), Source::Copy(&written), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", write).unwrap();
    assert!(volumes.contents().is_used(&id));
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    volumes.sweep(SystemTime::now() + SENT_KEPT * 2).unwrap();
    assert!(volumes.contents().is_used(&id), "the layer refers to it");
    assert_eq!(fs::read_dir(volumes.contents().incoming()).unwrap().count(), 0);
}

#[test]
fn a_broken_upload_goes_on_with_the_blocks_that_are_missing() {
    use manifest::content::{BLOCK_BYTES, ContentId, block_digest};
    let (_folder, volumes) = store();
    let blocks = [vec![1; BLOCK_BYTES as usize], vec![0; BLOCK_BYTES as usize], vec![3; 10]];
    let digests: Vec<_> = blocks.iter().map(|block| block_digest(block)).collect();
    let size = 2 * BLOCK_BYTES + 10;
    let id = ContentId::of(size, &digests);
    let uploads = volumes.uploads();
    assert_eq!(uploads.missing(size, &digests).unwrap(), [0, 2], "zeros need not be sent");
    put_block(uploads, &id, 0, &blocks[0]).unwrap();
    assert!(matches!(put_block(uploads, &id, 2, b"other"), Err(VolumeError::WrongBlock)));
    assert!(matches!(put_block(uploads, &id, 2, &[1; 11]), Err(VolumeError::WrongBlock)), "too long");
    assert_eq!(uploads.missing(size, &digests).unwrap(), [2]);
    put_block(uploads, &id, 2, &blocks[2]).unwrap();
    put_block(uploads, &id, 2, &blocks[2]).unwrap();
    assert_eq!(uploads.missing(size, &digests).unwrap(), [0_usize; 0]);
    let whole = fs::read(volumes.contents().path(&id)).unwrap();
    assert!(whole == blocks.concat());
}

#[test]
fn nothing_stays_of_a_wrong_block_and_an_older_attempt_writes_no_more() {
    use manifest::content::{ContentId, block_digest};
    let (_folder, volumes) = store();
    let block = [vec![7; 100], vec![0; 100_000]].concat();
    let (digests, size) = ([block_digest(&block)], block.len() as u64);
    let (id, uploads) = (ContentId::of(size, &digests), volumes.uploads());
    uploads.missing(size, &digests).unwrap();
    assert!(matches!(put_block(uploads, &id, 0, &vec![9; block.len()]), Err(VolumeError::WrongBlock)));
    let mut older = uploads.begin_block(&id, 0).unwrap().unwrap();
    put_block(uploads, &id, 0, &block[..100]).unwrap();
    assert!(matches!(older.write(b"late"), Err(VolumeError::WrongBlock)));
    assert!(fs::read(volumes.contents().path(&id)).unwrap() == block);
}

#[test]
fn a_content_that_nothing_refers_to_is_swept_when_it_is_old() {
    use manifest::content::{ContentId, block_digest};
    let (_folder, volumes) = store();
    let bytes = vec![5; 100_000];
    let digests = [block_digest(&bytes)];
    let id = ContentId::of(100_000, &digests);
    volumes.uploads().missing(100_000, &digests).unwrap();
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("large"), Source::Content(&id, 100_000), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", write).unwrap();
    let later = SystemTime::now() + UNUSED_KEPT * 2;
    volumes.sweep(later).unwrap();
    assert!(volumes.contents().has(&id), "a layer refers to it");
    volumes.delete("vo-1").unwrap();
    volumes.sweep(SystemTime::now()).unwrap();
    assert!(volumes.contents().has(&id), "it is not old yet");
    volumes.sweep(later).unwrap();
    assert!(!volumes.contents().has(&id));
}

fn put_block(
    uploads: &crate::uploads::Uploads,
    id: &manifest::content::ContentId,
    index: usize,
    block: &[u8],
) -> Result<(), VolumeError> {
    let Some(mut writer) = uploads.begin_block(id, index)? else { return Ok(()) };
    block.chunks(1000).try_for_each(|piece| writer.write(piece))?;
    uploads.finish_block(writer)
}
