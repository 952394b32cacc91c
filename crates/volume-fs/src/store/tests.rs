use std::time::{Duration, SystemTime};

use manifest::content::{ContentId, block_digest};
use manifest::keeping::{FETCH_PAUSE, LEFT_KEPT, SENT_KEPT};
use manifest::merging::Need;

use super::*;
use crate::fetching::{Fetched, Sending};
use crate::layer::{Attributes, Source};
use crate::uploads::Asker;
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
    reopened.sweep(SystemTime::now(), Need::Usual).unwrap();
    assert!(stray.exists(), "a client may have been told of it by the server before");
    reopened.sweep(SystemTime::now() + LEFT_KEPT, Need::Usual).unwrap();
    assert!(!stray.exists());
    assert_eq!(names(&reopened), ["committed"]);
}

#[test]
fn a_file_that_is_being_fetched_stays_over_a_merge_and_a_restart() {
    let (folder, volumes) = store();
    for name in ["a", "b", "c", "d", "e"] {
        put(&volumes, name);
    }
    let layer = volumes.volume("vo-1").unwrap().state.lock().head.layers[0].name.clone();
    volumes.fetching().note(Fetched::Layer(layer.clone()));
    assert!(volumes.merge("vo-1", Need::Usual).unwrap());
    let is_there = |volumes: &Volumes, at: SystemTime| {
        volumes.sweep(at, Need::Usual).unwrap();
        volumes.file_of_layer("vo-1", &layer, Path::new("a")).map(|path| path.exists())
    };
    assert_eq!(is_there(&volumes, SystemTime::now()), Some(true));
    let reopened = Volumes::open(folder.path()).unwrap();
    reopened.open_all().unwrap();
    assert_eq!(is_there(&reopened, SystemTime::now()), Some(true));
    assert_eq!(is_there(&reopened, SystemTime::now() + LEFT_KEPT), None);
    assert_eq!(is_there(&volumes, SystemTime::now() + FETCH_PAUSE), None);
}

#[test]
fn a_reader_goes_on_reading_what_it_began_with() {
    let (folder, volumes) = store();
    for name in ["a", "b", "c", "d", "e"] {
        put(&volumes, name);
    }
    let view = volumes.view("vo-1").unwrap();
    assert!(volumes.merge("vo-1", Need::Usual).unwrap());
    volumes
        .change("vo-1", |_, mut layer| {
            layer.remove(Path::new("a"))?;
            layer.finish()
        })
        .unwrap();
    volumes.sweep(SystemTime::now(), Need::Space).unwrap();
    assert!(view.find(Path::new("a")).unwrap().is_some());
    assert_eq!(names(&volumes), ["b", "c", "d", "e"]);
    drop(view);
    volumes.sweep(SystemTime::now(), Need::Usual).unwrap();
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
    wait_until(is_gone);
    // A request that was on its way does not bring it back.
    assert!(matches!(volumes.view("vo-1"), Err(VolumeError::Deleted)));
    assert!(volumes.file_of_layer("vo-1", "x", Path::new("a")).is_none());
    assert!(is_gone());
}

#[test]
fn a_deleted_volume_is_not_opened_again_however_long_a_reader_stays() {
    let (_folder, volumes) = store();
    let id = put_big(&volumes, 1);
    let view = volumes.view("vo-1").unwrap();
    put_big(&volumes, 2);
    assert!(volumes.merge("vo-1", Need::Usual).unwrap());
    volumes.delete("vo-1").unwrap();
    let late = SystemTime::now() + SENT_KEPT + Duration::from_secs(1);
    for _ in 0..2 {
        volumes.sweep_all(late, Need::Usual).unwrap();
    }
    volumes.give_back(late).unwrap();
    let node = view.find(Path::new("large")).unwrap().unwrap();
    assert_eq!(node.content().unwrap(), Some(id.clone()));
    assert!(volumes.contents().has(&id), "the reader has it");
    assert!(matches!(volumes.view("vo-1"), Err(VolumeError::Deleted)));
    drop(view);
    wait_until(|| !volumes.inner.root.join("vo-1").exists());
    volumes.sweep_all(late, Need::Usual).unwrap();
    assert!(volumes.inner.deleted.lock().is_empty(), "no request can be on its way any more");
}

