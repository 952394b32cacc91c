//! `dorian run`: one program, with everything that it needs around it.
//!
//! In order: a client (installed once per data directory), a server (found, or started and stopped again), the program.
//! The user's own client settings are kept out, since they point elsewhere; what a person would pass on purpose,
//! `MODAL_ENVIRONMENT` for one, stays.

mod managed_client;
mod program;
mod python;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::config::Config;
use crate::data_dir;
use crate::output::be_quiet;
use managed_client::ManagedClient;
use program::Program;
use server::Membership;

/// The newest client that the wire is checked against (`make wire-check`), so the one that is installed by default.
const NEWEST_CLIENT: &str = "1.6.4";

/// Run one program, with a server and a client of its own if need be
///
/// Uses the server of the data directory if one is running; otherwise starts one and stops it when the program has ended.
/// The modal client is installed below the data directory the first time, with pip and the settings that pip has on this
/// machine. Ctrl-C reaches the program first. The exit code is the program's; 143 or 129 when `dorian run` was told to stop by
/// SIGTERM or SIGHUP.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian run hello.py
  sudo dorian run hello.py::main --count 3      options behind the file are the program's
  sudo dorian run --client 1.0.5 hello.py       with another version of the client
  sudo dorian run --data ./state hello.py       the server's log is in ./state/server.log")]
pub struct RunArgs {
    /// Folder for the state of the server, and for the client
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Version of the modal client
    #[arg(long, value_name = "VERSION", default_value = NEWEST_CLIENT)]
    client: String,
    /// The Python for the client and your program, 3.10 to 3.14; each gets a client of its own [default: the best on PATH]
    #[arg(long, value_name = "PROGRAM", env = "DORIAN_PYTHON")]
    python: Option<PathBuf>,
    /// Show what the program itself prints, and nothing of progress; what its containers print is hidden, too
    #[arg(short, long)]
    quiet: bool,
    /// Environment to run in
    #[arg(short, long, value_name = "NAME")]
    env: Option<String>,
    /// Take FILE as the name of a Python module
    #[arg(short)]
    module: bool,
    /// The program, and which of its functions or entry points to run
    #[arg(value_name = "FILE[::FUNC]")]
    file: String,
    /// Arguments of the program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.quiet {
        be_quiet();
    }
    require_file(args)?;
    server::require_rights(&args.data)?;
    std::fs::create_dir_all(&args.data).with_context(|| {
        format!("cannot make the data directory `{}`; name another with --data", args.data.display())
    })?;
    let data = args.data.canonicalize().with_context(|| format!("cannot resolve `{}`", args.data.display()))?;
    // A mistake in it is said before a client is installed.
    Config::read(&data)?;

    let client = ManagedClient::ensure(&data, &args.client, args.python.as_deref())?;
    let server = Membership::enter(&data)?;
    let program = Program {
        client,
        settings: server.settings()?,
        arguments: client_arguments(args),
        // Never written by us: an empty configuration, so that nobody's profile is read.
        config: data.join("client/modal.toml"),
    };
    let code = program.run_to_end();
    server.leave();
    Ok(ExitCode::from(code?))
}

/// Said before anything is started or installed.
fn require_file(args: &RunArgs) -> Result<()> {
    let file = args.file.split("::").next().unwrap_or_default();
    if args.module || Path::new(file).exists() {
        return Ok(());
    }
    if file.ends_with(".py") {
        bail!("cannot run `{file}`: there is no such file");
    }
    // The oldest clients take the name of a module without being told that it is one.
    if !args.client.starts_with("0.") {
        bail!("cannot run `{file}`: there is no such file; if it is the name of a Python module, add `-m`");
    }
    Ok(())
}

/// What `modal` is called with.
fn client_arguments(args: &RunArgs) -> Vec<String> {
    let mut arguments = vec!["run".to_owned()];
    if args.quiet {
        arguments.push("--quiet".to_owned());
    }
    if let Some(environment) = &args.env {
        arguments.extend(["--env".to_owned(), environment.clone()]);
    }
    if args.module {
        arguments.push("-m".to_owned());
    }
    arguments.push(args.file.clone());
    arguments.extend(args.args.iter().cloned());
    arguments
}
