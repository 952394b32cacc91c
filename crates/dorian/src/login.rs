//! `dorian login`: the server as a profile in the client's own configuration file.
//!
//! The file is the person's, and holds secrets of other services. So it is edited, not written anew: comments, order and
//! other profiles stay; it is replaced in one step; and a file that cannot be understood is left as it is.

mod config_file;
mod profiles;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::client_settings::ClientSettings;
use crate::data_dir;
use crate::output::{print, say};

/// Point the modal client at the server from now on
///
/// Writes the server's address and token as a profile into the modal client's own configuration file, and makes that
/// profile the active one. Other profiles, comments and the order of the file stay as they are; `modal profile activate`
/// changes back. Waits for a server that is just starting; changes nothing and fails when there is none.
#[derive(Args)]
#[command(after_help = "\
Examples:
  sudo dorian login                             then `modal run hello.py` in any shell
  sudo dorian login --profile home              another name for the profile
  sudo dorian login --config /tmp/modal.toml    another file; use it with MODAL_CONFIG_PATH=/tmp/modal.toml")]
pub struct LoginArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Name or address by which clients reach this machine [default: where the server listens]
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// Name of the profile
    #[arg(long, value_name = "NAME", default_value = "dorian")]
    profile: String,
    /// The client's configuration file [default: MODAL_CONFIG_PATH, or .modal.toml in your home]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What `login` did, for people and for programs.
#[derive(Serialize)]
struct Done {
    config: PathBuf,
    profile: String,
    server_url: String,
    /// The profile that was active before, if it was another.
    previous: Option<String>,
}

pub fn run(args: &LoginArgs) -> Result<ExitCode> {
    if args.profile.trim().is_empty() {
        bail!("a profile needs a name; leave `--profile` out for `dorian`");
    }
    let settings = ClientSettings::for_others(&args.data, args.host.as_deref())?;
    let config = config_file::locate(args.config.as_deref())?;
    let before = config_file::read(&config)?;
    let (after, previous) = profiles::with_active(&before, &args.profile, &settings)
        .with_context(|| format!("cannot add a profile to `{}`; it is left as it was", config.display()))?;
    config_file::replace(&config, &after)?;

    let done = Done { config, profile: args.profile.clone(), server_url: settings.server_url(), previous };
    if args.json {
        print(&serde_json::to_string_pretty(&done)?);
    } else {
        print(&in_words(&done));
    }
    for warning in warnings(&done) {
        say(&warning);
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(done: &Done) -> String {
    let Done { config, profile, server_url, previous } = done;
    let config = config.display();
    let back = match previous {
        Some(previous) => format!("to go back: modal profile activate {previous}"),
        None => format!("to go back: delete the section [{profile}] from {config}"),
    };
    format!("profile `{profile}` in {config} points at {server_url} and is active\n{back}")
}

/// What would make the next `modal` command surprise.
fn warnings(done: &Done) -> Vec<String> {
    let mut warnings = Vec::new();
    for name in ["MODAL_PROFILE", "MODAL_SERVER_URL", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"] {
        let overrides = std::env::var(name).is_ok_and(|value| name != "MODAL_PROFILE" || value != done.profile);
        if overrides {
            warnings.push(format!("{name} is set in this shell and wins over the profile; `unset {name}` to use it"));
        }
    }
    warnings
}
