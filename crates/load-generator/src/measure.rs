//! The measurements, each on a server of its own with an empty data folder.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use crate::Load;
use crate::callers::{self, Progress};
use crate::connection::{self, Client};
use crate::function;
use crate::process::ServerProcess;
use crate::runners;
use crate::server::CONTAINERS_SOCKET;
use crate::statistics::Percentiles;

/// Connections, allocator and branch predictors settle meanwhile.
const WARM_UP: Duration = Duration::from_secs(1);
/// The last requests' buffers are freed meanwhile.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Serialize)]
pub struct Capacity {
    calls_per_second: f64,
    /// Processor time of the server for one call, all its threads together.
    server_us_per_call: f64,
    /// The steady rate at which the latency was taken.
    paced_per_second: f64,
    /// From the moment when a call was due to the arrival of its result; nothing of it is spent in user code.
    latency: Percentiles,
}

#[derive(Serialize)]
pub struct Queue {
    inputs: usize,
    idle_mib: f64,
    queued_mib: f64,
    calls_per_second: f64,
    server_us_per_call: f64,
    afterwards_mib: f64,
}

pub async fn capacity(load: Load, pace: f64) -> Result<Capacity> {
    let bench = Bench::start(&load).await?;
    bench.open_containers();
    let rate = bench.closed_loop(&load, Vec::new()).await?;
    let latency = bench.open_loop(&load, pace).await?;
    Ok(Capacity {
        calls_per_second: rate.per_second,
        server_us_per_call: rate.server_us_per_call,
        paced_per_second: pace,
        latency,
    })
}

pub async fn queue(load: Load, inputs: usize) -> Result<Queue> {
    let bench = Bench::start(&load).await?;
    let idle_mib = bench.server.memory_mib()?;
    let queued = bench.fill(&load, inputs).await?;
    tokio::time::sleep(SETTLE).await;
    let queued_mib = bench.server.memory_mib()?;
    bench.open_containers();
    let rate = bench.closed_loop(&load, queued).await?;
    Ok(Queue {
        inputs,
        idle_mib,
        queued_mib,
        calls_per_second: rate.per_second,
        server_us_per_call: rate.server_us_per_call,
        afterwards_mib: bench.server.memory_mib()?,
    })
}

struct Rate {
    per_second: f64,
    server_us_per_call: f64,
}

struct Bench {
    server: ServerProcess,
    clients: Vec<Client>,
    function: String,
    containers_open: watch::Sender<bool>,
    _data: TempDir,
}

impl Bench {
    async fn start(load: &Load) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let (containers_open, open) = watch::channel(false);
        listen_for_containers(data.path(), load.slots, open)?;
        let server = ServerProcess::start(data.path())?;
        let mut clients = Vec::new();
        for _ in 0..load.clients {
            let stream = TcpStream::connect(&server.address).await?;
            stream.set_nodelay(true)?;
            clients.push(connection::connect(stream, true).await?);
        }
        let first = clients.first_mut().context("no client to deploy the function with")?;
        let function = function::deploy(first, load.containers, load.slots).await?;
        Ok(Self { server, clients, function, containers_open, _data: data })
    }

    fn open_containers(&self) {
        self.containers_open.send_replace(true);
    }

    /// Makes calls that wait, and returns their ids by caller's loop.
    async fn fill(&self, load: &Load, inputs: usize) -> Result<Vec<VecDeque<String>>> {
        let loops = load.clients * load.in_flight;
        let mut fillers = JoinSet::new();
        for number in 0..loops {
            let (mut client, function) = (self.client(number), self.function.clone());
            let share = inputs / loops + usize::from(number < inputs % loops);
            fillers.spawn(async move {
                let mut calls = VecDeque::with_capacity(share + 1);
                for _ in 0..share {
                    calls.push_back(callers::call(&mut client, &function).await?);
                }
                anyhow::Ok(calls)
            });
        }
        fillers.join_all().await.into_iter().collect()
    }

    fn client(&self, number: usize) -> Client {
        self.clients[number % self.clients.len()].clone()
    }

    /// Callers that make their next call as soon as one is answered.
    async fn closed_loop(&self, load: &Load, queued: Vec<VecDeque<String>>) -> Result<Rate> {
        let progress = Arc::new(Progress::default());
        let mut queued = queued.into_iter();
        let mut loops = JoinSet::new();
        for number in 0..load.clients * load.in_flight {
            let waiting = queued.next().unwrap_or_default();
            let (client, function) = (self.client(number), self.function.clone());
            loops.spawn(callers::keep_calling(client, function, waiting, progress.clone()));
        }
        tokio::time::sleep(WARM_UP).await;
        let (begun, before) = (Instant::now(), progress.completed.load(Ordering::Relaxed));
        let processor_before = self.server.processor_time()?;
        tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
        let calls = (progress.completed.load(Ordering::Relaxed) - before) as f64;
        let took = begun.elapsed();
        let processor = self.server.processor_time()? - processor_before;
        progress.ending.store(true, Ordering::Relaxed);
        for ended in loops.join_all().await {
            ended?;
        }
        Ok(Rate {
            per_second: calls / took.as_secs_f64(),
            server_us_per_call: processor.as_secs_f64() * 1e6 / calls.max(1.0),
        })
    }

    /// Calls at a steady rate, however fast they are answered.
    async fn open_loop(&self, load: &Load, per_second: f64) -> Result<Percentiles> {
        let (due, times) = mpsc::unbounded_channel();
        let times = Arc::new(Mutex::new(times));
        let mut loops = JoinSet::new();
        for number in 0..load.clients * load.in_flight {
            let (client, function) = (self.client(number), self.function.clone());
            loops.spawn(callers::call_on_time(client, function, times.clone()));
        }
        callers::pace(per_second, load.seconds, due);
        let mut latencies = Vec::new();
        for of_loop in loops.join_all().await {
            latencies.extend(of_loop?);
        }
        Ok(Percentiles::of(latencies))
    }
}

fn listen_for_containers(data: &Path, slots: usize, open: watch::Receiver<bool>) -> Result<()> {
    let listener = UnixListener::bind(data.join(CONTAINERS_SOCKET))?;
    tokio::spawn(runners::play(listener, slots, open));
    Ok(())
}
