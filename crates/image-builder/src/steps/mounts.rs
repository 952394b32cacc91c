//! `RUN --mount`: made ready before the program runs, and in no layer afterwards.
//!
//! | kind | is |
//! |---|---|
//! | cache | a folder below `cache/mounts/`, kept between builds and shared by all of them |
//! | secret | a file in the step's own folder for unfinished work, removed with it |
//! | bind | read-only: the layer's own files where one layer has them all, else hard links to them; writable: a copy |
//! | tmpfs | a tmpfs |
//!
//! Caches: `shared` ones are used by any number of steps at once, which is right for tools that lock their caches
//! themselves (pip, npm, cargo). `locked` ones by one step at a time (apt). `private` ones are one folder for each step
//! that runs at the same time, so the first finds what the last one left.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::{Bind, Tmpfs};
use image_plan::{ContextPart, KeyHasher, Mount, Owned, Sharing};
use parking_lot::Mutex;

use crate::blocking::{Stop, blocking};
use crate::builder::{ContextSource, ImageBuilder, StepContext};
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::once::KeyedLock;
use crate::stack::{Found, LayerStack};
use crate::store::Workspace;

/// Which caches are in use.
pub(crate) struct CacheMounts {
    locked: KeyedLock<String>,
    /// Cache and number of each private folder in use.
    private: Arc<Mutex<HashSet<(String, usize)>>>,
}

impl Default for CacheMounts {
    fn default() -> Self {
        Self { locked: KeyedLock::new(), private: Arc::default() }
    }
}

/// What a step's mounts became. Whoever drops it lets others have the caches.
#[derive(Default)]
pub(crate) struct Prepared {
    pub binds: Vec<Bind>,
    pub tmpfs: Vec<Tmpfs>,
    /// Secrets that are wanted as variables.
    pub env: Vec<(String, String)>,
    _locks: BTreeMap<String, tokio::sync::OwnedMutexGuard<()>>,
    private: Vec<PrivateFolder>,
}

struct PrivateFolder {
    cache: String,
    number: usize,
    in_use: Arc<Mutex<HashSet<(String, usize)>>>,
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        self.in_use.lock().remove(&(std::mem::take(&mut self.cache), self.number));
    }
}

impl ImageBuilder {
    pub(crate) async fn prepare_mounts(
        &self,
        mounts: &[Mount],
        context: &StepContext,
        workspace: &Workspace,
        logs: &LogSink,
    ) -> Result<Prepared, BuildError> {
        let mut prepared = Prepared { _locks: self.lock_caches(mounts, logs).await, ..Prepared::default() };
        for (index, mount) in mounts.iter().enumerate() {
            let own = workspace.path().join(format!("mount-{index}"));
            match mount {
                Mount::Cache { id, target, sharing, owned, read_only } => {
                    let source = self.cache_folder(id, *sharing, owned, &mut prepared)?;
                    prepared.binds.push(Bind { source, target: target.clone(), read_only: *read_only });
                }
                Mount::Secret { id, target, env, owned } => {
                    let value = context.secret_env.iter().find(|(name, _)| name == id).map(|(_, value)| value);
                    let missing = || BuildError::Refused(format!("the build has no secret `{id}`"));
                    let value = value.ok_or_else(missing)?;
                    prepared.env.extend(env.iter().map(|name| (name.clone(), value.clone())));
                    if let Some(target) = target {
                        let source = write_secret(&own, value, owned)?;
                        prepared.binds.push(Bind { source, target: target.clone(), read_only: true });
                    }
                }
                Mount::Tmpfs { target, size_bytes } => {
                    prepared.tmpfs.push(Tmpfs { target: target.clone(), size_bytes: *size_bytes });
                }
                Mount::Context { part, target, writable } => {
                    let (part, sources, place) = (part.clone(), context.context.clone(), own.clone());
                    let workspace = workspace.clone();
                    let write = move |stop: &Stop| {
                        let _held = workspace;
                        write_context(&part, &sources, &place, stop)
                    };
                    blocking(write).await?;
                    prepared.binds.push(Bind { source: own, target: target.clone(), read_only: !writable });
                }
                Mount::Origin { origin, source, target, writable } => {
                    let layers = self.layer_paths(&self.origin_layers(origin, context, logs).await?);
                    let (stack, wanted, writable) = (LayerStack::new(layers), source.clone(), *writable);
                    let workspace = workspace.clone();
                    let show = move |stop: &Stop| {
                        let _held = workspace;
                        show(&stack, &wanted, &own, writable, stop)
                    };
                    let source = blocking(show).await?;
                    prepared.binds.push(Bind { source, target: target.clone(), read_only: !writable });
                }
            }
        }
        Ok(prepared)
    }

