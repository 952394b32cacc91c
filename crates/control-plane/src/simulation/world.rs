//! What outlives the server: the disk, the callers' memory, the ledger, and the seed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use blob_store::{DiskBlobs, DiskConfig};
use container_runtime::{Runtime, RuntimeConfig};
use image_builder::{BuilderConfig, ImageBuilder};
use metadata_store::{Fate, MetadataStore, SimulatedDisk, Write};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;
use types::ids::AppId;
use volume_fs::Volumes;
use worker_protocol::{Capacity, WorkerHandle};

use super::callers::{CallMemory, Program};
use super::ledger::{Ledger, Rules};
use super::machine;
use super::scenario::{Faults, Scenario, millis};
use crate::clock;
use crate::logs::LogKeeper;
use crate::rpc::Api;
use crate::{Config, LogLimits, Opened, Parts, testing};

/// When the day begins: any time will do, as long as every day has the same.
const MORNING_MS: u64 = 1_800_000_000_000;
/// From here on nothing fails any more, so that everything can end.
const FAULTS_END_MS: u64 = 60_000;
/// By then everything has ended.
const EVENING: Duration = Duration::from_secs(6 * 3600);
/// How often it is looked whether all is gone: a minute of the day, and some milliseconds, apart.
const LOOKS: usize = 600;
/// A machine that is stopped and started again.
const DOWN_MS: u64 = 2_000;

pub struct World {
    pub seed: u64,
    pub scenario: Scenario,
    pub ledger: Mutex<Ledger>,
    pub program: Mutex<Program>,
    pub calls: Vec<Mutex<CallMemory>>,
    random: Mutex<StdRng>,
    disk: SimulatedDisk,
    is_kind: Arc<AtomicBool>,
    is_loud: bool,
    /// How much of the day was over when this life of the server began, and when that was.
    over_before_ms: AtomicU64,
    life_began: Mutex<Option<Instant>>,
    /// By how much the wall clock is wrong.
    wall_is_off_ms: AtomicI64,
    keys: AtomicU64,
    kills: Mutex<Vec<u64>>,
}

/// What is dear to make and takes no part: one for each thread.
struct Surroundings {
    builder: ImageBuilder,
    blobs: DiskBlobs,
    volumes: Volumes,
    logs: Arc<LogKeeper>,
    contents: contents_store::ContentsStore,
    folder: tempfile::TempDir,
}

thread_local! {
    static SURROUNDINGS: RefCell<Option<Surroundings>> = const { RefCell::new(None) };
}

impl Surroundings {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let runtime = Runtime::without_launcher(RuntimeConfig::new(at("runtime"))).unwrap();
        Self {
            builder: ImageBuilder::new(BuilderConfig::new(at("images")), runtime).unwrap(),
            blobs: DiskBlobs::open(&at("blobs"), DiskConfig::default()).unwrap(),
            volumes: Volumes::open(&at("volumes")).unwrap(),
            logs: LogKeeper::open(at("logs"), LogLimits::default()).unwrap(),
            contents: contents_store::ContentsStore::open(&at("contents.sqlite"), 1).unwrap(),
            folder,
        }
    }
}

impl World {
    pub fn new(seed: u64, is_loud: bool) -> Arc<Self> {
        let scenario = Scenario::of(seed);
        let is_kind = Arc::new(AtomicBool::new(true));
        let calls = scenario.calls.iter().map(|_| Mutex::default()).collect();
        if is_loud {
            eprintln!("{scenario:#?}");
        }
        Arc::new(Self {
            seed,
            ledger: Mutex::new(Ledger::new(Rules {
                timeout_ms: u64::from(scenario.timeout_secs) * 1000,
                idle_ms: u64::from(scenario.idle_secs) * 1000,
                single_use: scenario.single_use,
                retries: scenario.retries,
            })),
            program: Mutex::default(),
            calls,
            random: Mutex::new(StdRng::seed_from_u64(!seed)),
            disk: disk(seed, scenario.faults, is_kind.clone()),
            is_kind,
            is_loud,
            over_before_ms: AtomicU64::new(0),
            life_began: Mutex::default(),
            wall_is_off_ms: AtomicI64::new(0),
            keys: AtomicU64::new(0),
            kills: Mutex::new(scenario.kills.clone()),
            scenario,
        })
    }

