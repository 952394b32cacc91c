//! Runs one program in a build container and reads its output line by line.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use container_runtime::{Bind, ContainerSpec, Exit, LayeredMount, Limits, Network, Profile, Runtime, Tmpfs};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{BuildLog, LogStream};

/// A line longer than this is cut into several: a program that never prints a newline must not fill the memory.
const LONGEST_LINE: usize = 16 * 1024;
/// Enough for any parallel compilation; a fork bomb ends here.
const MOST_PROCESSES: u32 = 32_768;
/// Lines kept for the error message of a failed step.
const TAIL_LINES: usize = 20;

/// What to run. The runtime's own specification is wider; builds vary only in this.
#[derive(Default)]
pub(crate) struct Program {
    /// Lowest first.
    pub layers: Vec<PathBuf>,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub network: bool,
    pub tmpfs: Vec<Tmpfs>,
    pub binds: Vec<Bind>,
    pub volumes: Vec<LayeredMount>,
    /// `scratch/diff` becomes what it wrote.
    pub scratch: PathBuf,
}

pub(crate) struct Outcome {
    pub exit: Exit,
    /// The last lines of both streams, as they came.
    pub tail: Vec<String>,
}

impl Outcome {
    pub fn succeeded(&self) -> bool {
        self.exit.code == Some(0)
    }

    pub fn reason(&self) -> String {
        match (self.exit.oom_killed, self.exit.code, self.exit.signal) {
            (true, ..) => "out of memory".to_owned(),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, None, Some(signal)) => format!("killed by signal {signal}"),
            (_, None, None) => "it vanished".to_owned(),
        }
    }
}

/// Runs to the end. Dropping the future kills the container.
pub(crate) async fn run(runtime: &Runtime, program: Program, logs: &LogSink) -> Result<Outcome, BuildError> {
    let tail = Arc::new(Mutex::new(VecDeque::new()));
    let pipe = || output_pipe().map_err(BuildError::io("make a pipe for a build step"));
    let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
    let random: u64 = rand::random();
    let spec = ContainerSpec {
        id: format!("build-{random:016x}"),
        layers: program.layers,
        scratch: program.scratch,
        argv: program.argv,
        env: program.env.into(),
        cwd: program.cwd,
        hostname: "build".to_owned(),
        tmpfs: program.tmpfs,
        binds: program.binds,
        volumes: program.volumes,
        network: if program.network { Network::Nat } else { Network::None },
        limits: Limits { pids: Some(MOST_PROCESSES), ..Limits::default() },
        profile: Profile::Build,
        stdout: stdout_end,
        stderr: stderr_end,
        loopback_port: None,
    };
    let container = runtime.create(spec).await.map_err(|error| BuildError::Container(Arc::new(error)))?;
    let read = async {
        tokio::join!(
            read_lines(stdout, LogStream::Stdout, logs, &tail),
            read_lines(stderr, LogStream::Stderr, logs, &tail)
        )
    };
    // The pipes close when the last process of the container has gone, which is when the container has ended.
    let (exit, _) = tokio::join!(container.wait(), read);
    let tail = tail.lock().drain(..).collect();
    Ok(Outcome { exit, tail })
}

fn output_pipe() -> std::io::Result<(tokio::net::unix::pipe::Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let read = tokio::net::unix::pipe::Receiver::from_owned_fd(read)?;
    Ok((read, write))
}

async fn read_lines(
    mut from: impl AsyncRead + Unpin,
    stream: LogStream,
    logs: &LogSink,
    tail: &Mutex<VecDeque<String>>,
) {
    let mut pending = Vec::new();
    let mut buffer = vec![0; 8192];
    let emit = |line: &[u8]| {
        // A progress bar rewrites its line after a carriage return; the last state is the one to show.
        let shown = line.split(|byte| *byte == b'\r').rfind(|part| !part.is_empty()).unwrap_or_default();
        // Output need not be UTF-8; what is not becomes a replacement character.
        let text = String::from_utf8_lossy(shown).into_owned();
        let mut tail = tail.lock();
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.clone());
        drop(tail);
        logs.send(BuildLog { text, stream });
    };
    loop {
        // A read error on a pipe means the same as its end: nothing more will come.
        let count = from.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            break;
        }
        for byte in &buffer[..count] {
            if *byte == b'\n' {
                emit(&pending);
                pending.clear();
            } else {
                pending.push(*byte);
                if pending.len() >= LONGEST_LINE {
                    emit(&pending);
                    pending.clear();
                }
            }
        }
    }
    if !pending.is_empty() {
        emit(&pending);
    }
}

/// The lowest layer of every build container: empty places for what is mounted there while a step runs. Without it
/// the runtime would have to create them in the writable layer, and they would end up in the image.
pub(crate) fn make_mount_points(folder: &Path) -> Result<(), BuildError> {
    let own = ["cache/pip", "cache/uv", "cache/apt", "cache/debs", "out"].map(|name| format!("__dorian/{name}"));
    let folders = own.into_iter().chain(["dev", "proc", "sys", "tmp", "run", "etc"].map(str::to_owned));
    let files = ["__dorian/ca-bundle.pem", "__dorian/apt.conf", "etc/resolv.conf", "etc/hosts", "etc/hostname"];
    for path in folders.map(|name| folder.join(name)) {
        fs::create_dir_all(&path).map_err(BuildError::on("create", &path))?;
    }
    for path in files.map(|name| folder.join(name)) {
        if !path.exists() {
            fs::write(&path, "").map_err(BuildError::on("create", &path))?;
        }
    }
    let tmp = folder.join("tmp");
    fs::set_permissions(&tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777))
        .map_err(BuildError::on("set the mode of", &tmp))
}