#[test]
fn what_was_sent_stays_until_all_of_it_can_have_come() {
    let (_folder, volumes) = store();
    let (bytes, digests, id) = large(6);
    volumes.uploads().missing(LARGE, &digests, ONE).unwrap();
    volumes.sweep_all(SystemTime::now() + SENT_KEPT / 2, Need::Usual).unwrap();
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    volumes.sweep_all(SystemTime::now() + SENT_KEPT / 2, Need::Usual).unwrap();
    assert!(volumes.contents().has(&id), "another file of the same client may take hours");
    volumes.sweep_all(SystemTime::now() + SENT_KEPT, Need::Usual).unwrap();
    assert!(!volumes.contents().has(&id));
}

#[test]
fn an_upload_leaves_the_same_bytes_in_their_place_that_came_another_way_meanwhile() {
    let (folder, volumes) = store();
    let (bytes, digests, id) = large(8);
    volumes.uploads().missing(LARGE, &digests, ONE).unwrap();
    let written = folder.path().join("written");
    fs::write(&written, &bytes).unwrap();
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("large"), Source::Copy(&written), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", write).unwrap();
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    volumes.sweep_all(SystemTime::now() + SENT_KEPT, Need::Space).unwrap();
    assert!(volumes.contents().has(&id), "the layer refers to it");
    assert_eq!(fs::read_dir(volumes.contents().incoming()).unwrap().count(), 0);
}

#[test]
fn a_broken_upload_goes_on_with_the_blocks_that_are_missing() {
    use manifest::content::BLOCK_BYTES;
    let (_folder, volumes) = store();
    let blocks = [vec![1; BLOCK_BYTES as usize], vec![0; BLOCK_BYTES as usize], vec![3; 10]];
    let digests: Vec<_> = blocks.iter().map(|block| block_digest(block)).collect();
    let size = 2 * BLOCK_BYTES + 10;
    let id = ContentId::of(size, &digests);
    let uploads = volumes.uploads();
    assert_eq!(uploads.missing(size, &digests, ONE).unwrap(), [0, 2], "zeros need not be sent");
    put_block(uploads, &id, 0, &blocks[0]).unwrap();
    assert!(matches!(put_block(uploads, &id, 2, b"other"), Err(VolumeError::WrongBlock)));
    assert!(matches!(put_block(uploads, &id, 2, &[1; 11]), Err(VolumeError::WrongBlock)), "too long");
    assert_eq!(uploads.missing(size, &digests, ONE).unwrap(), [2]);
    put_block(uploads, &id, 2, &blocks[2]).unwrap();
    put_block(uploads, &id, 2, &blocks[2]).unwrap();
    assert_eq!(uploads.missing(size, &digests, ONE).unwrap(), [0_usize; 0]);
    let whole = fs::read(volumes.contents().path(&id)).unwrap();
    assert!(whole == blocks.concat());
}

#[test]
fn nothing_stays_of_a_wrong_block_and_an_older_attempt_writes_no_more() {
    let (_folder, volumes) = store();
    let block = [vec![7; 100], vec![0; 100_000]].concat();
    let (digests, size) = ([block_digest(&block)], block.len() as u64);
    let (id, uploads) = (ContentId::of(size, &digests), volumes.uploads());
    uploads.missing(size, &digests, ONE).unwrap();
    assert!(matches!(put_block(uploads, &id, 0, &vec![9; block.len()]), Err(VolumeError::WrongBlock)));
    let mut older = uploads.begin_block(&id, 0).unwrap().unwrap();
    put_block(uploads, &id, 0, &block[..100]).unwrap();
    assert!(matches!(older.write(b"late"), Err(VolumeError::WrongBlock)));
    assert!(fs::read(volumes.contents().path(&id)).unwrap() == block);
}

