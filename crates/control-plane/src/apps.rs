//! Apps: what is known of each, and what becomes of one whose client leaves.

pub mod ending;
pub mod life;
#[cfg(test)]
mod shell_tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use calls::Millis;
use metadata_store::{AppRecord, AppState};
use parking_lot::Mutex;
use types::ids::{AppId, ClassId, EnvironmentId, FunctionId};

use crate::deployments::Drafts;
use crate::logs::AppLog;

/// A client sends a heartbeat every 15 s. After four missed ones it is taken for dead: long enough for a laptop's
/// network change, short enough that forgotten containers do not run for long.
pub const HEARTBEAT_PATIENCE_MS: Millis = 60_000;

/// What an app's names mean: its functions and its classes.
pub type Layout = (BTreeMap<String, FunctionId>, BTreeMap<String, ClassId>);

/// What is answered to whoever publishes.
#[derive(Debug, Clone)]
pub struct Published {
    pub at: Millis,
    /// What of it is refused.
    pub warning: Option<String>,
}

pub struct App {
    pub id: AppId,
    pub environment: EnvironmentId,
    record: Mutex<AppRecord>,
    pub log: AppLog,
    pub drafts: Drafts,
    /// What an old client has named, until it says that this is to be deployed.
    pub named: Mutex<Option<Layout>>,
    /// Key and reply of the last publication: a client that lost the reply asks again.
    pub last_publication: Mutex<Option<(String, Published)>>,
    last_heartbeat: AtomicU64,
    /// Held by the one change of the record that goes on, over its write.
    turn: tokio::sync::Mutex<()>,
}

impl App {
    pub fn new(record: AppRecord, log: AppLog, now: Millis) -> Self {
        Self {
            id: record.id.clone(),
            environment: record.environment.clone(),
            record: Mutex::new(record),
            log,
            drafts: Drafts::default(),
            named: Mutex::default(),
            last_publication: Mutex::default(),
            last_heartbeat: AtomicU64::new(now),
            turn: Default::default(),
        }
    }

    pub fn record(&self) -> AppRecord {
        self.record.lock().clone()
    }

    /// The right to change the record: what is written last is then what is so.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Makes so what was [decided](life::decide) and written, by whoever has the [turn](Self::turn).
    pub fn update(&self, change: impl FnOnce(&mut AppRecord)) {
        change(&mut self.record.lock());
    }

    /// What a person calls it.
    pub fn shown_name(&self) -> String {
        let record = self.record.lock();
        record.name.clone().unwrap_or_else(|| record.description.clone())
    }

    pub fn state(&self) -> AppState {
        self.record.lock().state
    }

    /// Functions of this app may run.
    pub fn is_running(&self) -> bool {
        life::runs(self.state())
    }

    pub fn heartbeat(&self, now: Millis) {
        self.last_heartbeat.store(now, Ordering::Relaxed);
    }

    /// Its client has left and could not be let go: looked at again as one that is silent.
    pub fn fall_silent(&self) {
        self.last_heartbeat.store(0, Ordering::Relaxed);
    }

    pub fn is_abandoned(&self, now: Millis) -> bool {
        now > self.last_heartbeat.load(Ordering::Relaxed) + HEARTBEAT_PATIENCE_MS
    }

    pub fn function_ids(&self) -> BTreeMap<String, FunctionId> {
        self.record.lock().function_ids.clone()
    }
}

/// What an app does when its client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    Stop,
    /// Goes on until its last call has ended.
    RunOut,
    Nothing,
}

/// Why an app ends when all is well.
pub const FINISHED: &str = "its program has finished";

/// How the client left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    Completed,
    Failed,
    Interrupted,
    /// Deploying failed.
    DeploymentFailed,
    /// Heartbeats stopped.
    Silent,
}

impl Leaving {
    /// What the server's log says of an app that ends for this.
    pub fn why(self) -> &'static str {
        match self {
            Self::Completed => FINISHED,
            Self::Failed => "its program failed",
            Self::Interrupted => "its program was interrupted",
            Self::DeploymentFailed => "its deployment failed",
            Self::Silent => "its client fell silent",
        }
    }
}

/// Decides what becomes of an app in `state` whose client leaves so.
pub fn decide_departure(state: AppState, leaving: Leaving) -> Departure {
    match (state, leaving) {
        (AppState::Initializing, _) => Departure::Stop,
        (AppState::Ephemeral, Leaving::DeploymentFailed) => Departure::Nothing,
        (AppState::Ephemeral, _) => Departure::Stop,
        // A detached app outlives its client by the user's wish.
        (AppState::Detached, Leaving::Failed) => Departure::Stop,
        (AppState::Detached, _) => Departure::RunOut,
        _ => Departure::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ephemeral_app_ends_with_its_client_however_it_leaves() {
        for leaving in [Leaving::Completed, Leaving::Failed, Leaving::Interrupted, Leaving::Silent] {
            assert_eq!(decide_departure(AppState::Ephemeral, leaving), Departure::Stop);
        }
    }

    #[test]
    fn a_client_that_said_goodbye_is_told_from_one_that_fell_silent() {
        assert_eq!(Leaving::Completed.why(), FINISHED);
        let others = [Leaving::Failed, Leaving::Interrupted, Leaving::DeploymentFailed, Leaving::Silent];
        assert!(others.iter().all(|leaving| leaving.why() != FINISHED));
        assert!(Leaving::Silent.why().contains("silent"));
    }

    #[test]
    fn a_detached_app_survives_an_interrupt_and_runs_out() {
        assert_eq!(decide_departure(AppState::Detached, Leaving::Interrupted), Departure::RunOut);
        assert_eq!(decide_departure(AppState::Detached, Leaving::Silent), Departure::RunOut);
    }

    #[test]
    fn a_failed_deployment_ends_only_what_it_began() {
        assert_eq!(decide_departure(AppState::Initializing, Leaving::DeploymentFailed), Departure::Stop);
        assert_eq!(decide_departure(AppState::Deployed, Leaving::DeploymentFailed), Departure::Nothing);
    }
}
