//! Mounts made, ended, and those of a killed process taken away.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::operations::{Mount, Notice};
use crate::s3::{Keys, ListAsk, S3, S3Error, Target, UPLOAD_PATIENCE};
use crate::serve::Serve;
use crate::{BucketError, BucketSpec, MountOptions};

/// How long the end of a mount may take. A last part of a file may need longer on a slow link, or when the store is silent;
/// nobody waits for it then, but its program's author is told.
const END_LIMIT: Duration = Duration::from_secs(60);
/// What is being asked when a container has ended, by whomever, is answered within this before the mount ends for all.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Until a connection to a store stands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Until the kernel gives up a connection whose other end takes nothing: later than we do, who know what is being sent.
const NOTHING_TAKEN_LIMIT: Duration = Duration::from_secs(UPLOAD_PATIENCE.as_secs() + 5);
/// Connections of a mount that are kept though nothing is being asked.
const IDLE_CONNECTIONS: usize = 16;

/// A bucket that is shown. Dropping it ends that at once; [`Mounted::unmount`] does so in order.
pub struct Mounted {
    place: PathBuf,
    mount: Arc<Mount>,
    thread: Mutex<Option<std::thread::JoinHandle<io::Result<()>>>>,
}

/// Shows the bucket, after having asked the store whether it answers, knows the bucket and accepts the credentials: who
/// got one of these wrong wants to hear it now, and not as an I/O error somewhere.
///
/// Must be called in a tokio runtime, whose tasks answer the kernel. `notice` is told what fails later on.
pub async fn mount(spec: BucketSpec, options: MountOptions, notice: Notice) -> Result<Mounted, BucketError> {
    let s3 = reach(&spec).await?;
    let mount = Arc::new(Mount::new(spec, options.owner, s3, notice));
    let serve = Serve { mount: mount.clone(), runtime: tokio::runtime::Handle::current() };
    let bucket = mount.spec.bucket.clone();
    // Only the kernel takes part in it, so it waits for nothing; and nobody can walk away in the middle.
    match start(serve, &options.place, &bucket, mount.spec.read_only) {
        Ok(thread) => Ok(Mounted { place: options.place, mount, thread: Mutex::new(Some(thread)) }),
        Err(source) => Err(BucketError::Mount { bucket, place: options.place, source }),
    }
}

/// The store, asked once. One that says that the bucket is in another region is asked there.
async fn reach(spec: &BucketSpec) -> Result<S3, BucketError> {
    let keys = Keys::from_variables(&spec.credentials);
    let chosen = ["AWS_REGION", "AWS_DEFAULT_REGION"]
        .iter()
        .find_map(|wanted| spec.credentials.iter().find(|(name, _)| name == wanted))
        .map(|(_, region)| region.clone());
    let mut region = chosen;
    for last in [false, true] {
        let malformed = || BucketError::Endpoint(spec.endpoint.clone().unwrap_or_default());
        let target = Target::new(spec, region.as_deref()).ok_or_else(malformed)?;
        let (endpoint, used) = (target.endpoint(), target.region.clone());
        let http = http_client(target.is_loopback).map_err(BucketError::Http)?;
        let s3 = S3::new(http, target, keys.clone(), spec.requester_pays);
        match s3.list(ListAsk { prefix: &spec.prefix, limit: 1, ..Default::default() }).await {
            Ok(_) => return Ok(s3),
            Err(S3Error::Refused { region: Some(there), .. }) if !last && there != used => region = Some(there),
            Err(error) => {
                let reason = error.to_string();
                return Err(BucketError::Store { bucket: spec.bucket.clone(), endpoint, reason });
            }
        }
    }
    Err(BucketError::Endpoint(spec.endpoint.clone().unwrap_or_default()))
}

pub(crate) fn http_client(is_loopback: bool) -> Result<reqwest::Client, reqwest::Error> {
    // Fails only when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("dorian/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .tcp_user_timeout(NOTHING_TAKEN_LIMIT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        // With HTTP/2 everything would go through one connection: looking at a file would wait behind parts of others, and
        // when that connection is stuck, so would be each further try.
        .http1_only()
        // A signature is good for one host.
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback { builder.no_proxy() } else { builder }.build()
}

fn start(
    serve: Serve,
    place: &Path,
    bucket: &str,
    read_only: bool,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    attach(&device, place, bucket, read_only)?;
    let session = Session::from_fd(serve, device, SessionACL::All, Config::default());
    let started = session.and_then(|session| {
        std::thread::Builder::new().name("bucket".to_owned()).stack_size(256 << 10).spawn(move || session.run())
    });
    if started.is_err() {
        let _ = detach(place);
    }
    started
}

/// Everybody may come in, and the kernel checks owners and modes: only the container sees the place.
fn attach(device: &OwnedFd, place: &Path, bucket: &str, read_only: bool) -> io::Result<()> {
    let descriptor = device.as_raw_fd();
    let options = format!("fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions");
    let options = std::ffi::CString::new(options)?;
    let read_only = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | read_only;
    Ok(rustix::mount::mount(bucket, place, "fuse.dorian-bucket", flags, options.as_c_str())?)
}

