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
/// Prints `export` lines for MODAL_SERVER_URL, MODAL_TOKEN_ID, MODAL_TOKEN_SECRET and, when clients need no proxy to reach
/// the server, MODAL_DISABLE_API_PROXY, for a shell to evaluate. They hold for that shell only, and win over the client's own
/// configuration file; `dorian login` changes the file instead. Waits for a server that is just starting; prints nothing
/// and fails when there is none.
#[derive(Args)]
#[command(after_help = "\
Examples:
  eval \"$(sudo dorian env)\" && modal run hello.py
  eval \"$(sudo dorian env --data /srv/dorian)\"
  sudo dorian env --host gpu1.example.org       for other machines, which know this one by that name
  sudo dorian env --json")]
pub struct EnvArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Name or address by which clients reach this machine [default: where the server listens]
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,
    /// Print JSON instead of shell commands
    #[arg(long)]
    json: bool,
}

pub fn run(args: &EnvArgs) -> Result<ExitCode> {
    let variables = ClientSettings::for_others(&args.data, args.host.as_deref())?.variables();
    let text = if args.json {
        let object: serde_json::Map<_, _> =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        serde_json::to_string_pretty(&object)?
    } else {
        // Tokens are letters, digits and dashes, and hosts are checked: nothing here needs quoting, but for the brackets of
        // IPv6, which mean something to some shells.
        let lines: Vec<_> = variables.iter().map(|(name, value)| format!("export {name}={}", quoted(value))).collect();
        lines.join("\n")
    };
    print(&text);
    Ok(ExitCode::SUCCESS)
}

fn quoted(value: &str) -> String {
    if value.contains('[') { format!("'{value}'") } else { value.to_owned() }
}