/// As on a full disk: there is no room for one more name.
#[test]
fn an_upload_that_has_come_and_could_not_be_named_is_named_later() {
    let (_folder, volumes) = store();
    let (bytes, digests, id) = large(4);
    let (uploads, contents) = (volumes.uploads(), volumes.contents().folder());
    uploads.missing(LARGE, &digests, ONE).unwrap();
    fs::remove_dir(contents).unwrap();
    assert!(put_block(uploads, &id, 0, &bytes).is_err());
    assert!(uploads.missing(LARGE, &digests, AGAIN).is_err());
    fs::create_dir(contents).unwrap();
    put_block(uploads, &id, 0, &bytes).unwrap();
    assert!(fs::read(contents.join(id.as_str())).unwrap() == bytes);
    assert_eq!(fs::read_dir(volumes.contents().incoming()).unwrap().count(), 0);
    volumes.give_back(SystemTime::now()).unwrap();
    assert_eq!(uploads.missing(LARGE, &digests, AGAIN).unwrap(), [0_usize; 0]);
}

#[test]
fn what_is_left_of_an_upload_that_was_given_up_names_no_other() {
    let (_folder, volumes) = store();
    let (bytes, digests, id) = large(4);
    let uploads = volumes.uploads();
    uploads.missing(LARGE, &digests, ONE).unwrap();
    let mut slow = uploads.begin_block(&id, 0).unwrap().unwrap();
    slow.write(&bytes).unwrap();
    uploads.sweep(SystemTime::now() + SENT_KEPT, Need::Usual);
    assert_eq!(uploads.missing(LARGE, &digests, OTHER).unwrap(), [0]);
    uploads.finish_block(slow).unwrap();
    assert!(!volumes.contents().has(&id), "nothing was sent of this one");
    put_block(uploads, &id, 0, &bytes).unwrap();
    assert!(fs::read(volumes.contents().path(&id)).unwrap() == bytes);
}

#[test]
fn a_content_goes_with_the_volume_that_had_it() {
    let (_folder, volumes) = store();
    let id = put_large(&volumes, 5);
    volumes.sweep(SystemTime::now(), Need::Space).unwrap();
    assert!(volumes.contents().has(&id), "a layer refers to it");
    volumes.delete("vo-1").unwrap();
    assert!(volumes.sweep(SystemTime::now(), Need::Usual).unwrap() >= LARGE);
    assert!(!volumes.contents().has(&id));
}

#[test]
fn a_file_that_is_replaced_again_and_again_takes_its_own_space_only() {
    let (folder, volumes) = store();
    let others = |_: &View, mut layer: LayerBuilder<'_>| {
        for name in 0..200 {
            layer.file(Path::new(&format!("other-{name}")), Source::Empty, &Attributes::now())?;
        }
        layer.finish()
    };
    volumes.change("vo-1", others).unwrap();
    let mut first = None;
    for byte in 1..=8 {
        let id = put_big(&volumes, byte);
        first.get_or_insert(id);
        volumes.merge("vo-1", Need::Usual).unwrap();
        volumes.sweep(SystemTime::now(), Need::Usual).unwrap();
    }
    assert_eq!(contents_in(&folder), 1);
    assert!(!volumes.contents().has(&first.unwrap()));
}

#[test]
fn a_merge_that_is_asked_for_during_another_is_made() {
    let (folder, volumes) = store();
    std::thread::scope(|scope| {
        for byte in 1..=20 {
            put_big(&volumes, byte);
            scope.spawn(|| volumes.merge("vo-1", Need::Usual).unwrap());
        }
    });
    volumes.sweep(SystemTime::now(), Need::Usual).unwrap();
    assert_eq!(contents_in(&folder), 1);
}