/// Out of sight at once; it ends when its last user does.
fn detach(place: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(place, UnmountFlags::DETACH)?)
}

/// Out of sight and over at once, whoever still has it. Each start of a system service or of another container engine
/// copies all mounts of the machine, and keeps its copies as long as it pleases: they answer `ENOTCONN` from here on.
fn end_for_all(place: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(place, UnmountFlags::FORCE | UnmountFlags::DETACH)?)
}

impl Mounted {
    pub fn place(&self) -> &Path {
        &self.place
    }

    pub fn is_read_only(&self) -> bool {
        self.mount.spec.read_only
    }

    /// Whoever waits for the store gets an error now: a process that waits cannot be killed.
    pub fn interrupt(&self) {
        self.mount.over.cancel();
    }

    /// Ends it after its container, once what was written whole is in the store. What is not after a minute is told of, and
    /// may be lost. The container's processes have closed their files, and were answered; nobody else is waited for.
    pub async fn unmount(self) {
        let orderly = async {
            self.mount.running.close();
            let _ = tokio::time::timeout(LAST_ANSWERS, self.mount.running.wait()).await;
            let thread = self.thread.lock().take();
            match (end_for_all(&self.place), thread) {
                (Ok(()), Some(thread)) => drop(tokio::task::spawn_blocking(move || thread.join()).await),
                (Err(error), _) => tracing::warn!(place = %self.place.display(), %error, "a bucket stays mounted"),
                (Ok(()), None) => {}
            }
            self.mount.running.wait().await;
            // Also the files of whose last close the kernel had no time to tell.
            self.mount.finish().await;
        };
        if tokio::time::timeout(END_LIMIT, orderly).await.is_err() {
            tracing::warn!(place = %self.place.display(), "a bucket's mount did not end in time");
            self.mount.say_what_is_unfinished();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.interrupt();
        if self.thread.lock().take().is_some() {
            let _ = end_for_all(&self.place);
        }
        // Never what is in it: that would be the bucket.
        let _ = std::fs::remove_dir(&self.place);
    }
}

/// Takes away what a killed process left mounted below `folder`, and its empty places.
///
/// # Errors
/// When something stays mounted.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for place in mounted_below(&std::fs::read_to_string("/proc/self/mountinfo")?, folder) {
        detach(&place)?;
    }
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for task in entries.flatten() {
        for place in std::fs::read_dir(task.path()).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(place.path());
        }
        let _ = std::fs::remove_dir(task.path());
    }
    Ok(())
}

/// The deepest first.
fn mounted_below(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let place = |line: &str| line.split(' ').nth(4).map(|field| PathBuf::from(unescape(field)));
    let mut places: Vec<PathBuf> =
        mountinfo.lines().filter_map(place).filter(|place| place.starts_with(folder) && place != folder).collect();
    places.reverse();
    places
}

