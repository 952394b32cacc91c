//! The kernel's requests, each answered by a task of its own: the thread that reads them never waits, so that one slow
//! file holds up no other.

use std::ffi::OsStr;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::operations::{Answer, Change, Failure, Mount, Opened, Wanted};
use crate::tree::{Facts, Kind};

/// What programs are told to read and write at once.
const BLOCK: u32 = 128 << 10;
/// What the kernel reads ahead on its own; the rest is up to [`crate::files`].
const KERNEL_READ_AHEAD: u32 = 1 << 20;
/// What one request writes at most: many threads may wait to write at once, and each keeps one in memory.
const MAX_WRITE: u32 = 256 << 10;
/// What is said to be free, in blocks: a bucket has no end.
const FREE_BLOCKS: u64 = 1 << 33;

pub struct Serve {
    pub mount: Arc<Mount>,
    pub runtime: tokio::runtime::Handle,
}

impl Serve {
    /// Answers when `work` is done, or when the mount is over.
    fn answer<T, F>(
        &self,
        doing: &'static str,
        path: String,
        work: F,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let mount = self.mount.clone();
        let task = async move {
            let done = tokio::select! {
                biased;
                () = mount.over.cancelled() => Err(Failure::from(libc::EIO)),
                done = work => done,
            };
            reply(done.map_err(|failure| {
                if let Some(reason) = &failure.reason {
                    mount.say(doing, &path, reason);
                }
                Errno::from_i32(failure.errno)
            }));
        };
        self.mount.running.spawn_on(task, &self.runtime);
    }

