//! The container's root: image layers below, what it writes above, kernel filesystems and binds on top.
//!
//! It is put together on a private `tmpfs` (the stage) in a new mount namespace, out of detached mounts. Layers get
//! short names there so that hundreds of them fit into overlayfs's option page. When the finished tree has become the
//! root, the stage and every other mount of the machine are gone from this namespace.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::missing::{self, Kind, Place};
use super::own_group::{self, GroupMount};
use super::sources::Sources;
use super::volumes;
use super::{Common, Stopwatch};
use crate::network::resolvers;
use crate::spec::{Bind, LayeredMount, Network};
use crate::sys::mount::{NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::{self, At, Doing, Failure, mount, process};
use crate::wire::{Job, Phases};

/// `/proc`, `/sys` and `/dev` of one container, made ahead of time and attached when its root exists.
pub struct KernelMounts {
    proc: OwnedFd,
    sys: OwnedFd,
    dev: OwnedFd,
    pts: OwnedFd,
    mqueue: OwnedFd,
    own_group: Vec<GroupMount>,
}

/// The devices that every program may expect, with their numbers.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
const DEVICE_FOLDERS: [&str; 3] = ["pts", "shm", "mqueue"];
/// The group that owns terminals in every distribution.
const TTY_GROUP: u16 = 5;

impl KernelMounts {
    pub fn make(common: &Common, group: &str) -> Doing<Self> {
        let make = |kind: &std::ffi::CStr, options: &[(&str, &str)], flags| {
            mount::new_mount(kind, options, flags).at(format_args!("make a `{}` mount", kind.to_string_lossy()))
        };
        let tty_group = common.host_id(TTY_GROUP).to_string();
        let dev = make(c"tmpfs", &[("mode", "755"), ("size", "65536")], NOSUID | NOEXEC)?;
        fill_dev(common, dev.as_fd()).at("fill `/dev`")?;
        Ok(Self {
            proc: make(c"proc", &[], NOSUID | NODEV | NOEXEC)?,
            sys: sysfs()?,
            pts: make(c"devpts", &[("ptmxmode", "0666"), ("mode", "0620"), ("gid", &tty_group)], NOSUID | NOEXEC)?,
            mqueue: make(c"mqueue", &[], NOSUID | NODEV | NOEXEC)?,
            own_group: own_group::make(common, group)?,
            dev,
        })
    }
}

impl KernelMounts {
    /// `/sys` shows the network namespace in which it was mounted, and keeps it alive.
    pub fn follow_network_namespace(&mut self) -> Doing<()> {
        self.sys = sysfs()?;
        Ok(())
    }
}

fn sysfs() -> Doing<OwnedFd> {
    mount::new_mount(c"sysfs", &[], RDONLY | NOSUID | NODEV | NOEXEC).at("make a `sysfs` mount")
}

fn fill_dev(common: &Common, dev: BorrowedFd<'_>) -> std::io::Result<()> {
    let root = common.host_id(0);
    for (name, major, minor) in DEVICES {
        sys::mknod_char(dev, name, major, minor)?;
        sys::chmodat(dev, name, 0o666)?;
    }
    for (name, target) in DEVICE_LINKS {
        sys::symlinkat(target, dev, name)?;
    }
    for name in DEVICE_FOLDERS {
        sys::mkdirat(Some(dev), name, 0o755)?;
    }
    let names = DEVICES.iter().map(|device| device.0).chain(DEVICE_LINKS.map(|link| link.0)).chain(DEVICE_FOLDERS);
    for name in names.chain([""]) {
        sys::chownat(Some(dev), name, root, root)?;
    }
    Ok(())
}

/// Builds the job's root filesystem and makes it this process's root, in a mount namespace of its own.
pub fn become_root(
    common: &Common,
    job: &Job,
    kernel: KernelMounts,
    watch: &mut Stopwatch,
    phases: &mut Phases,
) -> Doing<()> {
    process::unshare(libc::CLONE_NEWNS).at("make a mount namespace")?;
    mount::make_everything_private().at("cut off the mount namespace")?;
    let sources = Sources::open(common, job)?;
    phases.sources = watch.lap();
    enter_stage(&common.stage)?;
    place_layers(&sources)?;
    let root = mount_overlay(common, job)?;
    phases.overlay = watch.lap();
    attach_all(common, job, root.as_fd(), kernel, &sources)?;
    std::env::set_current_dir(ROOT).at("enter the root filesystem")?;
    mount::pivot_into_current().at("make it the root")?;
    phases.assemble = watch.lap();
    Ok(())
}

// Names on the stage.
const ROOT: &str = "m";
const SCRATCH: &str = "s";
const EXTRA_LAYER: &str = "x";
const FILES: &str = "f";
const EMPTY: &str = "e";
const LOOK: &str = "q";

pub fn enter_stage(stage: &Path) -> Doing<()> {
    let tmpfs = mount::new_mount(c"tmpfs", &[("mode", "755"), ("size", "16m")], 0).at("make the stage")?;
    mount::attach(tmpfs.as_fd(), None, stage).at(format_args!("mount the stage on `{}`", stage.display()))?;
    std::env::set_current_dir(stage).at("enter the stage")?;
    for name in [ROOT, LOOK, SCRATCH, EXTRA_LAYER, FILES, EMPTY] {
        fs::create_dir(name).at("fill the stage")?;
    }
    Ok(())
}

fn layer_name(index: usize) -> String {
    format!("l{index}")
}

fn place_layers(sources: &Sources) -> Doing<()> {
    mount::attach(sources.scratch.as_fd(), None, SCRATCH).at("place the scratch folder")?;
    for (index, layer) in sources.layers.iter().enumerate() {
        let name = layer_name(index);
        fs::create_dir(&name).at("fill the stage")?;
        mount::attach(layer.as_fd(), None, &name).at("place a layer")?;
    }
    Ok(())
}

/// Mounts the image and the container's own writes as one tree, in which every place that a mount needs exists.
///
/// What is missing is found on a read-only tree of the same layers, which costs a fraction of a real one: overlayfs
/// tries out the scratch folder's filesystem each time that it gets one to write to.
fn mount_overlay(common: &Common, job: &Job) -> Doing<OwnedFd> {
    let layers = job.layers.len();
    let look = mount_as(common, LOOK, &lower_layers(layers, &[&format!("{SCRATCH}/diff")], &[EMPTY]), job)?;
    let missing = missing::find(look.as_fd(), &places(job))?;
    let extra: &[&str] = if missing.is_empty() { &[] } else { &[EXTRA_LAYER] };
    if !missing.is_empty() {
        missing::make(common, look.as_fd(), &missing, Path::new(EXTRA_LAYER))?;
    }
    mount_as(common, ROOT, &(lower_layers(layers, extra, &[]) + WRITABLE), job)
}

fn mount_as(common: &Common, place: &str, options: &str, job: &Job) -> Doing<OwnedFd> {
    // Overlayfs keeps the identity of whoever mounts it for its own files (whiteouts, its work folder), and an
    // id-mapped scratch folder can only store owners that are mapped.
    process::create_files_as(common.host_id(0)).at("take the container's file owner")?;
    let mounted = mount::mount(c"overlay", c"overlay", place, 0, options);
    process::create_files_as(0).at("go back to the machine's file owner")?;
    mounted.at(format_args!(
        "mount {} layers with scratch `{}` (overlayfs needs a local filesystem such as ext4 or xfs)",
        job.layers.len(),
        job.scratch.display()
    ))?;
    sys::openat(None, place, libc::O_PATH | libc::O_DIRECTORY).at("open the root filesystem")
}

/// - `volatile`: writes are not forced to disk when a program asks. A container's own writes are worth nothing after a
///   crash of the machine, and package managers ask after every file.
/// - no `redirect_dir`, `metacopy`, `index`: `diff` then holds nothing but whole files, whiteouts and opaque marks,
///   which is what a layer is.
const WRITABLE: &str = ",upperdir=s/diff,workdir=s/work,volatile,redirect_dir=nofollow,metacopy=off,index=off";

/// Overlayfs's list goes from the highest to the lowest.
fn lower_layers(layers: usize, above: &[&str], below: &[&str]) -> String {
    let image = (0..layers).rev().map(layer_name);
    let names = above.iter().map(ToString::to_string).chain(image).chain(below.iter().map(ToString::to_string));
    format!("lowerdir={}", names.collect::<Vec<_>>().join(":"))
}

/// Every place inside that something gets mounted on, or that the caller was promised.
fn places(job: &Job) -> Vec<Place> {
    let folder = |path: &str, mode| Place { path: path.into(), kind: Kind::Folder, mode };
    let file = |path: &str| Place { path: path.into(), kind: Kind::File, mode: 0o644 };
    let mut places = vec![folder("/proc", 0o555), folder("/sys", 0o555), folder("/dev", 0o755)];
    places.push(folder("/tmp", 0o1777));
    places.extend(HOST_FILES.map(|(path, _)| file(path)));
    places.extend(job.tmpfs.iter().map(|tmpfs| folder(&tmpfs.target, 0o755)));
    places.extend(job.binds.iter().map(|bind| match bind.source.is_dir() {
        true => folder(&bind.target, 0o755),
        false => file(&bind.target),
    }));
    places.extend(job.volumes.iter().map(|volume| folder(&volume.target, 0o755)));
    places.push(folder(&job.cwd, 0o755));
    places
}

fn attach_all(common: &Common, job: &Job, root: BorrowedFd<'_>, kernel: KernelMounts, sources: &Sources) -> Doing<()> {
    put(root, &kernel.proc, "/proc")?;
    put(root, &kernel.sys, "/sys")?;
    for part in &kernel.own_group {
        put(root, &part.mount, &part.target)?;
    }
    put(root, &kernel.dev, "/dev")?;
    put(root, &kernel.pts, "/dev/pts")?;
    put(root, &kernel.mqueue, "/dev/mqueue")?;
    put(root, &shared_memory(job)?, "/dev/shm")?;
    for (path, content) in HOST_FILES {
        put(root, &host_file(common, path, &content(job))?, path)?;
    }
    hide(root)?;
    for tmpfs in &job.tmpfs {
        let owner = common.host_id(0).to_string();
        let size = tmpfs.size_bytes.map_or("50%".to_owned(), |size| size.to_string());
        let options = [("mode", "1777"), ("size", &size), ("uid", &owner), ("gid", &owner)];
        let made = mount::new_mount(c"tmpfs", &options, NOSUID | NODEV);
        ensure_place(common, root, &tmpfs.target, true)?;
        put(root, &made.at(format_args!("make a tmpfs for `{}`", tmpfs.target))?, &tmpfs.target)?;
    }
    for asked in outer_first(job, sources) {
        match asked {
            Asked::Bind(bind, source) => {
                let folder = sys::is_folder(source.as_fd()).at(format_args!("look at `{}`", bind.source.display()))?;
                ensure_place(common, root, &bind.target, folder)?;
                put(root, source, &bind.target)?;
            }
            Asked::Volume(number, volume) => {
                let mounted = volumes::prepare(common, volume, number)?;
                ensure_place(common, root, &volume.target, true)?;
                put(root, &mounted, &volume.target)?;
            }
        }
    }
    Ok(())
}

/// What the caller asked for.
enum Asked<'a> {
    Bind(&'a Bind, &'a OwnedFd),
    Volume(usize, &'a LayeredMount),
}

/// A mount inside another one comes after it, or it would be hidden.
fn outer_first<'a>(job: &'a Job, sources: &'a Sources) -> Vec<Asked<'a>> {
    let binds = job.binds.iter().zip(&sources.binds).map(|(bind, source)| Asked::Bind(bind, source));
    let volumes = job.volumes.iter().enumerate().map(|(number, volume)| Asked::Volume(number, volume));
    let mut all: Vec<Asked<'a>> = binds.chain(volumes).collect();
    all.sort_by_key(|asked| {
        let target = match asked {
            Asked::Bind(bind, _) => &bind.target,
            Asked::Volume(_, volume) => &volume.target,
        };
        Path::new(target).components().count()
    });
    all
}

/// Places inside the image exist by now; this one may lie in another mount, or in `/dev`.
fn ensure_place(common: &Common, root: BorrowedFd<'_>, target: &str, folder: bool) -> Doing<()> {
    if sys::open_in_root(root, target, libc::O_PATH).is_ok() {
        return Ok(());
    }
    // As the container's root, the only owner that an id-mapped folder can store.
    process::create_files_as(common.host_id(0)).at("take the container's file owner")?;
    make_inside(root, target, folder).at(format_args!("make `{target}`"))?;
    process::create_files_as(0).at("go back to the machine's file owner")
}

fn make_inside(root: BorrowedFd<'_>, path: &str, folder: bool) -> io::Result<()> {
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", path));
    let parent_path = format!("{parent}/");
    let parent = match sys::open_in_root(root, &parent_path, libc::O_PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.is_empty() => {
            make_inside(root, parent, true)?;
            sys::open_in_root(root, &parent_path, libc::O_PATH)?
        }
        other => other?,
    };
    match folder {
        true => sys::mkdirat(Some(parent.as_fd()), name, 0o755),
        false => sys::openat(Some(parent.as_fd()), name, libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).map(drop),
    }
}

fn put(root: BorrowedFd<'_>, mount: &OwnedFd, target: &str) -> Doing<()> {
    let place = sys::open_in_root(root, target, libc::O_PATH).at(format_args!("find `{target}`"))?;
    mount::attach(mount.as_fd(), Some(place.as_fd()), "").at(format_args!("mount on `{target}`"))
}

/// What tells about the whole machine, or lets root change it. Most of it is closed by belonging to the machine's root;
/// hiding it as well is what protects where there is no user namespace.
const HIDDEN: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

fn hide(root: BorrowedFd<'_>) -> Doing<()> {
    for path in HIDDEN {
        let Ok(place) = sys::open_in_root(root, path, libc::O_PATH) else { continue };
        let folder = sys::is_folder(place.as_fd()).at(format_args!("look at `{path}`"))?;
        let cover = if folder { mount::clone_tree(None, EMPTY) } else { copy_inside(root, "/dev/null") };
        put_read_only(root, cover, path).at(format_args!("hide `{path}`"))?;
    }
    for path in READ_ONLY {
        match copy_inside(root, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copy => put_read_only(root, copy, path).at(format_args!("protect `{path}`"))?,
        }
    }
    Ok(())
}

fn copy_inside(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    mount::clone_tree(Some(sys::open_in_root(root, path, libc::O_PATH)?.as_fd()), "")
}

fn put_read_only(root: BorrowedFd<'_>, mount: io::Result<OwnedFd>, path: &str) -> io::Result<()> {
    let mount = mount?;
    mount::set_read_only(mount.as_fd())?;
    mount::attach(mount.as_fd(), Some(sys::open_in_root(root, path, libc::O_PATH)?.as_fd()), "")
}

/// Half the memory limit, as Linux itself gives by default, but never too little for a browser or a data loader.
fn shared_memory(job: &Job) -> Doing<OwnedFd> {
    const LEAST: u64 = 64 << 20;
    let size = match job.limits.memory_bytes {
        Some(limit) => (limit / 2).max(LEAST).to_string(),
        None => "50%".to_string(),
    };
    mount::new_mount(c"tmpfs", &[("mode", "1777"), ("size", &size)], NOSUID | NODEV).at("make `/dev/shm`")
}

type Content = fn(&Job) -> String;

/// Files that describe this machine and this container, rather than the image.
const HOST_FILES: [(&str, Content); 3] =
    [("/etc/resolv.conf", resolv_conf), ("/etc/hosts", hosts), ("/etc/hostname", hostname)];

fn resolv_conf(job: &Job) -> String {
    match job.network {
        Network::None => String::new(),
        Network::Nat => resolvers::choose(&job.resolvers).file(),
    }
}

fn hosts(job: &Job) -> String {
    // The traditional second loopback address: the container's own name works without any network.
    let own = Ipv4Addr::new(127, 0, 1, 1);
    format!("127.0.0.1\tlocalhost\n{own}\t{}\n::1\tlocalhost ip6-localhost ip6-loopback\n", job.hostname)
}

fn hostname(job: &Job) -> String {
    format!("{}\n", job.hostname)
}

fn host_file(common: &Common, path: &str, content: &str) -> Doing<OwnedFd> {
    let name = path.rsplit('/').next().ok_or_else(|| Failure(format!("`{path}` has no name")))?;
    let here = Path::new(FILES).join(name);
    let root = common.host_id(0);
    fs::write(&here, content).at(format_args!("write `{path}`"))?;
    sys::chownat(None, &here, root, root).at(format_args!("give `{path}` its owner"))?;
    mount::clone_tree(None, &here).at(format_args!("copy `{path}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_layer_comes_first_and_the_extra_one_before_it() {
        assert_eq!(lower_layers(3, &["x"], &["e"]), "lowerdir=x:l2:l1:l0:e");
    }

    #[test]
    fn four_hundred_layers_fit_into_one_page() {
        assert!((lower_layers(400, &[EXTRA_LAYER], &[]) + WRITABLE).len() < 4096);
    }
}
