//! Files written through the mount into a store, and what is in the store when something comes between.

use std::process::{Child, Command};

use super::*;
use crate::testing::Store;
use crate::tree::ROOT;

const MIB: usize = 1 << 20;

fn wanted() -> Wanted {
    Wanted::new(libc::O_WRONLY | libc::O_TRUNC, std::process::id())
}

async fn create(mount: &Mount, name: &str) -> u64 {
    mount.create(ROOT, name, wanted()).await.unwrap().1.handle
}

async fn release(mount: &Mount, handle: u64) {
    if let Some(writer) = mount.release(handle) {
        mount.end_released(&writer).await;
    }
}

/// Closed and released by its only user.
async fn close(mount: &Mount, handle: u64) -> Answer<()> {
    let closed = mount.flush(handle, std::process::id()).await;
    release(mount, handle).await;
    closed
}

/// Bytes that tell where they are.
fn content(from: usize, length: usize) -> Bytes {
    let thousands = from / 1000..(from + length).div_ceil(1000);
    let bytes: Vec<u8> = thousands.flat_map(|number| [number as u8; 1000]).collect();
    Bytes::from(bytes).slice(from % 1000..from % 1000 + length)
}

/// A process that was killed and that nobody has asked about yet, as one is while it closes its files.
fn killed() -> Child {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    child.kill().unwrap();
    let id = rustix::process::Pid::from_child(&child);
    let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(id), ended).unwrap();
    child
}

#[tokio::test]
async fn a_close_that_is_cut_off_publishes_the_whole_file() {
    let store = Store::start().await;
    store.put("f", b"old");
    let mount = store.mount();
    let handle = create(&mount, "f").await;
    mount.write(handle, 0, content(0, 7)).await.unwrap();
    store.shut();
    let closing = tokio::spawn({
        let mount = mount.clone();
        async move { mount.flush(handle, std::process::id()).await }
    });
    store.holds(1).await;
    closing.abort();
    assert!(closing.await.unwrap_err().is_cancelled());
    store.open();
    release(&mount, handle).await;
    assert_eq!(store.get("f").unwrap(), content(0, 7));
}

#[tokio::test]
async fn a_write_that_is_cut_off_loses_no_part_of_the_file() {
    let store = Store::start().await;
    let mount = store.mount();
    let handle = create(&mount, "f").await;
    mount.write(handle, 0, content(0, 7 * MIB)).await.unwrap();
    store.shut();
    let writing = tokio::spawn({
        let mount = mount.clone();
        async move { mount.write(handle, 7 * MIB as u64, content(7 * MIB, 2 * MIB)).await }
    });
    store.holds(1).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    store.open();
    mount.write(handle, 9 * MIB as u64, content(9 * MIB, MIB)).await.unwrap();
    close(&mount, handle).await.unwrap();
    assert!(store.get("f").unwrap() == content(0, 10 * MIB));
    assert_eq!(store.uploads(), 0);
}

#[tokio::test]
async fn what_a_killed_process_was_writing_is_given_up_whoever_opened_it() {
    let store = Store::start().await;
    store.put("f", b"old");
    let mount = store.mount();
    let handle = create(&mount, "f").await;
    // A shell opens the file for its child, and closes its own copy.
    mount.flush(handle, std::process::id()).await.unwrap();
    mount.write(handle, 0, content(0, 9 * MIB)).await.unwrap();
    let mut child = killed();
    assert!(mount.is_closed_by_kill(handle, child.id()));
    child.wait().unwrap();
    release(&mount, handle).await;
    assert_eq!((store.get("f").unwrap().as_ref(), store.uploads()), (&b"old"[..], 0));
    assert!(store.said.lock()[0].contains("killed"), "{:?}", store.said);
    assert!(!mount.tree.lock().is_draft("f"));
}

#[tokio::test]
async fn what_nobody_closed_before_the_mount_was_over_is_given_up_and_the_rest_is_finished() {
    let store = Store::start().await;
    let mount = store.mount();
    let (half, whole, empty) =
        (create(&mount, "half").await, create(&mount, "whole").await, create(&mount, "empty").await);
    mount.write(half, 0, content(0, 9 * MIB)).await.unwrap();
    mount.write(whole, 0, content(0, 7)).await.unwrap();
    // Not by its opener, which would finish it at once.
    mount.flush(whole, 1).await.unwrap();
    mount.flush(empty, std::process::id()).await.unwrap();
    mount.over.cancel();
    for handle in [half, whole, empty] {
        release(&mount, handle).await;
    }
    assert_eq!((store.get("half"), store.uploads()), (None, 0));
    assert_eq!((store.get("whole"), store.get("empty")), (Some(content(0, 7)), Some(Bytes::new())));
}

/// Runs `then` while the store still takes the empty file `f`, which its program has closed and the kernel released.
async fn right_after_an_empty_file<T>(store: &Store, mount: &Arc<Mount>, then: impl Future<Output = T>) -> T {
    let handle = create(mount, "f").await;
    mount.flush(handle, std::process::id()).await.unwrap();
    store.shut();
    let released = mount.release(handle).unwrap();
    let ended = mount.end_released(&released);
    let open = async {
        store.holds(1).await;
        store.open();
    };
    let ((), (), done) = tokio::join!(ended, open, then);
    assert!(mount.ending.lock().is_empty());
    done
}

