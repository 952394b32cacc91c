//! Makes Debian bases with mmdebstrap.
//!
//! A base looks to recipes like the official image of the same name: `python`, `python3`, `pip` and `pip3` are in
//! `/usr/local/bin`, pip installs into `/usr/local` as root, headers for building extensions are there, nothing is
//! marked as externally managed. Pip itself comes from the wheel that Debian ships for its `venv`, so no download
//! besides the mirror's is needed.
//!
//! mmdebstrap mounts `/proc`, `/sys` and `/dev` in the new root. It runs in a mount and pid namespace of its own, so
//! that all of this ends with it, however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{fs, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::well_known::DebianBase;
use crate::error::BuildError;
use crate::logs::LogSink;

pub(crate) const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY: &str = "http://deb.debian.org/debian-security";

/// Kept out of the base, as in the official slim images. The static libraries of Python are 20 MB that only embedding
/// programs link. These rules stay in force for packages that a recipe installs.
const DPKG_OPTIONS: [&str; 8] = [
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/lib/python3*/config-3*/lib*.a",
];

/// What `unshare` ends with when there is no such program.
const NOT_FOUND: i32 = 127;

/// Writes the root filesystem to `target`, which must not exist. Dropping the future stops the work.
pub(crate) async fn bootstrap(
    base: DebianBase,
    mirror: Option<&str>,
    target: &Path,
    logs: &LogSink,
) -> Result<(), BuildError> {
    let (answer, done) = oneshot::channel();
    let (mut command, logs, title) = (command(base, mirror, target), logs.clone(), base.title());
    let child = Arc::new(Mutex::new(Child::NotStarted));
    let _kill_when_dropped = KillOnDrop(child.clone());
    // A thread of its own: the kernel ties `--pdeathsig` to the thread that started the child, and a pool's thread may end
    // at any time.
    let work = move || drop(answer.send(run(&mut command, &title, &logs, &child)));
    thread::Builder::new()
        .name("mmdebstrap".to_owned())
        .spawn(work)
        .map_err(BuildError::io("start a thread for `mmdebstrap`"))?;
    done.await.unwrap_or(Err(BuildError::Abandoned))
}

enum Child {
    NotStarted,
    /// Until it is about to be reaped, so that no other process is ever hit.
    Running(rustix::process::Pid),
    Ended,
    /// Nobody waits for it any more: it must not start.
    Unwanted,
}

struct KillOnDrop(Arc<Mutex<Child>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Child::Running(process) = std::mem::replace(&mut *self.0.lock(), Child::Unwanted) {
            // It may have ended by itself just now, which is as good.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

/// Holds the lock for as long as a start takes, so that whoever gives up either prevents the child or kills it.
fn start(command: &mut Command, state: &Mutex<Child>) -> Result<std::process::Child, BuildError> {
    let mut state = state.lock();
    if matches!(*state, Child::Unwanted) {
        return Err(BuildError::Abandoned);
    }
    let missing = "start `mmdebstrap` (for which `setpriv` is needed: `apt-get install util-linux mmdebstrap`)";
    let child = command.spawn().map_err(BuildError::io(missing))?;
    if let Some(process) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        *state = Child::Running(process);
    }
    Ok(child)
}

fn run(command: &mut Command, title: &str, logs: &LogSink, state: &Mutex<Child>) -> Result<(), BuildError> {
    let mut child = start(command, state)?;
    let output = child.stderr.take();
    let mut tail = Vec::new();
    for line in output.into_iter().flat_map(|stream| BufReader::new(stream).split(b'\n')).map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        // Lines with a prefix are mmdebstrap's own; the rest is dpkg's chatter.
        if let Some(progress) = line.strip_prefix("I: ").filter(|progress| !progress.contains("-hook")) {
            logs.say(format!("{title}: {progress}"));
        }
        tail.push(line);
        if tail.len() > 20 {
            tail.remove(0);
        }
    }
    *state.lock() = Child::Ended;
    let status = child.wait().map_err(BuildError::io("wait for `mmdebstrap`"))?;
    if status.success() {
        return Ok(());
    }
    let tail = tail.join("\n  ");
    let hint = match status.code() {
        Some(NOT_FOUND) => "\nhint: install it on the server's machine, with `apt-get install mmdebstrap`",
        _ => "",
    };
    Err(BuildError::Base(format!("cannot make {title} with `mmdebstrap` ({status}):\n  {tail}{hint}")))
}

