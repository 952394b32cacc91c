//! The modal client that `dorian run` installs: an environment per version, below the data directory, made once.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::python::{self, Python};
use crate::output::step;

/// The oldest client whose wire is served.
const OLDEST: (u32, u32) = (0, 63);
/// Enough of what pip said to see why.
const LAST_LINES: usize = 12;

pub struct ManagedClient {
    pub bin: PathBuf,
}

impl ManagedClient {
    /// The client of this version, installed if it is not there. With a Python that was asked for, in an environment of
    /// that Python's own; otherwise in whichever was made first.
    pub fn ensure(data: &Path, version: &str, python: Option<&Path>) -> Result<Self> {
        let requirements = requirements(version)?;
        let asked = python.map(|program| python::choose(Some(program))).transpose()?;
        let name = match &asked {
            Some(python) => format!("{version}-{}", python.label()),
            None => version.to_owned(),
        };
        let home = data.join("client").join(name);
        let client = Self { bin: home.join("bin") };
        if client.is_complete(&home) {
            return Ok(client);
        }
        fs::create_dir_all(data.join("client")).with_context(|| {
            format!("cannot write to the data directory `{}`; name another with --data", data.display())
        })?;
        let _lock = lock(&beside(&home, "lock"))?;
        // Another run may have made it meanwhile.
        if !client.is_complete(&home) {
            let python = asked.map_or_else(|| python::choose(None), Ok)?;
            install(&home, &requirements, &python)?;
        }
        Ok(client)
    }

    /// Made to the end, and by a Python that is still there.
    fn is_complete(&self, home: &Path) -> bool {
        marker(home).exists() && self.bin.join("python").exists()
    }
}

/// Written last: an environment without it was interrupted, and is made anew. It cannot be made elsewhere and moved, since
/// its scripts name their own folder.
fn marker(home: &Path) -> PathBuf {
    home.join("complete")
}

/// `1.6.4.log` beside `1.6.4`.
fn beside(home: &Path, extension: &str) -> PathBuf {
    let mut path = home.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    path.into()
}

fn install(home: &Path, requirements: &[String], python: &Python) -> Result<()> {
    let log = beside(home, "log");
    let (major, minor) = python.version;
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("cannot remove the unfinished `{}`", home.display()))?;
    }
    step(
        &format!("installing {} with Python {major}.{minor} into {} (once)", requirements[0], home.display()),
        || {
            let mut venv = Command::new(&python.program);
            venv.args(["-m", "venv"]).arg(home);
            execute(venv, &log, "cannot make a Python environment")?;
            let mut pip = Command::new(home.join("bin/python"));
            // pip's own settings (an index, a proxy, a CA) are the host's: its files and variables are left to it.
            pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]);
            pip.args(requirements);
            execute(pip, &log, &format!("cannot install `{}`; pip must reach a package index", requirements[0]))
        },
    )?;
    let done = marker(home);
    fs::write(&done, requirements.join("\n")).with_context(|| format!("cannot write `{}`", done.display()))
}

/// What pip is asked for. Clients before 1.1 take any `typer` and `click`, and break on ones that came years later; the
/// oldest import `pkg_resources`, which newer `setuptools` have dropped.
fn requirements(version: &str) -> Result<Vec<String>> {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor)), true) = (numbers.next(), numbers.next(), numbers.all(|part| part.is_ok()))
    else {
        bail!("`{version}` is not a version of the modal client like 1.6.4");
    };
    if (major, minor) < OLDEST {
        bail!("the modal client {version} is too old; {}.{} is the oldest that is served", OLDEST.0, OLDEST.1);
    }
    let mut requirements = vec![format!("modal=={version}")];
    if (major, minor) < (1, 1) {
        requirements.extend(["typer<0.16", "click<8.2", "setuptools<81"].map(str::to_owned));
    }
    Ok(requirements)
}

/// Runs a command with its output in a log, whose end is part of the error.
fn execute(mut command: Command, log: &Path, what: &str) -> Result<()> {
    let out = File::create(log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let errors = out.try_clone().with_context(|| format!("cannot write `{}`", log.display()))?;
    let program = command.get_program().to_owned();
    let status = command.stdin(Stdio::null()).stdout(out).stderr(errors).status();
    let status = status.with_context(|| format!("cannot run `{}`", program.to_string_lossy()))?;
    if !status.success() {
        let said = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        bail!("{what} ({status}):\n{last}\nall of it in `{}`", log.display());
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open `{}`", path.display()))?;
    // SAFETY: flock only reads the descriptor, which `file` keeps open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_pinned_and_old_ones_get_the_packages_of_their_day() {
        assert_eq!(requirements("1.6.4").unwrap(), ["modal==1.6.4"]);
        assert_eq!(requirements("1.0.5").unwrap(), ["modal==1.0.5", "typer<0.16", "click<8.2", "setuptools<81"]);
    }

    #[test]
    fn a_version_that_is_none_or_too_old_is_refused() {
        for version in ["", "latest", "1", "1.x", "1.6.4 evil", "0.62.9", "-1.0"] {
            assert!(requirements(version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_failed_command_shows_the_end_of_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such index; exit 3"]);
        let error = execute(command, &folder.path().join("log"), "cannot install `x`").unwrap_err().to_string();
        assert!(error.contains("cannot install `x`") && error.contains("no such index"), "{error}");
    }
}