#[test]
fn a_reader_keeps_the_bytes_of_the_version_that_it_began_with() {
    let (folder, volumes) = store();
    let first = put_big(&volumes, 1);
    let view = volumes.view("vo-1").unwrap();
    for byte in 2..=8 {
        put_big(&volumes, byte);
        volumes.give_back(SystemTime::now()).unwrap();
    }
    let node = view.find(Path::new("large")).unwrap().unwrap();
    assert_eq!(node.content().unwrap(), Some(first.clone()));
    assert!(volumes.contents().has(&first));
    assert_eq!(contents_in(&folder), 2, "the newest, and what the reader has");
    drop(view);
    volumes.sweep(SystemTime::now(), Need::Usual).unwrap();
    assert_eq!(contents_in(&folder), 1);
}

#[test]
fn a_fetch_that_goes_on_keeps_its_bytes_until_it_falls_silent() {
    let (_folder, volumes) = store();
    let id = put_big(&volumes, 1);
    volumes.fetching().note(Fetched::Content(id.clone()));
    volumes.delete("vo-1").unwrap();
    volumes.give_back(SystemTime::now()).unwrap();
    assert!(volumes.contents().has(&id));
    volumes.sweep(SystemTime::now() + FETCH_PAUSE, Need::Usual).unwrap();
    assert!(!volumes.contents().has(&id));
}

#[test]
fn what_is_still_being_sent_stays_however_slow_the_line() {
    let (folder, volumes) = store();
    let id = put_big(&volumes, 1);
    let begin = || Sending::begin(volumes.fetching().clone(), Fetched::Content(id.clone()));
    let (quick, slow) = (begin(), begin());
    volumes.delete("vo-1").unwrap();
    drop(quick);
    let late = SystemTime::now() + FETCH_PAUSE;
    volumes.sweep_all(late, Need::Space).unwrap();
    assert!(volumes.contents().has(&id), "one is still being sent");
    drop(slow);
    volumes.give_back(SystemTime::now()).unwrap();
    assert!(volumes.contents().has(&id), "its client comes for more");
    volumes.give_back(late + FETCH_PAUSE).unwrap();
    assert_eq!(contents_in(&folder), 0);
}

#[test]
fn a_client_that_was_told_that_a_file_is_there_finds_it_whatever_is_deleted_meanwhile() {
    let (_folder, volumes) = store();
    let id = put_large(&volumes, 5);
    let (_, digests, _) = large(5);
    assert_eq!(volumes.uploads().missing(LARGE, &digests, ONE).unwrap(), [0_usize; 0]);
    volumes.delete("vo-1").unwrap();
    volumes.give_back(SystemTime::now()).unwrap();
    assert!(volumes.contents().has(&id));
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("again"), Source::Content(&id, LARGE), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-2", write).unwrap();
    volumes.uploads().were_used(ONE.key, [id.clone()]);
    volumes.give_back(SystemTime::now()).unwrap();
    assert!(volumes.contents().has(&id), "a layer refers to it");
    volumes.delete("vo-2").unwrap();
    volumes.sweep(SystemTime::now(), Need::Usual).unwrap();
    assert!(!volumes.contents().has(&id), "nobody waits for it any more");
}

/// The two may put the same, too.
#[test]
fn what_one_client_has_put_stays_for_another_that_was_told_of_it_or_is_sending_it() {
    for other in [OTHER, ONE] {
        for size in [10, LARGE] {
            let (_folder, volumes) = store();
            let (uploads, bytes) = (volumes.uploads(), vec![7; size as usize]);
            let digests = [block_digest(&bytes)];
            let id = ContentId::of(size, &digests);
            let put = |asker: Asker| {
                let write = |_: &View, mut layer: LayerBuilder<'_>| {
                    layer.file(Path::new("file"), Source::Content(&id, size), &Attributes::now())?;
                    layer.finish()
                };
                volumes.change("vo-1", write).unwrap();
                uploads.were_used(asker.key, [id.clone()]);
                volumes.delete("vo-1").unwrap();
                volumes.inner.deleted.lock().clear();
                volumes.give_back(SystemTime::now()).unwrap();
            };
            // Both are told to send it, and one is done before the other begins.
            assert_eq!([ONE, other].map(|asker| uploads.missing(size, &digests, asker).unwrap()), [[0], [0]]);
            put_block(uploads, &id, 0, &bytes).unwrap();
            put(ONE);
            put_block(uploads, &id, 0, &bytes).unwrap();
            assert_eq!(uploads.missing(size, &digests, Asker { again: true, ..other }).unwrap(), [0_usize; 0]);
            // A third one is told that it is there.
            let third = Asker { key: 3, again: false };
            assert_eq!(uploads.missing(size, &digests, third).unwrap(), [0_usize; 0]);
            put(other);
            assert!(volumes.contents().has(&id), "the third one has yet to put it");
            put(third);
            assert!(!volumes.contents().has(&id), "nobody waits for it any more");
        }
    }
}

