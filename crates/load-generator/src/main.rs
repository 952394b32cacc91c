//! How many calls the server carries, how much it adds to each, and what it needs for those that wait.
//!
//! Two processes. The *server* is the control plane as `dorian up` runs it, with a worker that makes no containers:
//! for each task it connects to the generator instead, and hands the connection on as the task's own API socket. The
//! *generator* speaks the client's wire on both sides of it, as callers over TCP with the token, and as runners over
//! Unix sockets. So everything between a call and a container is the real thing, and its memory and processor time
//! are those of one process.
//!
//! Generator and server share the machine's cores, so a closed loop measures both: the processor time that the
//! server spent on a call, which is reported beside the rate, says what it would do with the cores to itself.

mod callers;
mod connection;
mod function;
mod measure;
mod process;
mod runners;
mod server;
mod statistics;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// A load generator that speaks the client's wire, as callers and as containers; prints one line of JSON
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Calls per second with callers that never pause, then the latency at a steady rate
    Capacity {
        #[command(flatten)]
        load: Load,
        /// The steady rate: half of what the server is meant to carry
        #[arg(long, default_value_t = 5_000.0)]
        pace: f64,
    },
    /// Memory with a queue of this length, and calls per second while it stays that long
    Queue {
        #[command(flatten)]
        load: Load,
        /// Inputs that wait, each of a call of its own
        #[arg(long, default_value_t = 100_000)]
        inputs: usize,
    },
    /// The server's process (the others start it)
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        data: PathBuf,
    },
}

#[derive(Args, Clone)]
pub struct Load {
    /// Callers, each with a connection of its own
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Containers, each with a socket of its own
    #[arg(long, default_value_t = 8)]
    containers: usize,
    /// Calls that each caller has open at once
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Inputs that each container runs at once
    #[arg(long, default_value_t = 4)]
    slots: usize,
    /// Length of a measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Threads of the generator's own
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Serve { data } => server::run(&data),
        Command::Capacity { load, pace } => print(load.threads, measure::capacity(load, pace)),
        Command::Queue { load, inputs } => print(load.threads, measure::queue(load, inputs)),
    }
}

fn print<T: serde::Serialize>(threads: usize, measurement: impl Future<Output = Result<T>>) -> Result<()> {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    println!("{}", serde_json::to_string(&tokio.block_on(measurement)?)?);
    Ok(())
}
