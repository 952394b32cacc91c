//! `dorian env`: the settings that point a client at the server.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::data_dir;

#[derive(Args)]
#[command(after_help = "Example:\n  eval \"$(dorian env)\" && modal run hello.py")]
pub struct EnvArgs {
    /// Folder of the server's state
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    data: PathBuf,
    /// Print JSON instead of shell commands
    #[arg(long)]
    json: bool,
}

pub fn run(args: &EnvArgs) -> Result<()> {
    let (identity, address) = data_dir::client_settings(&args.data)?;
    let settings = [
        ("MODAL_SERVER_URL", format!("http://{address}")),
        ("MODAL_TOKEN_ID", identity.token_id),
        ("MODAL_TOKEN_SECRET", identity.token_secret),
    ];
    if args.json {
        let object: serde_json::Map<_, _> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        for (name, value) in settings {
            println!("export {name}={value}");
        }
    }
    Ok(())
}