#[tokio::test]
async fn an_empty_file_can_be_written_removed_and_read_as_soon_as_it_is_closed() {
    let store = Store::start().await;
    let mount = store.mount();
    let written = right_after_an_empty_file(&store, &mount, async {
        let handle = create(&mount, "f").await;
        mount.write(handle, 0, content(0, 7)).await.unwrap();
        close(&mount, handle).await
    });
    written.await.unwrap();
    assert_eq!(store.get("f").unwrap(), content(0, 7));

    right_after_an_empty_file(&store, &mount, mount.remove_file(ROOT, "f")).await.unwrap();
    assert_eq!(store.get("f"), None);

    let number = mount.tree.lock().nodes.tell("f", Kind::File);
    let reads = Wanted::new(libc::O_RDONLY, std::process::id());
    let opened = right_after_an_empty_file(&store, &mount, mount.open(number, reads)).await.unwrap();
    assert_eq!(mount.read(opened.handle, 0, 10).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn what_the_store_does_not_have_in_time_is_told_of() {
    let store = Store::start().await;
    let mount = store.mount();
    let [open, ending, done] =
        [create(&mount, "open").await, create(&mount, "ending").await, create(&mount, "done").await];
    mount.write(done, 0, content(0, 7)).await.unwrap();
    close(&mount, done).await.unwrap();
    store.shut();
    let ended = tokio::spawn({
        let mount = mount.clone();
        async move { release(&mount, ending).await }
    });
    store.holds(1).await;
    mount.say_what_is_unfinished();
    let said = std::mem::take(&mut *store.said.lock());
    let files = [said[0].contains("`/open`"), said[1].contains("`/ending`"), said.len() == 2];
    assert_eq!(files, [true; 3], "{said:?}");
    store.open();
    ended.await.unwrap();
    release(&mount, open).await;
    mount.say_what_is_unfinished();
    assert!(store.said.lock().is_empty(), "{:?}", store.said);
}

#[tokio::test]
async fn a_file_that_somebody_has_open_to_write_is_busy() {
    let store = Store::start().await;
    let mount = store.mount();
    let handle = create(&mount, "f").await;
    mount.flush(handle, std::process::id()).await.unwrap();
    assert_eq!(mount.create(ROOT, "f", wanted()).await.err().unwrap().errno, libc::EBUSY);
    assert_eq!(mount.remove_file(ROOT, "f").await.unwrap_err().errno, libc::EBUSY);
}

#[tokio::test]
async fn a_file_that_lacks_a_write_is_not_published_and_its_close_says_so() {
    let store = Store::start().await;
    let mount = store.mount();
    for before in [0, 7, 9 * MIB] {
        for errno in [libc::EINVAL, libc::ENOMEM] {
            store.put("f", b"old");
            let handle = create(&mount, "f").await;
            if before > 0 {
                mount.write(handle, 0, content(0, before)).await.unwrap();
            }
            let failure = match errno {
                libc::EINVAL => mount.write(handle, 3, content(3, 1)).await.unwrap_err(),
                _ => mount.lose_write(handle, errno.into()).await,
            };
            assert_eq!(failure.errno, errno);
            // Whoever closes it: a child has it from its shell.
            assert_eq!(mount.flush(handle, 1).await.unwrap_err().errno, errno);
            assert_eq!(close(&mount, handle).await.unwrap_err().errno, errno);
            assert_eq!(store.get("f").unwrap(), &b"old"[..]);
        }
    }
    let aborted = async {
        while store.uploads() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), aborted).await.unwrap();
}

#[tokio::test]
async fn writes_that_wait_are_bounded() {
    let mount = Store::start().await.mount();
    let waiting: Vec<_> = std::iter::from_fn(|| mount.place_to_wait(MIB).ok()).collect();
    assert!(!waiting.is_empty());
    assert_eq!(mount.place_to_wait(MIB).unwrap_err().errno, libc::ENOMEM);
    drop(waiting);
    assert!(mount.place_to_wait(MIB).is_ok());
}

#[tokio::test]
async fn two_contents_of_a_file_are_read_side_by_side_without_the_kernels_cache() {
    let store = Store::start().await;
    let mount = store.mount();
    let number = mount.tree.lock().nodes.tell("f", Kind::File);
    let mut how = Vec::new();
    let mut open = async |content: &[u8]| {
        store.put("f", content);
        let opened = mount.open(number, Wanted::new(libc::O_RDONLY, 1)).await.unwrap();
        how.push((opened.direct, opened.keeps_cache));
        opened.handle
    };
    let first = open(b"old").await;
    open(b"old").await;
    let second = open(b"new").await;
    assert_eq!(mount.read(second, 0, 10).await.unwrap(), &b"new"[..]);
    mount.release(first);
    // Another reader of the old content is still there.
    open(b"new").await;
    assert_eq!(how, [(false, false), (false, true), (true, false), (true, false)]);
}
