//! What a task's container sees besides its image: buckets and shared folders.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bucket_fs::{BucketError, BucketSpec, MountOptions, Mounted, Notice};
use container_runtime::Bind;
use futures::future::try_join_all;
use parking_lot::Mutex;
use types::ids::TaskId;
use worker_protocol::{BucketMount, Descriptor, SharedFolder, TaskSpec, WorkerEvent};

use crate::{Worker, WorkerConfig};

/// The same failure is told once in this time: a program that tries again and again fills no log.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Different failures that are remembered for that.
const TOLD_KEPT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("could not make the place `{0}` for a mount")]
    Place(PathBuf, #[source] std::io::Error),
    #[error("`{0}` could not be mounted")]
    Bucket(String, #[source] BucketError),
    #[error("network file system `{0}` does not exist (any more)")]
    SharedFolder(String),
}

/// Takes away what a killed worker left mounted.
pub fn prepare(config: &WorkerConfig) -> std::io::Result<()> {
    std::fs::create_dir_all(&config.mounts)?;
    std::fs::set_permissions(&config.mounts, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    bucket_fs::sweep(&config.mounts.canonicalize()?)
}

/// The buckets of one task.
pub struct Mounts {
    /// Removed when they are not mounted any more.
    folder: PathBuf,
    buckets: Vec<Mounted>,
    pub binds: Vec<Bind>,
}

impl Mounts {
    /// Mounts everything that the task wants, all at once.
    pub async fn make(worker: &Arc<Worker>, spec: &TaskSpec) -> Result<Self, MountError> {
        let folder = worker.config.mounts.join(spec.task.as_str());
        let mut binds = shared_folders(&worker.config, &spec.shared_folders)?;
        let making = spec.buckets.iter().enumerate().map(|(index, bucket)| {
            let place = folder.join(index.to_string());
            mount(worker, &spec.task, bucket, place)
        });
        let buckets = try_join_all(making).await?;
        binds.extend(spec.buckets.iter().zip(&buckets).map(|(wanted, made)| Bind {
            source: made.place().to_owned(),
            target: wanted.mount_path.clone(),
            read_only: wanted.read_only,
        }));
        Ok(Self { folder, buckets, binds })
    }

    /// Processes that wait for a store can be killed now.
    pub fn interrupt(&self) {
        self.buckets.iter().for_each(Mounted::interrupt);
    }

    /// After the container's end.
    pub async fn end(mut self) {
        let buckets = std::mem::take(&mut self.buckets);
        futures::future::join_all(buckets.into_iter().map(Mounted::unmount)).await;
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.buckets.clear();
        // Only when it is empty: a place that is still mounted must not be touched.
        let _ = std::fs::remove_dir(&self.folder);
    }
}

fn shared_folders(config: &WorkerConfig, wanted: &[SharedFolder]) -> Result<Vec<Bind>, MountError> {
    let bind = |shared: &SharedFolder| {
        let source = config.shared_folders.join(shared.shared_volume.as_str());
        match source.is_dir() {
            true => Ok(Bind { source, target: shared.mount_path.clone(), read_only: false }),
            false => Err(MountError::SharedFolder(shared.shared_volume.to_string())),
        }
    };
    wanted.iter().map(bind).collect()
}

async fn mount(
    worker: &Arc<Worker>,
    task: &TaskId,
    bucket: &BucketMount,
    place: PathBuf,
) -> Result<Mounted, MountError> {
    let in_place = |error| MountError::Place(place.clone(), error);
    std::fs::create_dir_all(&place).map_err(in_place)?;
    let options = MountOptions { place: absolute(&place).map_err(in_place)?, owner: worker.runtime.root_user() };
    let made = bucket_fs::mount(bucket_spec(bucket), options, notice(worker, task)).await;
    made.map_err(|error| {
        let _ = std::fs::remove_dir(&place);
        let _ = place.parent().map(std::fs::remove_dir);
        MountError::Bucket(bucket.mount_path.clone(), error)
    })
}

fn absolute(place: &Path) -> std::io::Result<PathBuf> {
    place.canonicalize()
}

fn bucket_spec(bucket: &BucketMount) -> BucketSpec {
    BucketSpec {
        bucket: bucket.bucket.clone(),
        endpoint: bucket.endpoint.clone(),
        prefix: bucket.prefix.clone(),
        credentials: bucket.credentials.clone(),
        read_only: bucket.read_only,
        requester_pays: bucket.requester_pays,
        force_path_style: bucket.force_path_style,
        metadata_ttl: Duration::from_millis(bucket.metadata_ttl_ms),
    }
}

/// Failures go where the program's own output goes; the program itself saw an error number only.
fn notice(worker: &Arc<Worker>, task: &TaskId) -> Notice {
    let (events, task, told) = (worker.events.clone(), task.clone(), Mutex::new(Told::default()));
    Arc::new(move |text: String| {
        if !told.lock().is_news(&text, Instant::now()) {
            return;
        }
        tracing::warn!(%task, "{text}");
        let text = format!("[dorian] {text}\n");
        // Whoever is told must not be waited for: a full queue loses a remark, which the server's log has.
        let _ = events.try_send(WorkerEvent::Output { task: task.clone(), descriptor: Descriptor::System, text });
    })
}

#[derive(Default)]
struct Told {
    at: HashMap<String, Instant>,
}

impl Told {
    fn is_news(&mut self, text: &str, now: Instant) -> bool {
        self.at.retain(|_, at| now.saturating_duration_since(*at) < TOLD_AGAIN_AFTER);
        if self.at.contains_key(text) || self.at.len() >= TOLD_KEPT {
            return false;
        }
        self.at.insert(text.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_told_once_in_a_while_and_not_too_many_at_once() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(told.is_news("a", now) && !told.is_news("a", now) && told.is_news("b", now));
        assert!(told.is_news("a", now + TOLD_AGAIN_AFTER));
        let many = (0..1000).filter(|i| told.is_news(&i.to_string(), now + TOLD_AGAIN_AFTER)).count();
        assert!(many < TOLD_KEPT, "{many}");
    }
}
