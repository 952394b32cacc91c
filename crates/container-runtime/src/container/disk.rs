//! A root filesystem of limited size: a sparse image file with its own ext4, mounted for one container.
//!
//! Rejected: quotas (they need mount options on the machine's own filesystem), and `tmpfs` (it would spend memory).
//! The image file loses its name as soon as it is mounted, so the kernel frees it, and the loop device with it, when
//! the container's last process ends, however that happens. Two things follow: what such a container wrote cannot be
//! kept as a layer, and a machine whose own disk is full gives I/O errors rather than ENOSPC.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Common;
use crate::sys::{self, At, Doing, Failure, mount};

/// ext4's own tables take about 1.5%, and a very small filesystem cannot be made at all.
fn image_bytes(limit: u64) -> u64 {
    const BLOCK: u64 = 4096;
    const LEAST: u64 = 4 << 20;
    (limit.max(LEAST) / 64 * 65).next_multiple_of(BLOCK)
}

/// A detached mount with empty `diff` and `work`.
pub fn make(common: &Common, scratch: &Path, limit: u64) -> Doing<OwnedFd> {
    let template = template(&common.templates, image_bytes(limit))?;
    let image = scratch.join("disk.img");
    let file = copy_sparse(&template, &image).at(format_args!("make `{}`", image.display()))?;
    let device = attach(&file).at("set up a loop device for the size limit")?;
    fs::remove_file(&image).at(format_args!("unlink `{}`", image.display()))?;
    let path = device.path.to_string_lossy().into_owned();
    // Nobody looks at the disk after a crash, so nothing waits for it (`nobarrier`, no journal); `discard` gives the
    // space of deleted files back to the machine.
    let options = [("source", path.as_str()), ("noinit_itable", ""), ("nobarrier", ""), ("discard", "")];
    let mounted = mount::new_mount(c"ext4", &options, mount::NODEV).at(format_args!("mount `{path}` as ext4"))?;
    for folder in ["diff", "work"] {
        sys::mkdirat(Some(mounted.as_fd()), folder, 0o755).at("fill the limited disk")?;
    }
    super::sources::map_owners(common, mounted.as_fd()).at("map the owners of files on the limited disk")?;
    Ok(mounted)
}

/// Formatting takes several milliseconds (tens for large disks), copying the few blocks that it wrote much less.
fn template(folder: &Path, bytes: u64) -> Doing<PathBuf> {
    let path = folder.join(format!("{bytes}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(folder).at(format_args!("make `{}`", folder.display()))?;
    // Several containers may do this at once: each formats its own and the last rename wins.
    let own = folder.join(format!("{bytes}.{}", sys::clock_micros()));
    let file = File::create(&own).at(format_args!("make `{}`", own.display()))?;
    file.set_len(bytes).at(format_args!("size `{}`", own.display()))?;
    format(&own, bytes)?;
    fs::rename(&own, &path).at(format_args!("rename to `{}`", path.display()))?;
    Ok(path)
}

/// Everything that makes the empty filesystem small, because it is copied for each container and its blocks are written
/// to disk when the loop device goes: no journal, no checksums, no second copies of tables, few inodes on large disks.
fn format(image: &Path, bytes: u64) -> Doing<()> {
    const MOST_INODES: u64 = 2 << 20;
    let bytes_per_inode = (bytes / MOST_INODES).max(32_768).to_string();
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0", "-G", "1024", "-i", &bytes_per_inode])
        .args(["-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg,sparse_super2"])
        .args(["-E", "num_backup_sb=0,lazy_itable_init=1,nodiscard"])
        .arg(image)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .at("run `mkfs.ext4`, which limits on disk space need (install it with `apt-get install e2fsprogs`)")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure(format!("`mkfs.ext4` failed on `{}`: {}", image.display(), String::from_utf8_lossy(&output.stderr))))
}

fn copy_sparse(from: &Path, to: &Path) -> io::Result<File> {
    let source = File::open(from)?;
    let target = File::options().read(true).write(true).create(true).truncate(true).open(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    while let Some((start, end)) = sys::next_data(source.as_fd(), at)? {
        let mut buffer = vec![0; (end - start) as usize];
        use std::os::unix::fs::FileExt;
        source.read_exact_at(&mut buffer, start)?;
        target.write_all_at(&buffer, start)?;
        at = end;
    }
    Ok(target)
}

struct Device {
    path: PathBuf,
    /// Open until the filesystem is mounted: the device frees itself at its last close.
    _held: File,
}

/// Another process may take the free device first; then there is another one.
const ATTEMPTS: usize = 64;

fn attach(image: &File) -> io::Result<Device> {
    let control = File::open("/dev/loop-control")?;
    let mut last = io::Error::from_raw_os_error(libc::EBUSY);
    for _ in 0..ATTEMPTS {
        let path = PathBuf::from(format!("/dev/loop{}", sys::free_loop_device(control.as_fd())?));
        let device = File::options().read(true).write(true).open(&path)?;
        match sys::configure_loop_device(device.as_fd(), image.as_raw_fd()) {
            Ok(()) => return Ok(Device { path, _held: device }),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_a_little_larger_than_the_limit_and_whole_blocks() {
        assert!(image_bytes(1 << 30) > 1 << 30);
        assert!(image_bytes(1 << 30) < (1 << 30) / 100 * 102);
        assert_eq!(image_bytes(12_345_678) % 4096, 0);
        assert!(image_bytes(1) >= 4 << 20);
    }

    #[test]
    fn a_sparse_copy_has_the_same_bytes_and_stays_sparse() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        let copy = copy_sparse(&from, &to).unwrap();
        let mut bytes = [0; 6];
        copy.read_exact_at(&mut bytes, 32 << 20).unwrap();
        assert_eq!(&bytes, b"middle");
        assert_eq!(copy.metadata().unwrap().len(), 64 << 20);
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