#[test]
fn a_file_that_has_gone_before_it_was_put_is_asked_for_again() {
    let (_folder, volumes) = store();
    for size in [10, LARGE] {
        let id = ContentId::of(size, &[block_digest(b"gone")]);
        let put = volumes.change("vo-1", |_, mut layer| {
            layer.file(Path::new("file"), Source::Content(&id, size), &Attributes::now())?;
            layer.finish()
        });
        assert!(matches!(put, Err(VolumeError::UnknownBlock)), "{put:?}");
    }
}

/// The steps at which a server can be killed while it gives space back, each as the next one finds the disk.
#[test]
fn a_killed_server_leaves_nothing_for_ever_and_loses_nothing() {
    let (folder, volumes) = store();
    put_big(&volumes, 1);
    let newest = put_big(&volumes, 2);
    // Merged, and killed before the layers and the content that nobody needs went.
    assert!(volumes.merge("vo-1", Need::Usual).unwrap());
    assert_eq!(contents_in(&folder), 2);
    let reopened = Volumes::open(folder.path()).unwrap();
    assert_eq!(reopened.open_all().unwrap(), ["vo-1"]);
    reopened.sweep_all(SystemTime::now() + LEFT_KEPT, Need::Usual).unwrap();
    assert_eq!((contents_in(&folder), layers_in(&folder)), (1, 1));
    // Committed, and killed before anything was merged: `dorian gc` need not wait.
    let newer = put_big(&reopened, 3);
    let reopened = Volumes::open(folder.path()).unwrap();
    reopened.give_back(SystemTime::now()).unwrap();
    assert_eq!((contents_in(&folder), layers_in(&folder)), (1, 1));
    assert!(reopened.contents().has(&newer) && !reopened.contents().has(&newest));
    // A layer's folder is gone, its content not: killed between the two.
    let content = reopened.contents().path(&newer);
    fs::hard_link(&content, folder.path().join("kept")).unwrap();
    reopened.delete("vo-1").unwrap();
    fs::remove_file(folder.path().join("kept")).unwrap();
    let reopened = Volumes::open(folder.path()).unwrap();
    reopened.sweep_all(SystemTime::now() + LEFT_KEPT, Need::Usual).unwrap();
    assert_eq!(contents_in(&folder), 0);
}

