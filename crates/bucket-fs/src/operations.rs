//! What the kernel may ask of the mount, in terms of the store. Each is one system call of a program, answered in bounded
//! time, with an error number when it fails.

mod change;
mod folders;
mod open;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::BucketSpec;
use crate::files::{self, ReadMemory, Reader, WriteError, WriteMemory, Writer};
use crate::keys;
use crate::s3::{ListAsk, S3, S3Error};
use crate::tree::{Facts, Kind, Tree};

pub use change::{Change, FILE_MODE, FOLDER_MODE};
pub use folders::OpenFolder;
pub use open::{Opened, Wanted};

/// Memory of one mount for what is read ahead, and for what is written and not sent yet.
const READ_MEMORY: u64 = 96 << 20;
const WRITE_MEMORY: usize = 192 << 20;
/// Bytes of requests to write that wait for their turn; each thread of a container may have one.
const WAITING_WRITES: usize = 64 << 20;
/// Folders that may be open at once, each with a page of up to a thousand entries (a few hundred kilobytes). One with
/// more names that are only in the mount counts as several.
const MAX_OPEN_FOLDERS: usize = 256;

/// Up to here, a time of validity spares the store a storm of the same questions, and no more.
const SHORT_TTL: Duration = Duration::from_secs(1);

/// Says something to the program's author. May be called from anywhere, and must not wait.
pub type Notice = Arc<dyn Fn(String) + Send + Sync>;

pub struct Mount {
    pub spec: BucketSpec,
    pub owner: u32,
    pub s3: Arc<S3>,
    /// Locked for a few operations, never across an await; so are the handles.
    pub tree: Mutex<Tree>,
    handles: Mutex<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
    /// Files that nobody has open any more, by their path, until the store has them: programs do not wait for that.
    ending: Mutex<HashMap<String, Arc<Writer>>>,
    read_memory: Arc<ReadMemory>,
    write_memory: Arc<WriteMemory>,
    waiting_writes: Arc<Semaphore>,
    open_folders: Arc<Semaphore>,
    /// The container is to be killed: whoever waits gets an error now.
    pub over: CancellationToken,
    /// Requests that are being answered.
    pub running: TaskTracker,
    notice: Notice,
}

#[derive(Clone)]
enum Handle {
    Reader(Arc<Reader>),
    Writer(Arc<Writer>),
    Folder(Arc<tokio::sync::Mutex<OpenFolder>>),
}

/// Why a system call fails: for the program, and for its author where the number alone says too little.
#[derive(Debug)]
pub struct Failure {
    pub errno: i32,
    pub reason: Option<String>,
}

impl From<i32> for Failure {
    fn from(errno: i32) -> Self {
        Self { errno, reason: None }
    }
}

impl From<S3Error> for Failure {
    fn from(error: S3Error) -> Self {
        let errno = error.errno();
        Self { errno, reason: (errno != libc::ENOENT).then(|| error.to_string()) }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self { errno: error.errno(), reason: Some(error.to_string()) }
    }
}

pub type Answer<T> = Result<T, Failure>;

impl Mount {
    pub fn new(spec: BucketSpec, owner: u32, s3: S3, notice: Notice) -> Self {
        let write_memory = WriteMemory::new(WRITE_MEMORY, files::MEMORY_PATIENCE, s3.sent());
        Self {
            owner,
            s3: Arc::new(s3),
            tree: Mutex::new(Tree::new(spec.metadata_ttl)),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            ending: Mutex::default(),
            read_memory: Arc::new(ReadMemory::new(READ_MEMORY)),
            waiting_writes: Arc::new(Semaphore::new(WAITING_WRITES)),
            open_folders: Arc::new(Semaphore::new(MAX_OPEN_FOLDERS)),
            write_memory: Arc::new(write_memory),
            over: CancellationToken::new(),
            running: TaskTracker::new(),
            notice,
            spec,
        }
    }

    /// Tells the program's author what went wrong with which file.
    pub fn say(&self, doing: &str, path: &str, reason: &str) {
        let (bucket, endpoint) = (&self.spec.bucket, self.s3.endpoint());
        (self.notice)(format!("bucket `{bucket}` at {endpoint}: could not {doing} `/{path}`: {reason}"));
    }

