//! `dorian env`: the settings that point a client at the server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::client_settings::ClientSettings;
use crate::data_dir;
use crate::output::print;

/// Print the settings with which a modal client reaches the server
///
/// Prints `export` lines for MODAL_SERVER_URL, MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, for a shell to evaluate. They hold
/// for that shell only, and win over the client's own configuration file; `dorian login` changes the file instead.
#[derive(Args)]
#[command(after_help = "\
Examples:
  eval \"$(dorian env)\" && modal run hello.py
  eval \"$(sudo dorian env --data /srv/dorian)\"
  dorian env --json")]
pub struct EnvArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Print JSON instead of shell commands
    #[arg(long)]
    json: bool,
}

pub fn run(args: &EnvArgs) -> Result<ExitCode> {
    let variables = ClientSettings::read(&args.data)?.variables();
    let text = if args.json {
        let object: serde_json::Map<_, _> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        serde_json::to_string_pretty(&object)?
    } else {
        // Tokens are letters, digits and dashes, and addresses have no blanks: nothing here needs quoting.
        let lines: Vec<_> = variables.iter().map(|(name, value)| format!("export {name}={value}")).collect();
        lines.join("\n")
    };
    print(&text);
    Ok(ExitCode::SUCCESS)
}