/// As `rsync` without `-H` leaves it.
#[test]
fn a_copy_without_hard_links_loses_nothing() {
    let (folder, volumes) = store();
    let id = put_big(&volumes, 1);
    drop(volumes);
    for layer in fs::read_dir(folder.path().join("vo-1/layers")).unwrap() {
        for reference in fs::read_dir(layer.unwrap().path().join("refs")).unwrap() {
            let (path, aside) = (reference.unwrap().path(), folder.path().join("aside"));
            fs::copy(&path, &aside).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
    }
    let copied = Volumes::open(folder.path()).unwrap();
    copied.sweep_all(SystemTime::now() + SENT_KEPT, Need::Space).unwrap();
    assert!(copied.contents().has(&id), "the layer refers to it again");
    copied.delete("vo-1").unwrap();
    copied.give_back(SystemTime::now()).unwrap();
    assert_eq!(contents_in(&folder), 0);
}

/// As a copy leaves it that had been through the contents before a commit came, and keeps links within a volume.
#[test]
fn a_copy_that_has_references_and_not_the_content_loses_nothing() {
    let (folder, volumes) = store();
    let written = folder.path().join("written");
    fs::write(&written, large(1).0).unwrap();
    for volume in ["vo-1", "vo-2"] {
        for name in ["one", "other"] {
            let write = |_: &View, mut layer: LayerBuilder<'_>| {
                layer.file(Path::new(name), Source::Copy(&written), &Attributes::now())?;
                layer.finish()
            };
            volumes.change(volume, write).unwrap();
        }
    }
    let id = large(1).2;
    fs::remove_file(volumes.contents().path(&id)).unwrap();
    // The other volume's are links to each other.
    let references: Vec<PathBuf> = fs::read_dir(folder.path().join("vo-2/layers"))
        .unwrap()
        .map(|layer| layer.unwrap().path().join("refs").join(id.as_str()))
        .collect();
    let aside = folder.path().join("aside");
    fs::copy(&written, &aside).unwrap();
    for reference in &references {
        fs::remove_file(reference).unwrap();
        fs::hard_link(&aside, reference).unwrap();
    }
    fs::remove_file(&aside).unwrap();
    drop(volumes);
    let copied = Volumes::open(folder.path()).unwrap();
    copied.give_back(SystemTime::now()).unwrap();
    assert!(fs::read(copied.contents().path(&id)).unwrap() == large(1).0);
    copied.delete("vo-1").unwrap();
    copied.give_back(SystemTime::now() + SENT_KEPT).unwrap();
    assert!(copied.contents().has(&id), "the other volume refers to it");
    copied.delete("vo-2").unwrap();
    copied.give_back(SystemTime::now()).unwrap();
    assert_eq!(contents_in(&folder), 0);
}

#[test]
fn what_could_go_is_what_gc_gives_back() {
    let (_folder, volumes) = store();
    let given_as_said = || {
        let said = volumes.bytes(&mut trees::usage::Usage::default()).volumes["vo-1"].unused;
        let given = volumes.give_back(SystemTime::now()).unwrap();
        // Layers themselves take up some blocks, and are not counted as given.
        assert!(said.abs_diff(given) < 100_000, "{said} {given}");
        given
    };
    put_big(&volumes, 1);
    let view = volumes.view("vo-1").unwrap();
    let second = put_big(&volumes, 2);
    assert!(volumes.merge("vo-1", Need::Usual).unwrap());
    assert_eq!(given_as_said(), 0, "a reader has it");
    let newer = volumes.view("vo-1").unwrap();
    put_big(&volumes, 3);
    count_hidden(&volumes);
    assert_eq!(given_as_said(), 0, "a reader has what a merge would take away");
    volumes.fetching().note(Fetched::Content(second));
    drop((view, newer));
    assert!((3 << 20..4 << 20).contains(&given_as_said()), "one of them is being fetched");
    put_big(&volumes, 4);
    count_hidden(&volumes);
    let volume = volumes.volume("vo-1").unwrap();
    volume.state.lock().head.layers[0].entries = 1_000_000;
    assert_eq!(given_as_said(), 0, "a merge would cost more than it gives back");
    volume.state.lock().head.layers[0].entries = 1;
    assert!(given_as_said() >= 3 << 20);
    put_big(&volumes, 5);
    count_hidden(&volumes);
    let _view = volumes.view("vo-1").unwrap();
    volumes.delete("vo-1").unwrap();
    assert_eq!(given_as_said(), 0, "it goes with its reader");
}

/// As a merge does before it finds that it is not worth it.
fn count_hidden(volumes: &Volumes) {
    let volume = volumes.volume("vo-1").unwrap();
    let pinned = Volume::layers(&volume).unwrap().pinned;
    volume.count_hidden(&pinned.names).unwrap();
}