    /// In one order for everybody, so that no two steps wait for each other.
    async fn lock_caches(
        &self,
        mounts: &[Mount],
        logs: &LogSink,
    ) -> BTreeMap<String, tokio::sync::OwnedMutexGuard<()>> {
        let mut wanted = BTreeMap::new();
        for mount in mounts {
            if let Mount::Cache { id, sharing: Sharing::Locked, owned, .. } = mount {
                wanted.insert(cache_name(id, owned), id);
            }
        }
        let mut locks = BTreeMap::new();
        for (name, id) in wanted {
            let lock = self.inner.cache_mounts.locked.lock(name.clone());
            tokio::pin!(lock);
            let lock = match tokio::time::timeout(Duration::from_millis(300), &mut lock).await {
                Ok(lock) => lock,
                Err(_) => {
                    logs.say(format!("   waiting for another step to be done with cache `{id}`"));
                    lock.await
                }
            };
            locks.insert(name, lock);
        }
        locks
    }

    fn cache_folder(
        &self,
        id: &str,
        sharing: Sharing,
        owned: &Owned,
        prepared: &mut Prepared,
    ) -> Result<PathBuf, BuildError> {
        let name = cache_name(id, owned);
        let folder = self.inner.store.cache_dir("mounts", &name)?;
        let folder = match sharing {
            Sharing::Shared | Sharing::Locked => folder.join("shared"),
            Sharing::Private => {
                let in_use = self.inner.cache_mounts.private.clone();
                let mut taken = in_use.lock();
                let number = (0..).find(|number| !taken.contains(&(name.clone(), *number))).unwrap_or_default();
                taken.insert((name.clone(), number));
                drop(taken);
                prepared.private.push(PrivateFolder { cache: name, number, in_use });
                folder.join(format!("private-{number}"))
            }
        };
        if !folder.exists() {
            // Renamed into place, so that nobody uses it before it has its owner.
            let random: u64 = rand::random();
            let aside = folder.with_extension(format!("{random:016x}"));
            fs::create_dir(&aside).map_err(BuildError::on("create", &aside))?;
            set_owned(&aside, owned)?;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let cwd = rustix::fs::CWD;
            if let Err(error) = rustix::fs::renameat_with(cwd, &aside, cwd, &folder, flags) {
                // Somebody else was first, and may have put something inside.
                let _ = fs::remove_dir(&aside);
                if !folder.exists() {
                    return Err(BuildError::on("create", &folder)(error.into()));
                }
            }
        }
        Ok(folder)
    }
}

/// Owner and mode are part of it: they are only given to a new folder.
fn cache_name(id: &str, Owned { uid, gid, mode }: &Owned) -> String {
    KeyHasher::new("cache mount").field(id).field(format!("{uid}:{gid}:{mode:o}")).finish().as_str().to_owned()
}

