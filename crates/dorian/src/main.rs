//! The binary: reads the command line and hands over to one file per command.

mod data_dir;
mod env;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A serverless platform for Python on your own machines, for programs written for Modal.
#[derive(Parser)]
#[command(name = "dorian", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dorian up                         serve on 127.0.0.1:9900, keep state in /var/lib/dorian
  eval \"$(dorian env)\"              point this shell's modal client at it
  modal run hello.py                run a program
";

#[derive(Subcommand)]
enum Command {
    /// Run the platform on this machine until it is told to stop
    Up(up::UpArgs),
    /// Print the settings with which a modal client reaches the server
    Env(env::EnvArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Env(args) => env::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dorian: {error:#}");
            ExitCode::from(1)
        }
    }
}