/// The kernel writes spaces and the like as `\040`.
fn unescape(field: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::RecvTimeoutError;

    use super::*;
    use crate::testing::Store;

    #[test]
    fn mounts_below_a_folder_are_found_by_their_place() {
        let info = "36 35 98:0 / /data/mounts rw - ext4 /dev/a rw\n\
                    37 36 0:50 / /data/mounts/ta-1/0 rw shared:1 - fuse.dorian-bucket b rw\n\
                    38 36 0:51 / /data/mounts/ta\\0401/1 rw - fuse.dorian-bucket b rw\n\
                    39 35 0:52 / /data/mounts-of-others/x rw - tmpfs t rw\n";
        let found = mounted_below(info, Path::new("/data/mounts"));
        assert_eq!(found, [PathBuf::from("/data/mounts/ta 1/1"), PathBuf::from("/data/mounts/ta-1/0")]);
    }

    /// What `programs` do in a mount of the store's bucket, which is over afterwards. None where nothing can be mounted.
    async fn in_mount<T: Send + 'static>(
        store: &Arc<Store>,
        programs: impl FnOnce(&Store, &Path) -> T + Send + 'static,
    ) -> Option<T> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: needs root and FUSE");
            return None;
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("dorian-bucket-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let options = MountOptions { place: place.clone(), owner: 0 };
        let mounted = mount(store.spec(Duration::from_secs(1)), options, Arc::new(|_| {})).await.unwrap();
        // Processes that wait for a mount cannot be killed, and this one is its own server: a mount that does not answer
        // is aborted.
        let (over, wait) = std::sync::mpsc::channel::<()>();
        let watched = place.clone();
        let watch = std::thread::spawn(move || {
            let is_stuck = wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout);
            if is_stuck {
                let _ = rustix::mount::unmount(&watched, UnmountFlags::FORCE | UnmountFlags::DETACH);
            }
            !is_stuck
        });
        let store = store.clone();
        let done = tokio::task::spawn_blocking(move || programs(&store, &place)).await;
        drop(over);
        assert!(watch.join().unwrap(), "the mount did not answer");
        mounted.unmount().await;
        Some(done.unwrap())
    }

    #[tokio::test]
    async fn a_file_that_has_grown_is_read_to_its_end() {
        let store = Arc::new(Store::start().await);
        let found = in_mount(&store, |store, place| {
            store.put("f", b"old");
            // From here on the kernel knows a size; a program's first read asks for it again, a look does not.
            let before = std::fs::metadata(place.join("f")).unwrap().len();
            store.put("f", b"new and longer");
            (before, std::fs::read_to_string(place.join("f")).unwrap())
        });
        assert!(found.await.is_none_or(|found| found == (3, "new and longer".to_owned())));
    }

    #[tokio::test]
    async fn programs_use_what_they_have_just_closed_and_remove_trees() {
        let store = Arc::new(Store::start().await);
        let done = in_mount(&store, |_, place| -> io::Result<()> {
            for _ in 0..20 {
                std::fs::write(place.join("touched"), "")?;
                std::fs::write(place.join("touched"), "x")?;
                std::fs::write(place.join("gone"), "")?;
                std::fs::remove_file(place.join("gone"))?;
                std::fs::create_dir_all(place.join("a/b"))?;
                std::fs::write(place.join("a/b/1"), "")?;
                std::fs::write(place.join("a/2"), "x")?;
                std::fs::remove_dir_all(place.join("a"))?;
            }
            Ok(())
        });
        if let Some(done) = done.await {
            done.unwrap();
            assert_eq!((store.keys(), store.get("touched").unwrap().as_ref()), (vec!["touched".to_owned()], &b"x"[..]));
        }
    }

    #[tokio::test]
    async fn a_program_that_is_killed_leaves_the_file_that_it_was_given_as_it_was() {
        let store = Arc::new(Store::start().await);
        store.put("killed", b"old");
        store.put("ended", b"old");
        let run = in_mount(&store, |_, place| {
            for (name, then) in [("killed", "kill -9 $$"), ("ended", "exit 1")] {
                let file = std::fs::File::create(place.join(name)).unwrap();
                let script = format!("read go; echo half; {then}");
                let mut shell = std::process::Command::new("sh");
                let started = shell.args(["-c", &script]).stdin(std::process::Stdio::piped()).stdout(file).spawn();
                // Only the shell has the file now; that its input ends lets it go on.
                drop(shell);
                let mut started = started.unwrap();
                started.wait().unwrap();
            }
        });
        if run.await.is_some() {
            assert_eq!(store.get("killed").unwrap().as_ref(), b"old");
            assert_eq!(store.get("ended").unwrap().as_ref(), b"half\n");
        }
    }

    /// A process elsewhere that has copied the mounts of this machine, and works in the copy of `place`.
    fn copy_of_mounts(place: &Path) -> std::process::Child {
        let script = format!("cd '{}' && echo there && exec sleep 50", place.display());
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).stdout(std::process::Stdio::piped());
        let mut started = command.spawn().unwrap();
        let mut said = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(started.stdout.as_mut().unwrap()), &mut said).unwrap();
        assert_eq!(said, "there\n");
        started
    }

    #[tokio::test]
    async fn the_end_waits_for_nobody_who_has_copied_the_mount_and_loses_nothing_that_was_written() {
        let store = Arc::new(Store::start().await);
        let run = in_mount(&store, |_, place| {
            let copy = copy_of_mounts(place);
            std::fs::write(place.join("closed"), "whole").unwrap();
            // Closed last by somebody else than its opener, so that only its release ends it.
            let file = std::fs::File::create(place.join("released")).unwrap();
            let mut shell = std::process::Command::new("sh");
            let started =
                shell.args(["-c", "read go; echo late"]).stdin(std::process::Stdio::piped()).stdout(file).spawn();
            drop(shell);
            started.unwrap().wait().unwrap();
            (copy, place.to_owned())
        });
        if let Some((mut copy, place)) = run.await {
            assert!(copy.try_wait().unwrap().is_none(), "the mount ended only with its copy");
            copy.kill().unwrap();
            copy.wait().unwrap();
            assert_eq!(store.get("closed").unwrap().as_ref(), b"whole");
            assert_eq!(store.get("released").unwrap().as_ref(), b"late\n");
            assert!(!place.exists(), "the place is still there");
        }
    }

    #[tokio::test]
    async fn a_program_can_be_started_while_a_file_is_being_written() {
        let store = Arc::new(Store::start().await);
        let run = in_mount(&store, |_, place| {
            let mut file = std::fs::File::create(place.join("f")).unwrap();
            io::Write::write_all(&mut file, b"one ").unwrap();
            // It gets a copy of the file, which is closed in the middle of its start.
            let started = std::process::Command::new("true").status().unwrap().success();
            io::Write::write_all(&mut file, b"two").unwrap();
            started
        });
        if let Some(started) = run.await {
            assert!(started && store.get("f").unwrap() == "one two");
        }
    }
}
