//! The store as its users see it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use calls::{FinishedOutput, InputReport, OutputPage, PageRequest};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;
use types::ids::{AppId, BlobId, DefinitionId, FunctionCallId, FunctionId, MountId};

use crate::error::{RowError, StoreError};
use crate::queue::{Job, Queue};
use crate::records::{
    CallRecord, DefinitionRecord, DeploymentRecord, Expired, LoadedState, StoredCall, VariantRecord, Write,
};
use crate::writer::Writer;
use crate::{rows, schema};

/// Reading connections that are kept when idle; more are opened when more are needed at once.
const IDLE_READERS: usize = 4;

/// Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct MetadataStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    queue: Queue,
    readers: Mutex<Vec<Connection>>,
    #[cfg(feature = "simulation")]
    simulated: Option<crate::simulated::SimulatedDisk>,
}

/// The names of volumes and other objects, by id, from a database that no server uses; nothing is written to it.
pub fn names_of_objects(path: &Path) -> Result<HashMap<String, String>, StoreError> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let failed = |source| StoreError::Database { doing: "read names", path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    // A server may be starting.
    connection.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    let mut query = connection.prepare("SELECT id, name FROM objects WHERE name IS NOT NULL").map_err(failed)?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failed)
}

impl MetadataStore {
    /// Opens or creates the database file and starts its writer thread. The folder must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
        let connection = schema::open_and_migrate(path, now_ms)?;
        let (queue, jobs) = Queue::new();
        let writer = Writer::new(connection, path.to_owned());
        thread::Builder::new().name("metadata-writer".to_owned()).spawn(move || writer.run(&jobs)).map_err(
            |error| {
                let source = rusqlite::Error::ToSqlConversionFailure(Box::new(error));
                StoreError::Database { doing: "start the writer thread", path: path.to_owned(), source }
            },
        )?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                queue,
                readers: Mutex::new(Vec::new()),
                #[cfg(feature = "simulation")]
                simulated: None,
            }),
        })
    }

    /// A store on a disk that outlives it. To be called on the runtime whose time the disk takes.
    #[cfg(feature = "simulation")]
    pub fn simulated(disk: &crate::simulated::SimulatedDisk) -> Self {
        let (queue, jobs) = Queue::simulated();
        tokio::spawn(disk.clone().run(jobs));
        let (path, readers) = (PathBuf::from("simulated"), Mutex::default());
        Self { inner: Arc::new(Inner { path, queue, readers, simulated: Some(disk.clone()) }) }
    }

    /// Stores all of these or none; when it returns they are on disk. Dropping the future does not take them back.
    pub async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        self.inner.queue.send(writes, answer).await?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Stores these soon, after everything that was handed over before. Errors are logged. Waits on the calling thread
    /// when tens of megabytes wait for the disk already.
    pub fn write_later(&self, writes: Vec<Write>) {
        if let Err(error) = self.inner.queue.send_unanswered(writes) {
            tracing::error!(error = %error, "a record was not stored");
        }
    }

    /// What a starting server needs: all records, and the calls that are not finished.
    pub async fn load(&self) -> Result<LoadedState, StoreError> {
        self.read("load the records", rows::load).await
    }

    /// A durable call, finished or not.
    pub async fn call(&self, id: &FunctionCallId) -> Result<Option<StoredCall>, StoreError> {
        let id = id.clone();
        self.read("look up a function call", move |connection| rows::call(connection, &id)).await
    }

    /// A stored variant of a function.
    pub async fn variant(&self, id: &FunctionId) -> Result<Option<VariantRecord>, StoreError> {
        let id = id.clone();
        self.read("look up a variant", move |connection| rows::variant(connection, &id)).await
    }

    /// The durable calls of an app, oldest first.
    pub async fn calls_of_app(&self, app: &AppId) -> Result<Vec<CallRecord>, StoreError> {
        let app = app.clone();
        self.read("list the calls of an app", move |connection| rows::calls_of_app(connection, &app)).await
    }

    /// Inputs of durable calls to a function that were made in a time (milliseconds, both ends included): at most
    /// `limit` finished and as many open ones, of the newest calls.
    pub async fn report(
        &self,
        (app, function): (&AppId, &FunctionId),
        times_ms: (u64, u64),
        limit: usize,
    ) -> Result<Vec<InputReport>, StoreError> {
        let (app, function) = (app.clone(), function.clone());
        self.read("list the calls of a function", move |connection| {
            rows::report(connection, (&app, &function), times_ms, limit)
        })
        .await
    }

    /// The versions of an app, oldest first.
    pub async fn deployments(&self, app: &AppId) -> Result<Vec<DeploymentRecord>, StoreError> {
        let app = app.clone();
        self.read("list the versions of an app", move |connection| rows::deployments(connection, &app)).await
    }

    pub async fn definition(&self, id: &DefinitionId) -> Result<Option<DefinitionRecord>, StoreError> {
        let id = id.clone();
        self.read("read a definition", move |connection| rows::definition(connection, &id)).await
    }

    /// The definitions of an app's functions that some version names, or that are new.
    pub async fn definitions(&self, app: &AppId) -> Result<Vec<DefinitionRecord>, StoreError> {
        let app = app.clone();
        self.read("read the definitions of an app", move |connection| rows::definitions(connection, &app)).await
    }

    /// A page of a durable call's outputs; `None` when there is no such call. With a range the cursor counts what is in it.
    pub async fn page(&self, call: &FunctionCallId, request: PageRequest) -> Result<Option<OutputPage>, StoreError> {
        let call = call.clone();
        self.read("read a page of outputs", move |connection| rows::page(connection, &call, request)).await
    }

    /// Outputs of a finished call from a cursor on, for a call too large to hold.
    pub async fn outputs(
        &self,
        call: &FunctionCallId,
        after: usize,
        limit: usize,
    ) -> Result<Vec<FinishedOutput>, StoreError> {
        let call = call.clone();
        self.read("read outputs", move |connection| rows::outputs(connection, &call, after, limit)).await
    }

    /// Every blob that a stored input or output names. A blob store may delete the others once they are old.
    pub async fn blobs_in_use(&self) -> Result<Vec<BlobId>, StoreError> {
        self.read("list the blobs in use", rows::blobs_in_use).await
    }

    /// Every mount that a stored definition names, live or not. Reads all of them.
    pub async fn mounts_in_use(&self) -> Result<HashSet<MountId>, StoreError> {
        self.read("list the mounts in use", rows::mounts_in_use).await
    }

    /// Deletes calls that wait for nothing and whose last news is older than `before_ms`. Takes many small
    /// transactions, between which other writes get their turn.
    pub async fn expire_calls(&self, before_ms: u64) -> Result<Expired, StoreError> {
        let mut all = Expired::default();
        loop {
            let (answer, answered) = oneshot::channel();
            self.inner.queue.send_job(Job::Expire { before_ms, answer })?;
            let some = answered.await.unwrap_or(Err(StoreError::Closed))?;
            if some.calls == 0 {
                return Ok(all);
            }
            all.calls += some.calls;
            all.blobs.extend(some.blobs);
        }
    }

    /// Stores everything that was handed over, and closes the database. Later writes are refused.
    pub async fn close(&self) -> Result<(), StoreError> {
        // Readers first: the log can only be cut when nobody reads it.
        self.inner.readers.lock().clear();
        let (answer, answered) = oneshot::channel();
        self.inner.queue.send_job(Job::Close(answer))?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, RowError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        #[cfg(feature = "simulation")]
        if let Some(disk) = &inner.simulated {
            return disk.read(query).await.map_err(|error| error.at(doing, &inner.path));
        }
        let read = tokio::task::spawn_blocking(move || {
            let result = inner.with_reader(query);
            result.map_err(|error| error.at(doing, &inner.path))
        });
        // The closure neither panics nor is aborted, unless the runtime itself is going down.
        read.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Inner {
    fn with_reader<T>(&self, query: impl FnOnce(&Connection) -> Result<T, RowError>) -> Result<T, RowError> {
        let idle = self.readers.lock().pop();
        let mut reader = match idle {
            Some(reader) => reader,
            None => self.open_reader()?,
        };
        // One transaction: what a query reads in several statements is of one moment.
        let transaction = reader.transaction()?;
        let result = query(&transaction);
        drop(transaction);
        let mut readers = self.readers.lock();
        if readers.len() < IDLE_READERS {
            readers.push(reader);
        }
        result
    }

    fn open_reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        reader.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(reader)
    }
}
