//! The binary: reads the command line and hands over to one file per command.

mod admin;
mod builds;
mod client_settings;
mod config;
mod data_dir;
mod disk;
mod env;
mod gc;
mod greeting;
mod layers;
mod login;
mod memory;
mod open_files;
mod output;
mod person;
mod run;
mod running_server;
mod schedules;
mod up;
mod volumes;

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
  sudo dorian run hello.py          run one program; what it needs is started, and stopped again

  sudo dorian up                    serve on 127.0.0.1:9900, keep state in /var/lib/dorian
  sudo dorian login                 point the modal client at it from now on
  modal run hello.py

  sudo dorian builds                which images are being built, and how far that is
  sudo dorian disk                  what takes up the disk, and what could go
  sudo dorian layers                what image builds left on disk, and why it stays
  sudo dorian gc                    remove what nothing needs
  sudo dorian schedules             which functions run by themselves, and when
  sudo dorian volumes               what containers could not commit, and getting it back

Dorian is not affiliated with Modal Labs. Logging: DORIAN_LOG=debug.
";

#[derive(Subcommand)]
enum Command {
    /// Run the platform on this machine until it is told to stop
    Up(up::UpArgs),
    Run(run::RunArgs),
    Env(env::EnvArgs),
    Login(login::LoginArgs),
    Builds(builds::BuildsArgs),
    Disk(disk::DiskArgs),
    Layers(layers::LayersArgs),
    Gc(gc::GcArgs),
    Schedules(schedules::SchedulesArgs),
    Volumes(volumes::VolumesArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => up::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(&args),
        Command::Env(args) => env::run(&args),
        Command::Login(args) => login::run(&args),
        Command::Builds(args) => builds::run(&args),
        Command::Disk(args) => disk::run(&args),
        Command::Layers(args) => layers::run(&args),
        Command::Gc(args) => gc::run(&args),
        Command::Schedules(args) => schedules::run(&args),
        Command::Volumes(args) => volumes::run(&args),
    };
    result.unwrap_or_else(|error| {
        output::say(&format!("{error:#}"));
        ExitCode::from(1)
    })
}
