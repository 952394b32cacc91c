//! Files: opened, read, written, closed.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Failure, Handle, Mount};
use crate::files::{self, Reader, WriteError, Writer};
use crate::keys;
use crate::tree::{Facts, Kind};

/// What a program wants of a file that it opens.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub writes: bool,
    pub reads: bool,
    pub truncates: bool,
    pub thread: u32,
}

impl Wanted {
    pub fn new(flags: i32, thread: u32) -> Self {
        let mode = flags & libc::O_ACCMODE;
        let writes = mode == libc::O_WRONLY || mode == libc::O_RDWR;
        Self { writes, reads: mode != libc::O_WRONLY, truncates: flags & libc::O_TRUNC != 0, thread }
    }
}

pub struct Opened {
    pub handle: u64,
    /// The kernel passes every read and write on as it is.
    pub direct: bool,
    /// What the kernel has of the file is still good.
    pub keeps_cache: bool,
}

impl Mount {
    pub async fn open(&self, number: u64, wanted: Wanted) -> Answer<Opened> {
        let (path, kind) = self.path_of(number)?;
        match (wanted.writes, wanted.truncates) {
            _ if kind == Kind::Folder => Err(libc::EISDIR.into()),
            (true, true) => self.begin_writing(&path, wanted).await,
            (true, false) if !wanted.reads => Err(Failure {
                errno: libc::EPERM,
                reason: Some("files in buckets cannot be appended to or changed, only written anew".to_owned()),
            }),
            // Some libraries open for both and only read.
            _ => self.open_to_read(number, &path).await,
        }
    }

    async fn open_to_read(&self, number: u64, path: &str) -> Answer<Opened> {
        self.let_it_end(path).await;
        let draft = self.tree.lock().draft(path);
        let facts = match draft {
            // It is empty to everybody, as it would be on a disk.
            Some(draft) if draft.size == 0 => Facts::file(0, draft.begun, String::new()),
            Some(_) => return Err(libc::EBUSY.into()),
            None => self.newest_facts(path).await?,
        };
        if facts.kind == Kind::Folder {
            return Err(libc::EISDIR.into());
        }
        let (key, etag) = (keys::object_key(&self.spec.prefix, path), facts.etag.clone());
        let reader = Reader::new(self.s3.clone(), key, facts.etag, facts.size, self.read_memory.clone());
        let (handle, beside_other) = self.add_reader(reader);
        // The kernel keeps one content of a file. While a reader fills that with an older one, this one goes past it.
        let keeps_cache = !beside_other && self.tree.lock().nodes.has_content(number, &etag);
        Ok(Opened { handle, direct: beside_other, keeps_cache })
    }

    /// Who opens a file reads what is there now, unless the mount's user wants otherwise by a long time of validity.
    async fn newest_facts(&self, path: &str) -> Answer<Facts> {
        if self.spec.metadata_ttl > super::SHORT_TTL {
            return self.facts(path).await;
        }
        let object = self.s3.head(&keys::object_key(&self.spec.prefix, path)).await?;
        let facts = Facts::file(object.size, object.modified, object.etag);
        self.tree.lock().learn(path, facts.clone(), Instant::now());
        Ok(facts)
    }

    pub async fn read(&self, handle: u64, offset: u64, size: u32) -> Answer<Bytes> {
        match self.handle(handle)? {
            Handle::Reader(reader) => Ok(reader.read(offset, size).await?),
            // Not there to be read before it is whole.
            _ => Err(libc::EBADF.into()),
        }
    }

    /// Makes a file that was not there; its number is told.
    pub async fn create(&self, parent: u64, name: &str, wanted: Wanted) -> Answer<(u64, Opened)> {
        let path = self.child_of(parent, name)?;
        let opened = self.begin_writing(&path, wanted).await?;
        Ok((self.tree.lock().nodes.tell(&path, Kind::File), opened))
    }

    async fn begin_writing(&self, path: &str, wanted: Wanted) -> Answer<Opened> {
        if self.spec.read_only {
            return Err(libc::EROFS.into());
        }
        self.let_it_end(path).await;
        if !self.tree.lock().begin_draft(path, SystemTime::now()) {
            return Err(libc::EBUSY.into());
        }
        let key = keys::object_key(&self.spec.prefix, path);
        let opener = files::process_of(wanted.thread);
        let writer = Writer::new(self.s3.clone(), key, path.to_owned(), opener, self.write_memory.clone());
        let handle = self.add_handle(Handle::Writer(Arc::new(writer)));
        Ok(Opened { handle, direct: true, keeps_cache: false })
    }