    /// How long the kernel may believe the size and time of what is at `path`. A file that is opened is looked at anew, and
    /// the kernel, which cuts reads at the size that it knows, has to ask for what was found.
    pub fn attribute_ttl(&self, path: &str, kind: Kind) -> Duration {
        let is_looked_at = kind == Kind::File && self.spec.metadata_ttl <= SHORT_TTL;
        if is_looked_at { Duration::ZERO } else { self.ttl(path) }
    }

    /// How long the kernel may believe that `path` is there.
    pub fn ttl(&self, path: &str) -> Duration {
        let tree = self.tree.lock();
        if tree.is_draft(path) || tree.is_new_folder(path) { Duration::ZERO } else { self.spec.metadata_ttl }
    }

    pub fn path_of(&self, number: u64) -> Answer<(String, Kind)> {
        let tree = self.tree.lock();
        tree.nodes.path(number).map(|(path, kind)| (path.to_owned(), kind)).ok_or(Failure::from(libc::ESTALE))
    }

    pub fn child_of(&self, parent: u64, name: &str) -> Answer<String> {
        let (folder, _) = self.path_of(parent)?;
        if !keys::is_name(name) {
            return Err(if name.len() > 255 { libc::ENAMETOOLONG } else { libc::EINVAL }.into());
        }
        let path = keys::join(&folder, name);
        if keys::folder_key(&self.spec.prefix, &path).len() > keys::MAX_KEY {
            return Err(libc::ENAMETOOLONG.into());
        }
        Ok(path)
    }

    /// What is at `path`: as remembered, else as the store says.
    pub async fn facts(&self, path: &str) -> Answer<Facts> {
        if let Some(facts) = self.tree.lock().facts(path, Instant::now()) {
            return Ok(facts);
        }
        self.ask_facts(path).await
    }

    /// A folder is where a key lies deeper; it hides an object of its name.
    async fn ask_facts(&self, path: &str) -> Answer<Facts> {
        let (key, folder) = (keys::object_key(&self.spec.prefix, path), keys::folder_key(&self.spec.prefix, path));
        let inside = self.s3.list(ListAsk { prefix: &folder, limit: 1, ..Default::default() });
        let (object, inside) = tokio::join!(self.s3.head(&key), inside);
        let inside = inside?;
        let facts = if !inside.objects.is_empty() {
            Facts::folder()
        } else {
            let object = object?;
            Facts::file(object.size, object.modified, object.etag)
        };
        self.tree.lock().learn(path, facts.clone(), Instant::now());
        Ok(facts)
    }

    fn add_handle(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.handles.lock().insert(number, handle);
        number
    }

    /// Also whether another content of the same file is being read.
    fn add_reader(&self, reader: Reader) -> (u64, bool) {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let mut handles = self.handles.lock();
        let is_other = |handle: &Handle| matches!(handle, Handle::Reader(other) if other.is_other_content(&reader));
        let beside_other = handles.values().any(is_other);
        handles.insert(number, Handle::Reader(Arc::new(reader)));
        (number, beside_other)
    }

    fn handle(&self, number: u64) -> Answer<Handle> {
        self.handles.lock().get(&number).cloned().ok_or(Failure::from(libc::EBADF))
    }

    /// The kernel will ask nothing more: files that were written whole are finished, others given up.
    pub async fn finish(&self) {
        let open: Vec<u64> = self.handles.lock().keys().copied().collect();
        for handle in open {
            if let Some(writer) = self.release(handle) {
                self.end_released(&writer).await;
            }
        }
    }

    /// Tells the program's author of each file that is not in the store, when its end is not waited for any longer.
    pub fn say_what_is_unfinished(&self) {
        let open: Vec<Handle> = self.handles.lock().values().cloned().collect();
        let open =
            open.into_iter().filter_map(|handle| if let Handle::Writer(open) = handle { Some(open) } else { None });
        let ending: Vec<Arc<Writer>> = self.ending.lock().values().cloned().collect();
        for writer in open.chain(ending).filter(|writer| !writer.is_settled()) {
            self.say("write", &writer.path, "the store did not have it whole in time, and may never have it");
        }
    }
}