    fn path(&self, number: INodeNo) -> String {
        self.mount.path_of(number.0).map(|(path, _)| path).unwrap_or_default()
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> String {
        crate::keys::join(&self.path(parent), &name.to_string_lossy())
    }
}

/// Keys are Unicode, and so are the names of files here.
fn text(name: &OsStr) -> Answer<String> {
    name.to_str().map(str::to_owned).ok_or(Failure::from(libc::EILSEQ))
}

fn attributes(mount: &Mount, number: u64, facts: &Facts) -> FileAttr {
    let (kind, perm, nlink) = match facts.kind {
        Kind::Folder => (FileType::Directory, crate::operations::FOLDER_MODE, 2),
        Kind::File => (FileType::RegularFile, crate::operations::FILE_MODE, 1),
    };
    FileAttr {
        ino: INodeNo(number),
        size: facts.size,
        blocks: facts.size.div_ceil(512),
        atime: facts.modified,
        mtime: facts.modified,
        ctime: facts.modified,
        crtime: facts.modified,
        kind,
        perm,
        nlink,
        uid: mount.owner,
        gid: mount.owner,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let direct = if opened.direct { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
    direct | if opened.keeps_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

impl Filesystem for Serve {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A file that is opened to be replaced is one request, and not first an emptied file.
        let _ = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC | InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_readahead(KERNEL_READ_AHEAD);
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (mount, name, path) = (self.mount.clone(), text(name), self.child(parent, name));
        let work = async move {
            let path = name.and_then(|name| mount.child_of(parent.0, &name));
            // No such name can exist.
            let path = path.map_err(|failure| match failure.errno {
                libc::EILSEQ | libc::EINVAL => Failure::from(libc::ENOENT),
                _ => failure,
            })?;
            let facts = mount.facts(&path).await?;
            let number = mount.tree.lock().nodes.tell(&path, facts.kind);
            let ttls = (mount.attribute_ttl(&path, facts.kind), mount.ttl(&path));
            Ok((ttls, attributes(&mount, number, &facts)))
        };
        self.answer("look up", path, work, |done| match done {
            Ok(((attribute, entry), attributes)) => {
                reply.entry_with_ttls(&attribute, &entry, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        self.mount.tree.lock().nodes.forget(number.0, times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let mount = self.mount.clone();
        let work = async move {
            let (path, kind) = mount.path_of(number.0)?;
            let facts = mount.facts(&path).await?;
            if facts.kind != kind {
                return Err(libc::ESTALE.into());
            }
            Ok((mount.attribute_ttl(&path, facts.kind), attributes(&mount, number.0, &facts)))
        };
        self.answer("look at", self.path(number), work, |done| answer_attributes(done, reply));
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        user: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = accessed.is_some() || modified.is_some();
        let change = Change { mode, user, group, size, times, handle: handle.map(|handle| handle.0) };
        let mount = self.mount.clone();
        let work = async move {
            let (path, facts) = mount.change(number.0, change).await?;
            Ok((mount.attribute_ttl(&path, facts.kind), attributes(&mount, number.0, &facts)))
        };
        self.answer("change", self.path(number), work, |done| answer_attributes(done, reply));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let (mount, name, path) = (self.mount.clone(), text(name), self.child(parent, name));
        let work = async move {
            let number = mount.make_folder(parent.0, &name?).await?;
            Ok(attributes(&mount, number, &Facts::folder()))
        };
        self.answer("make", path, work, |done| match done {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (mount, name, path) = (self.mount.clone(), text(name), self.child(parent, name));
        let work = async move { mount.remove_file(parent.0, &name?).await };
        self.answer("remove", path, work, |done| answer_empty(done, reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (mount, name, path) = (self.mount.clone(), text(name), self.child(parent, name));
        let work = async move { mount.remove_folder(parent.0, &name?).await };
        self.answer("remove", path, work, |done| answer_empty(done, reply));
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOTSUP);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (mount, wanted) = (self.mount.clone(), Wanted::new(flags.0, request.pid()));
        let work = async move { mount.open(number.0, wanted).await };
        self.answer("open", self.path(number), work, |done| match done {
            Ok(opened) => reply.opened(FileHandle(opened.handle), open_flags(&opened)),
            Err(errno) => reply.error(errno),
        });
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let (mount, name, path) = (self.mount.clone(), text(name), self.child(parent, name));
        let wanted = Wanted::new(flags, request.pid());
        let work = async move {
            let (number, opened) = mount.create(parent.0, &name?, wanted).await?;
            let facts = Facts::file(0, SystemTime::now(), String::new());
            Ok((attributes(&mount, number, &facts), opened))
        };
        self.answer("make", path, work, |done| match done {
            Ok((attributes, opened)) => {
                let handle = FileHandle(opened.handle);
                reply.created(&Duration::ZERO, &attributes, Generation(0), handle, open_flags(&opened));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mount = self.mount.clone();
        let work = async move { mount.read(handle.0, offset, size).await };
        self.answer("read", self.path(number), work, |done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (mount, place) = (self.mount.clone(), self.mount.place_to_wait(data.len()));
        let data = if place.is_ok() { Bytes::copy_from_slice(data) } else { Bytes::new() };
        let work = async move {
            let _place = match place {
                Ok(place) => place,
                Err(failure) => return Err(mount.lose_write(handle.0, failure).await),
            };
            mount.write(handle.0, offset, data).await
        };
        self.answer("write", self.path(number), work, |done| match done {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, request: &Request, number: INodeNo, handle: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let (mount, thread) = (self.mount.clone(), request.pid());
        if mount.is_closed_by_kill(handle.0, thread) {
            return reply.ok();
        }
        let work = async move { mount.flush(handle.0, thread).await };
        self.answer("write", self.path(number), work, |done| answer_empty(done, reply));
    }

    fn fsync(&self, _: &Request, number: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let mount = self.mount.clone();
        let work = async move { mount.fsync(handle.0).await };
        self.answer("write", self.path(number), work, |done| answer_empty(done, reply));
    }

    /// Also when the mount is over: what was written whole is finished.
    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let (mount, released) = (self.mount.clone(), self.mount.release(handle.0));
        let task = async move {
            if let Some(writer) = released {
                mount.end_released(&writer).await;
            }
            reply.ok();
        };
        self.mount.running.spawn_on(task, &self.runtime);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.mount.open_folder(number.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(failure) => reply.error(Errno::from_i32(failure.errno)),
        }
    }

    /// Positions: 0 is `.`, 1 is `..`, and then the folder's entries.
    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mount = self.mount.clone();
        let path = self.path(number);
        let work = async move {
            let folder = mount.folder_of(handle.0)?;
            let mut folder = folder.lock().await;
            let mut at = offset;
            for name in [".", ".."].iter().skip(offset.min(2) as usize) {
                at += 1;
                let _ = reply.add(number, at, FileType::Directory, name);
            }
            let entries = match mount.entries(&mut folder, at - 2).await {
                Ok(entries) => entries,
                Err(failure) => {
                    let errno = Errno::from_i32(failure.errno);
                    return Ok((reply, Some((errno, failure.reason))));
                }
            };
            for (name, kind, number) in entries {
                at += 1;
                let kind = if kind == Kind::Folder { FileType::Directory } else { FileType::RegularFile };
                if reply.add(INodeNo(number), at, kind, &name) {
                    break;
                }
            }
            Ok((reply, None))
        };
        let (mount, said_of) = (self.mount.clone(), path.clone());
        self.answer("list", path, work, move |done: Result<(ReplyDirectory, _), Errno>| match done {
            Ok((reply, None)) => reply.ok(),
            Ok((reply, Some((errno, reason)))) => {
                if let Some(reason) = reason {
                    mount.say("list", &said_of, &reason);
                }
                reply.error(errno);
            }
            // A reply that was dropped is answered with EIO by the library.
            Err(_) => {}
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.mount.release_folder(handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, FREE_BLOCKS, BLOCK, 255, BLOCK);
    }
}

fn answer_attributes(done: Result<(Duration, FileAttr), Errno>, reply: ReplyAttr) {
    match done {
        Ok((ttl, attributes)) => reply.attr(&ttl, &attributes),
        Err(errno) => reply.error(errno),
    }
}

fn answer_empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}