    /// A place for a request to write so many bytes, which are not the mount's to keep yet; none when there are too many.
    pub fn place_to_wait(&self, bytes: usize) -> Answer<OwnedSemaphorePermit> {
        let place = self.waiting_writes.clone().try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        let reason = || Some("too many writes of this mount wait at once".to_owned());
        place.map_err(|_| Failure { errno: libc::ENOMEM, reason: reason() })
    }

    /// A write that got no place is lost, and with it the file: `close` tells that, too.
    pub async fn lose_write(&self, handle: u64, failure: Failure) -> Failure {
        if let Ok(Handle::Writer(writer)) = self.handle(handle) {
            let reason = failure.reason.clone().unwrap_or_default();
            writer.refuse(WriteError::Refused(reason, failure.errno)).await;
        }
        failure
    }

    pub async fn write(&self, handle: u64, offset: u64, data: Bytes) -> Answer<u32> {
        let Handle::Writer(writer) = self.handle(handle)? else { return Err(libc::EPERM.into()) };
        let length = data.len() as u32;
        let size = writer.write(offset, data).await?;
        self.tree.lock().grow_draft(&writer.path, size);
        Ok(length)
    }

    /// A process that is killed closes what it had open, finished or not. Asked before anything else, since a container
    /// that is killed is also what ends the mount.
    pub fn is_closed_by_kill(&self, handle: u64, thread: u32) -> bool {
        let Ok(Handle::Writer(writer)) = self.handle(handle) else { return false };
        let is_killed = files::is_killed(thread);
        if is_killed {
            writer.on_kill();
        }
        is_killed
    }

    /// Some process closes its copy. The file is finished when its opener does so; but a shell opens a file for a program,
    /// and closes its own copy before anything is written. Whoever closes a file that has failed is told.
    pub async fn flush(&self, handle: u64, thread: u32) -> Answer<()> {
        let Handle::Writer(writer) = self.handle(handle)? else { return Ok(()) };
        let process = files::process_of(thread);
        writer.on_close(process);
        let is_done = process == writer.opener && writer.has_content().await;
        if !is_done && !writer.has_ended() {
            return Ok(());
        }
        self.finish_writer(&writer).await
    }

    pub async fn fsync(&self, handle: u64) -> Answer<()> {
        match self.handle(handle)? {
            Handle::Writer(writer) => self.finish_writer(&writer).await,
            _ => Ok(()),
        }
    }

    /// Nobody has the file open any more; what is to be ended now, with [`Self::end_released`]. Told before the next
    /// request is looked at, which may be about the same file.
    pub fn release(&self, handle: u64) -> Option<Arc<Writer>> {
        let Some(Handle::Writer(writer)) = self.handles.lock().remove(&handle) else { return None };
        self.ending.lock().insert(writer.path.clone(), writer.clone());
        Some(writer)
    }

    pub async fn end_released(&self, writer: &Arc<Writer>) {
        self.end_writer(writer).await;
        let mut ending = self.ending.lock();
        // The next file of this path may be ending already.
        if ending.get(&writer.path).is_some_and(|other| Arc::ptr_eq(other, writer)) {
            ending.remove(&writer.path);
        }
    }

    /// Whoever closed the file at `path` has it behind itself: what is asked of the path next is asked of the whole file.
    pub(super) async fn let_it_end(&self, path: &str) {
        let writer = self.ending.lock().get(path).cloned();
        if let Some(writer) = writer {
            // Its failure is told by its release.
            let _ = self.settle_writer(&writer).await;
        }
    }

    pub(super) async fn end_writer(&self, writer: &Arc<Writer>) {
        if let Err(Failure { reason: Some(reason), .. }) = self.settle_writer(writer).await {
            self.say("write", &writer.path, &reason);
        }
    }

    async fn settle_writer(&self, writer: &Arc<Writer>) -> Answer<()> {
        if writer.is_cut_off(self.over.is_cancelled()) {
            writer.give_up("the program that wrote it was killed before it was whole").await;
        }
        self.finish_writer(writer).await
    }

    async fn finish_writer(&self, writer: &Arc<Writer>) -> Answer<()> {
        let ended = writer.finish().await;
        if writer.settle() {
            let mut tree = self.tree.lock();
            match &ended {
                Ok(w) => tree.publish_draft(&writer.path, Facts::file(w.size, w.at, w.etag.clone()), Instant::now()),
                Err(_) => tree.drop_draft(&writer.path),
            }
        }
        Ok(ended.map(drop)?)
    }
}

#[cfg(test)]
mod tests;