fn set_owned(path: &Path, Owned { uid, gid, mode }: &Owned) -> Result<(), BuildError> {
    chown(path, Some(*uid), Some(*gid)).map_err(BuildError::on("change the owner of", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(*mode)).map_err(BuildError::on("set the mode of", path))
}

/// In a folder that only this server may enter.
fn write_secret(folder: &Path, value: &str, owned: &Owned) -> Result<PathBuf, BuildError> {
    fs::DirBuilder::new().mode(0o700).create(folder).map_err(BuildError::on("create", folder))?;
    let path = folder.join("secret");
    fs::write(&path, value).map_err(BuildError::on("write", &path))?;
    set_owned(&path, owned)?;
    Ok(path)
}

fn write_context(part: &ContextPart, sources: &[ContextSource], place: &Path, stop: &Stop) -> Result<(), BuildError> {
    match part {
        ContextPart::File(index) => write_file(&sources[*index], place, stop),
        ContextPart::Folder(files) => {
            make_folder(place)?;
            for (index, path) in files {
                // Cleaned by the plan: no `..`, not absolute.
                let target = place.join(path);
                if let Some(parent) = target.parent() {
                    make_folder(parent)?;
                }
                write_file(&sources[*index], &target, stop)?;
            }
            Ok(())
        }
    }
}

/// With the folders above it, open to everybody.
fn make_folder(path: &Path) -> Result<(), BuildError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(BuildError::on("create", path))
}

fn write_file(source: &ContextSource, target: &Path, stop: &Stop) -> Result<(), BuildError> {
    let write = BuildError::on("write a file of the build context to", target);
    let (written, mode) = match source {
        ContextSource::Memory(data) => (fs::write(target, data), 0o644),
        ContextSource::Disk(path, mode) => (copy(path, target, stop), *mode),
    };
    written.map_err(write)?;
    let mode = fs::Permissions::from_mode(mode & 0o7777);
    fs::set_permissions(target, mode).map_err(BuildError::on("set the mode of", target))
}

/// What the merged tree has at `wanted`, as something that can be mounted: its own place on disk, or made at `place`.
fn show(stack: &LayerStack, wanted: &str, place: &Path, writable: bool, stop: &Stop) -> Result<PathBuf, BuildError> {
    let look = BuildError::io(format!("look at `{wanted}` for a mount"));
    let resolved = stack.resolve(wanted).map_err(look)?;
    let found = resolved.found.ok_or_else(|| BuildError::Refused(format!("`--mount`: there is no `{wanted}`")))?;
    if !writable {
        if found.meta.is_file() {
            return Ok(found.path);
        }
        let sole = stack.sole_folder(&resolved.path).map_err(BuildError::on("look at", &resolved.path))?;
        if let Some(folder) = sole {
            return Ok(folder);
        }
    }
    reproduce(stack, &resolved.path, &found, place, writable, stop)?;
    Ok(place.to_owned())
}

fn reproduce(
    stack: &LayerStack,
    path: &Path,
    found: &Found,
    to: &Path,
    writable: bool,
    stop: &Stop,
) -> Result<(), BuildError> {
    let fail = |error| BuildError::on("make a mount's file", to)(error);
    let meta = &found.meta;
    if meta.is_symlink() {
        fs::read_link(&found.path).and_then(|link| symlink(link, to)).map_err(fail)?;
        return lchown(to, Some(meta.uid()), Some(meta.gid())).map_err(fail);
    }
    if meta.is_file() {
        // A link shares owner and mode, and nobody can write through a read-only mount.
        if !writable && fs::hard_link(&found.path, to).is_ok() {
            return Ok(());
        }
        copy(&found.path, to, stop).map_err(fail)?;
        return set_owned(to, &Owned { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 });
    }
    if !meta.is_dir() {
        return Ok(());
    }
    fs::create_dir(to).map_err(fail)?;
    for name in stack.list(path).map_err(BuildError::on("read the folder", path))? {
        let below = path.join(&name);
        if let Some(found) = stack.entry(&below).map_err(BuildError::on("look at", &below))? {
            reproduce(stack, &below, &found, &to.join(&name), writable, stop)?;
        }
    }
    set_owned(to, &Owned { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 })
}

/// To a new file, whose mode is the caller's to set.
fn copy(from: &Path, to: &Path, stop: &Stop) -> io::Result<()> {
    stop.copy_file(fs::File::open(from)?, fs::File::create_new(to)?)
}