    pub fn live_through(self: &Arc<Self>) {
        while !self.live() {
            self.say("the server is gone");
            self.ledger.lock().server_died();
            self.over_before_ms.fetch_add(DOWN_MS, Ordering::Relaxed);
        }
    }

    /// One life of the server. True when the day is over.
    fn live(self: &Arc<Self>) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let over = runtime.block_on(async {
            *self.life_began.lock() = Some(Instant::now());
            clock::simulated::begin(self.wall_ms());
            self.is_kind.store(self.day_ms() > FAULTS_END_MS, Ordering::Relaxed);
            let kill_after = self.kills.lock().pop().filter(|_| self.day_ms() < FAULTS_END_MS);
            let killed = async {
                match kill_after {
                    Some(after) => tokio::time::sleep(Duration::from_millis(after)).await,
                    None => std::future::pending().await,
                }
            };
            let over = tokio::select! {
                biased;
                () = self.disk.killed() => false,
                () = killed => false,
                over = self.day() => over,
            };
            self.over_before_ms.store(self.day_ms(), Ordering::Relaxed);
            *self.life_began.lock() = None;
            over
        });
        // Nothing of the dead server may speak to the disk any more.
        runtime.shutdown_background();
        assert!(!super::PANICKED.get(), "something panicked, above");
        over
    }

    async fn day(self: &Arc<Self>) -> bool {
        let Some(api) = self.start_server().await else { return false };
        let world = self.clone();
        tokio::spawn(async move {
            let left = FAULTS_END_MS.saturating_sub(world.day_ms());
            tokio::time::sleep(Duration::from_millis(left)).await;
            world.is_kind.store(true, Ordering::Relaxed);
        });
        tokio::spawn(self.clone().set_clocks());
        let lived = tokio::time::timeout(EVENING, super::callers::live(self, &api)).await;
        assert!(lived.is_ok(), "not everything has ended by the evening: {:?}", self.calls);
        if !self.program.lock().is_stopped() {
            // Takes hours, which take their time.
            if self.scenario.calls.iter().any(|call| call.vanishes) {
                self.all_gone(&api, "calls whose callers are done or do not come", &["calls", "items", "children"])
                    .await;
            }
            super::callers::stop(self, &api).await;
        }
        self.all_gone(&api, "a stopped app", &["functions", "containers", "calls", "items", "children"]).await;
        true
    }

    async fn start_server(self: &Arc<Self>) -> Option<Api> {
        let (commands, taken) = mpsc::channel(256);
        let (events, seen) = mpsc::channel(256);
        let capacity = Capacity { milli_cpu: 8_000, memory_mib: 64 << 10, disk_mib: 1 << 20 };
        let store = MetadataStore::simulated(&self.disk);
        if self.program.lock().is_new() {
            store.write(vec![Write::Image(testing::image())]).await.ok()?;
        }
        let (parts, opened) = SURROUNDINGS.with_borrow_mut(|found| {
            let around = found.get_or_insert_with(Surroundings::new);
            let config = Config {
                data_dir: around.folder.path().to_owned(),
                token_id: "ak-1".to_owned(),
                token_secret: "as-1".to_owned(),
                salt: format!("{}", self.seed),
                host_env: Vec::new(),
                log_limits: LogLimits::default(),
                cpu_overcommit: true,
            };
            let opened = Opened {
                logs: around.logs.clone(),
                shared_files: shared_files::SharedFiles::open(around.folder.path().join("nfs")).unwrap(),
                contents: around.contents.clone(),
            };
            let parts = Parts {
                config,
                store,
                blobs: around.blobs.clone(),
                blob_key: blob_store::load_or_create_key(&around.folder.path().join("url.key")).unwrap(),
                secret_key: [7; 32],
                builder: around.builder.clone(),
                volumes: around.volumes.clone(),
                worker: WorkerHandle { commands, capacity },
                events: seen,
            };
            (parts, opened)
        });
        // A full disk may be too full to begin.
        let shared = crate::begin(parts, opened).await.ok()?;
        let api = Api { shared };
        tokio::spawn(machine::work(self.clone(), api.clone(), taken, events));
        Some(api)
    }

    /// Nothing stays that runs, waits or takes memory.
    async fn all_gone(self: &Arc<Self>, api: &Api, of: &str, kinds: &[&str]) {
        let left = || self.what_is_left(api).into_iter().filter(|(kind, count)| kinds.contains(kind) && *count > 0);
        for _ in 0..LOOKS {
            tokio::time::sleep(Duration::from_secs(60)).await;
            if left().next().is_none() {
                return;
            }
            // The writer of logs is a thread with a time of its own.
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("what is left of {of}: {:?}", left().collect::<Vec<_>>());
    }

    fn what_is_left(&self, api: &Api) -> BTreeMap<&'static str, usize> {
        let (shared, app) = (&api.shared, AppId::parse(&self.program.lock().app).unwrap());
        BTreeMap::from([
            ("functions", shared.owners_of(&app).len()),
            ("containers", shared.tasks.all().len()),
            ("calls", shared.calls.len()),
            ("children", shared.children.len()),
            ("items", shared.generators.len()),
        ])
    }

    /// What no clock of the machine says: how much of the day is over.
    pub fn day_ms(&self) -> u64 {
        let lived = self.life_began.lock().map_or(0, |began| began.elapsed().as_millis() as u64);
        self.over_before_ms.load(Ordering::Relaxed) + lived
    }

    fn wall_ms(&self) -> u64 {
        (MORNING_MS + self.day_ms()).saturating_add_signed(self.wall_is_off_ms.load(Ordering::Relaxed))
    }

    /// Somebody sets the wall clock, or a machine that slept has it set.
    async fn set_clocks(self: Arc<Self>) {
        for (at, by) in &self.scenario.clock_jumps {
            let Some(until) = at.checked_sub(self.day_ms()) else { continue };
            tokio::time::sleep(Duration::from_millis(until)).await;
            self.say(&format!("the wall clock jumps by {by} ms"));
            self.wall_is_off_ms.fetch_add(*by, Ordering::Relaxed);
            clock::simulated::set_wall(self.wall_ms());
        }
    }

    /// Whether something goes wrong now.
    pub fn happens(&self, chance: impl Fn(&Faults) -> f64) -> bool {
        !self.is_kind.load(Ordering::Relaxed) && self.draw(|random| random.random_bool(chance(&self.scenario.faults)))
    }

    pub fn draw<T>(&self, from: impl FnOnce(&mut StdRng) -> T) -> T {
        from(&mut self.random.lock())
    }

    pub fn new_key(&self) -> String {
        format!("{}-{}", self.seed, self.keys.fetch_add(1, Ordering::Relaxed))
    }

    pub fn say(&self, what: &str) {
        if self.is_loud {
            eprintln!("{:>9} {what}", self.day_ms());
        }
    }
}

fn disk(seed: u64, faults: Faults, is_kind: Arc<AtomicBool>) -> SimulatedDisk {
    let random = Mutex::new(StdRng::seed_from_u64(seed ^ 0xD15C));
    SimulatedDisk::new(move || {
        let random = &mut *random.lock();
        if is_kind.load(Ordering::Relaxed) {
            return Fate::Stored { after: Duration::from_millis(1) };
        }
        let after = millis(random, faults.slow_disk_ms);
        if random.random_bool(faults.killed_write) {
            return Fate::Killed { after, stored: random.random_bool(0.5) };
        }
        if random.random_bool(faults.full_disk) { Fate::NoSpace { after } } else { Fate::Stored { after } }
    })
}