/// A head of a server that did not count yet.
#[test]
fn what_an_older_server_has_left_hidden_is_found() {
    let (folder, volumes) = store();
    put_big(&volumes, 1);
    put_big(&volumes, 2);
    let path = folder.path().join("vo-1/head");
    let mut head: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for layer in head["layers"].as_array_mut().unwrap() {
        layer.as_object_mut().unwrap().retain(|name, _| ["name", "entries"].contains(&name.as_str()));
    }
    fs::write(&path, head.to_string()).unwrap();
    let reopened = Volumes::open(folder.path()).unwrap();
    reopened.give_back(SystemTime::now()).unwrap();
    assert_eq!(contents_in(&folder), 1);
}

#[test]
fn commits_and_deletions_at_once_leave_every_file_readable() {
    let (folder, volumes) = store();
    let (bytes, digests, id) = large(9);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                volumes.give_back(SystemTime::now()).unwrap();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        for (key, volume) in ["vo-1", "vo-2"].into_iter().enumerate() {
            let mut asker = Asker { key: key as u64, again: false };
            let (volumes, bytes, digests, id, is_over) = (&volumes, &bytes, &digests, &id, &is_over);
            scope.spawn(move || {
                while asker.again || !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    for block in volumes.uploads().missing(LARGE, digests, asker).unwrap() {
                        let _ = put_block(volumes.uploads(), id, block, bytes);
                    }
                    let put = volumes.change(volume, |_, mut layer| {
                        layer.file(Path::new("large"), Source::Content(id, LARGE), &Attributes::now())?;
                        layer.finish()
                    });
                    // The other one may still be sending it.
                    asker.again = matches!(put, Err(VolumeError::UnknownBlock));
                    if asker.again {
                        continue;
                    }
                    put.unwrap();
                    volumes.uploads().were_used(asker.key, [id.clone()]);
                    let view = volumes.view(volume).unwrap();
                    let node = view.find(Path::new("large")).unwrap().unwrap();
                    let content = node.content().unwrap().unwrap();
                    assert!(volumes.contents().has(&content));
                    volumes
                        .change(volume, |_, mut layer| {
                            layer.remove(Path::new("large"))?;
                            layer.finish()
                        })
                        .unwrap();
                    assert!(volumes.contents().has(&content), "the view still shows it");
                }
            });
        }
    });
    volumes.give_back(SystemTime::now()).unwrap();
    assert_eq!(contents_in(&folder), 0);
}

const LARGE: u64 = 100_000;

/// A client that asks for the first time, and another one.
const ONE: Asker = Asker { key: 1, again: false };
const OTHER: Asker = Asker { key: 2, again: false };
const AGAIN: Asker = Asker { key: 1, again: true };

fn large(byte: u8) -> (Vec<u8>, [manifest::content::BlockDigest; 1], ContentId) {
    let bytes = vec![byte; LARGE as usize];
    let digests = [block_digest(&bytes)];
    let id = ContentId::of(LARGE, &digests);
    (bytes, digests, id)
}

fn put_large(volumes: &Volumes, byte: u8) -> ContentId {
    let (bytes, digests, id) = large(byte);
    volumes.uploads().missing(LARGE, &digests, ONE).unwrap();
    put_block(volumes.uploads(), &id, 0, &bytes).unwrap();
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("large"), Source::Content(&id, LARGE), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", write).unwrap();
    volumes.uploads().were_used(ONE.key, [id.clone()]);
    id
}

/// As a container's commit puts it; large enough for a merge of its own.
fn put_big(volumes: &Volumes, byte: u8) -> ContentId {
    let written = volumes.contents().incoming().join("written");
    fs::write(&written, vec![byte; 3 << 20]).unwrap();
    let write = |_: &View, mut layer: LayerBuilder<'_>| {
        layer.file(Path::new("large"), Source::Copy(&written), &Attributes::now())?;
        layer.finish()
    };
    volumes.change("vo-1", write).unwrap();
    fs::remove_file(written).unwrap();
    let view = volumes.view("vo-1").unwrap();
    view.find(Path::new("large")).unwrap().unwrap().content().unwrap().unwrap()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it does not come about");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn contents_in(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path().join("content")).unwrap().count()
}

fn layers_in(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path().join("vo-1/layers")).unwrap().count()
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