fn command(base: DebianBase, mirror: Option<&str>, target: &Path) -> Command {
    let suite = base.suite();
    let mirror = mirror.unwrap_or(DEFAULT_MIRROR).trim_end_matches('/');
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
    command.args(["mmdebstrap", "--variant=apt", "--mode=root", "--format=directory"]);
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    command.args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")));
    // Without this hook the set-up of a merged /usr pulls in Perl.
    if suite == "bookworm" {
        command.arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr");
    }
    command.arg(format!("--include={}", packages(base).join(",")));
    command.arg(format!("--customize-hook={}", customize(base)));
    command.arg(suite).arg(target);
    command.arg(format!("deb {mirror} {suite} main"));
    command.arg(format!("deb {mirror} {suite}-updates main"));
    if let Some(security) = security_mirror(mirror) {
        command.arg(format!("deb {security} {suite}-security main"));
    }
    command.env_clear();
    let kept = [
        "PATH",
        "HOME",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
    ];
    command.envs(kept.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    command.env("LC_ALL", "C.UTF-8");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn packages(base: DebianBase) -> Vec<String> {
    let mut packages: Vec<String> = ["ca-certificates", "netbase", "tzdata"].map(str::to_owned).to_vec();
    if base.suite() == "bookworm" {
        packages.push("usr-is-merged".to_owned());
    }
    if let Some(python) = base.python() {
        packages.push("python3".to_owned());
        packages.push(format!("python{python}-venv"));
        // Headers: the official image has them, and packages without a wheel need them.
        packages.push(format!("libpython{python}-dev"));
    }
    packages
}

/// Archives keep security updates next to the main ones; a mirror laid out otherwise goes without.
fn security_mirror(mirror: &str) -> Option<String> {
    if mirror == DEFAULT_MIRROR {
        return Some(DEFAULT_SECURITY.to_owned());
    }
    mirror.ends_with("/debian").then(|| format!("{mirror}-security"))
}

/// Shell text that finishes the root in `$1`.
fn customize(base: DebianBase) -> String {
    let suite = base.suite();
    // What was copied from this machine has no place in an image, nor does the mirror that happened to be used.
    let mut script = format!(
        r#"set -e; cd "$1"
rm -f etc/resolv.conf etc/hostname etc/apt/sources.list
cat > etc/apt/sources.list.d/debian.sources <<EOF
Types: deb
URIs: {DEFAULT_MIRROR}
Suites: {suite} {suite}-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: {DEFAULT_SECURITY}
Suites: {suite}-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
EOF
rm -rf var/lib/apt/lists/* var/log/apt var/log/dpkg.log var/log/bootstrap.log var/cache/ldconfig
mkdir -p var/lib/apt/lists/partial
"#
    );
    if base.python().is_some() {
        script.push_str(
            r#"rm -f usr/lib/python3*/EXTERNALLY-MANAGED
ln -s /usr/bin/python3 usr/local/bin/python3
ln -s /usr/bin/python3 usr/local/bin/python
chroot . sh -ec 'cd /usr/share/python-wheels
set -- pip; if ls setuptools-*.whl >/dev/null 2>&1; then set -- pip setuptools; fi
wheel=$(echo pip-*.whl)
exec python3 $wheel/pip install --no-index --find-links=. --no-cache-dir --root-user-action=ignore "$@"' >&2
"#,
        );
    }
    script
}

/// The mirror in this machine's own apt configuration, so that a machine with a local mirror uses it.
pub(crate) fn host_mirror() -> Option<String> {
    let mut files = vec!["/etc/apt/sources.list".into()];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").ok()?.flatten().map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|path| fs::read_to_string(path).ok()).find_map(|text| mirror_in(&text))
}

/// The first archive in a sources file, of either format, that is laid out like Debian's.
fn mirror_in(text: &str) -> Option<String> {
    let candidates = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(|line| {
        match line.split_once(':') {
            Some(("URIs", rest)) => rest.split_whitespace().next(),
            _ if line.starts_with("deb ") => line.split_whitespace().find(|word| word.contains("://")),
            _ => None,
        }
    });
    let mut mirrors = candidates.map(|url| url.trim_end_matches('/'));
    mirrors.find(|url| url.ends_with("/debian") && url.starts_with("http")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_mirror_is_read_from_both_formats() {
        let new = "Types: deb\n# URIs: http://old/debian\nURIs: https://mirror.example/debian/\nSuites: trixie\n";
        assert_eq!(mirror_in(new).as_deref(), Some("https://mirror.example/debian"));
        let old = "# deb http://x/debian a main\ndeb [signed-by=/k] http://mirror.example/debian bookworm main\n";
        assert_eq!(mirror_in(old).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_in("deb https://packages.example/apt stable main"), None);
    }

    #[test]
    fn a_mirror_of_another_layout_has_no_security_archive() {
        assert_eq!(security_mirror("http://m/debian").as_deref(), Some("http://m/debian-security"));
        assert_eq!(security_mirror("http://m/pub"), None);
    }
}
