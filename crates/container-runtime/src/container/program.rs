//! The program itself: a child of the first process, in a user namespace, with little left to lose.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use super::{Common, filter, prefer_for_oom, rights};
use crate::id_map;
use crate::sys::process::{self, Forked};
use crate::sys::{self, At, Doing, Failure};
use crate::wire::{Job, StartFailure};

pub struct Main {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Carries why the program could not be run; closed by running it.
    verdict: OwnedFd,
}

impl Main {
    pub fn wait_until_running(&self) -> Doing<Option<StartFailure>> {
        let mut text = Vec::new();
        let mut pipe = fs::File::from(self.verdict.try_clone().at("read the program's verdict")?);
        pipe.read_to_end(&mut text).at("read the program's verdict")?;
        if text.is_empty() {
            return Ok(None);
        }
        let failure = serde_json::from_slice(&text);
        Ok(Some(failure.unwrap_or_else(|error| StartFailure::Setup(format!("garbled verdict: {error}")))))
    }
}

pub fn start(common: &Common, job: &Job, output: [OwnedFd; 2]) -> Doing<Main> {
    let (verdict, verdict_in) = sys::close_on_exec_pipe().at("make a pipe")?;
    let (go, go_in) = sys::close_on_exec_pipe().at("make a pipe")?;
    let namespaces = if common.userns.is_some() { process::NEW_USER } else { 0 };
    match process::fork(namespaces).at("start the main process")? {
        Forked::Child => {
            drop(go_in);
            let failure = become_program(job, &output, go, common.userns.is_some());
            // Nothing is left to tell if even this fails: the launcher then sees a program that ended at once.
            let _ = fs::File::from(verdict_in).write_all(&serde_json::to_vec(&failure).unwrap_or_default());
            process::exit_now(127)
        }
        Forked::Parent { pid, pidfd } => {
            if common.userns.is_some() {
                id_map::give_to(pid)?;
            }
            prefer_for_oom(pid);
            drop(go_in);
            Ok(Main { pid, pidfd, verdict })
        }
    }
}

/// Returns only if the program could not be run.
fn become_program(job: &Job, output: &[OwnedFd; 2], go: OwnedFd, in_user_namespace: bool) -> StartFailure {
    match prepare(job, output, go, in_user_namespace) {
        Ok(()) => run(job),
        Err(failure) => failure.into(),
    }
}

fn prepare(job: &Job, output: &[OwnedFd; 2], go: OwnedFd, in_user_namespace: bool) -> Doing<()> {
    // The pipe ends when the first process has mapped our ids.
    io::copy(&mut fs::File::from(go), &mut io::sink()).at("wait for user ids")?;
    process::become_root_of_namespace().at("become root of the container")?;
    process::new_session();
    let null = sys::openat(None, "/dev/null", libc::O_RDWR).at("open `/dev/null`")?;
    process::place_fd(null.as_fd(), 0).at("connect standard input")?;
    process::place_fd(output[0].as_fd(), 1).at("connect standard output")?;
    process::place_fd(output[1].as_fd(), 2).at("connect standard error")?;
    std::env::set_current_dir(&job.cwd).at(format_args!("enter `{}`", job.cwd))?;
    // As many open files as common distributions allow; the kernel's own 1024 is too few for a busy event loop.
    process::limit(libc::RLIMIT_NOFILE, 65_536, 1_048_576).at("limit open files")?;
    process::limit(libc::RLIMIT_CORE, 0, 0).at("limit core files")?;
    // Full rights are needed to install the filter without `no_new_privs`, so they go after it.
    let rights = rights::of(job.profile, in_user_namespace);
    if rights.no_new_privileges {
        process::no_new_privileges().at("forbid new privileges")?;
    }
    process::install_filter(&filter::program()).at("install the system-call filter")?;
    process::keep_capabilities(rights.capabilities).at("drop capabilities")?;
    Ok(())
}

fn run(job: &Job) -> StartFailure {
    let Some(program) = job.argv.first().cloned() else {
        return StartFailure::Setup("no program was named".into());
    };
    let message = match exec_by_path(job, &program) {
        Ok(never) => match never {},
        Err(Failure(message)) => message,
    };
    StartFailure::Exec { program, message }
}

enum Never {}

fn exec_by_path(job: &Job, program: &str) -> Doing<Never> {
    let text = |text: &str| sys::c_string(text.as_bytes()).at(format_args!("pass `{text}`"));
    let argv = job.argv.iter().map(|arg| text(arg)).collect::<Doing<Vec<_>>>()?;
    let env = job.env.iter().map(|(key, value)| text(&format!("{key}={value}"))).collect::<Doing<Vec<_>>>()?;
    let path = job.env.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str());
    let candidates = candidates(program, path);
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in &candidates {
        let error = process::exec(&text(candidate)?, &argv, &env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => worst = error,
            _ => return Err(Failure(format!("{error} (`{candidate}`)"))),
        }
    }
    Err(explain(program, path, &worst))
}

fn explain(program: &str, path: Option<&str>, error: &io::Error) -> Failure {
    if error.kind() != io::ErrorKind::NotFound {
        return Failure(error.to_string());
    }
    Failure(match path {
        _ if program.contains('/') => "no such file in the image, or its interpreter is missing".to_string(),
        Some(path) => format!("not found in `PATH` ({path})"),
        None => format!("not found in the standard folders ({DEFAULT_PATH}); `PATH` is not set"),
    })
}

/// What the C library searches when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn candidates(program: &str, path: Option<&str>) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_string()];
    }
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|folder| format!("{}/{program}", if folder.is_empty() { "." } else { folder }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_searched_in_order_and_a_path_is_taken_as_it_is() {
        assert_eq!(candidates("python3", Some("/a:/b")), ["/a/python3", "/b/python3"]);
        assert_eq!(candidates("/bin/sh", Some("/a")), ["/bin/sh"]);
        assert_eq!(candidates("./x", None), ["./x"]);
        assert!(candidates("sh", None).contains(&"/bin/sh".to_string()));
    }
}
