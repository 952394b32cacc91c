//! Functions that run by themselves: what is attached, when the next run is, and the calls that come of it.
//!
//! A schedule is attached when a version of a deployed app with it is published, and goes with the version or the app.
//! A redeployment leaves it as it is unless it is another one: a period keeps its rhythm, and begins anew, at the time of
//! the deployment, when it was changed. `scheduler::schedule` decides what is due; the loop here sleeps until then.
//!
//! A run is an ordinary durable call without arguments, as a spawn makes it. The call and the note that its due time is
//! used up are stored in one transaction, so a server that is killed at any moment makes it exactly once. Runs that were
//! missed while no server ran are one run. A run begins also when the one before still goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use calls::{CallKind, CallSpec, Millis, NewInput, OutcomeStatus, PageRequest, Payload};
use client_protocol::wire;
use futures::StreamExt;
use metadata_store::{AppState, ScheduleRecord, ScheduledRun, Write};
use parking_lot::Mutex;
use scheduler::schedule::{Due, Schedule, after_set_back, decide_due};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use types::ids::{AppId, FunctionCallId, FunctionId, InputId};

use crate::apps::App;
use crate::clock::{steady_ms, wall_ms};
use crate::owner::{Begun, Owner};
use crate::recorder::new_call_writes;
use crate::shared::Shared;

/// The machine's clock may be set while the loop sleeps; then it is late by this at most.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A run that could not be stored, or found its function's queue full, is tried again.
const RETRY_MS: Millis = 5_000;
/// Runs that begin together. More would only fill the store's queue, whose transactions hold about as many.
const DUE_AT_ONCE: usize = 256;
/// `((), {})` as a pickle: no arguments.
const NO_ARGUMENTS: &[u8] = b"\x80\x04)}\x86.";

#[derive(Default)]
pub struct Schedules {
    attached: Mutex<BTreeMap<FunctionId, Attached>>,
    changed: Notify,
}

#[derive(Clone)]
struct Attached {
    schedule: Arc<Schedule>,
    record: ScheduleRecord,
    /// The last attempt failed; not before this time of the steady clock again.
    retry_at: Option<Millis>,
}

/// What both clocks say.
#[derive(Debug, Clone, Copy)]
struct Now {
    wall: Millis,
    steady: Millis,
}

impl Now {
    fn read() -> Self {
        Self { wall: wall_ms(), steady: steady_ms() }
    }
}

impl Attached {
    /// Milliseconds until it is to be looked at.
    fn wakes_in(&self, now: Now) -> Option<Millis> {
        let run = self.record.next_run_ms?.saturating_sub(now.wall);
        Some(run.max(self.retry_at.unwrap_or(0).saturating_sub(now.steady)))
    }
}

impl Schedules {
    /// Puts back what the last server knew, of a function that still has this schedule.
    fn restore(&self, schedule: Arc<Schedule>, record: ScheduleRecord) {
        let function = record.function.clone();
        self.attached.lock().insert(function, Attached { schedule, record, retry_at: None });
    }

    /// Makes the schedules of an app those that are wanted, and returns what is to be stored.
    fn attach(&self, app: &AppId, wanted: Vec<(FunctionId, Arc<Schedule>)>, now: Millis) -> Vec<Write> {
        let mut attached = self.attached.lock();
        let mut writes = Vec::new();
        attached.retain(|function, known| {
            let stays = known.record.app != *app || wanted.iter().any(|(id, _)| id == function);
            if !stays {
                writes.push(Write::DeleteSchedule(function.clone()));
            }
            stays
        });
        for (function, schedule) in wanted {
            let words = schedule.to_string();
            let before = attached.get(&function).map(|known| &known.record);
            if before.is_some_and(|record| record.schedule == words) {
                continue;
            }
            let record = ScheduleRecord {
                function: function.clone(),
                app: app.clone(),
                schedule: words,
                anchor_ms: now,
                next_run_ms: schedule.next_after(now, now),
                last_run_ms: before.and_then(|record| record.last_run_ms),
                last_call: before.and_then(|record| record.last_call.clone()),
            };
            writes.push(Write::Schedule(record.clone()));
            attached.insert(function, Attached { schedule, record, retry_at: None });
        }
        drop(attached);
        self.changed.notify_one();
        writes
    }

    /// Reckons anew what was reckoned by a clock that has been set back. Returns what is to be stored.
    fn on_set_back(&self, now: Millis) -> Vec<Write> {
        let mut writes = Vec::new();
        for Attached { schedule, record, .. } in self.attached.lock().values_mut() {
            let times = after_set_back(schedule, record.anchor_ms, record.last_run_ms, now);
            if let Some((anchor, next)) = times {
                (record.anchor_ms, record.next_run_ms) = (anchor, next);
                record.last_run_ms = record.last_run_ms.map(|last| last.min(now));
                writes.push(Write::Schedule(record.clone()));
            }
        }
        writes
    }

    /// What should run now, each with the time of its run after that.
    fn due(&self, now: Now) -> Vec<(Attached, Option<Millis>)> {
        let attached = self.attached.lock();
        let ready = attached.values().filter(|known| known.retry_at.is_none_or(|at| at <= now.steady));
        let due = |known: &Attached| {
            let record = &known.record;
            match decide_due(&known.schedule, record.anchor_ms, record.next_run_ms, now.wall) {
                Due::Now { next } => Some((known.clone(), next)),
                Due::At(_) => None,
            }
        };
        ready.filter_map(due).collect()
    }

    /// Milliseconds until one is to be looked at.
    fn earliest(&self, now: Now) -> Option<Millis> {
        self.attached.lock().values().filter_map(|known| known.wakes_in(now)).min()
    }

    /// Changes a schedule that is still the same one.
    fn update(&self, of: &ScheduleRecord, change: impl FnOnce(&mut Attached)) {
        let mut attached = self.attached.lock();
        let known = attached.get_mut(&of.function);
        let same =
            |known: &&mut Attached| (&known.record.schedule, known.record.anchor_ms) == (&of.schedule, of.anchor_ms);
        if let Some(known) = known.filter(same) {
            change(known);
        }
    }

    fn all(&self) -> Vec<Attached> {
        self.attached.lock().values().cloned().collect()
    }
}

/// A schedule as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRow {
    pub app: String,
    pub app_id: AppId,
    pub environment: String,
    pub function: String,
    pub function_id: FunctionId,
    /// In words.
    pub schedule: String,
    pub next_run_ms: Option<Millis>,
    /// On the clock of the schedule's zone.
    pub next_run: Option<String>,
    pub last_run_ms: Option<Millis>,
    pub last_run: Option<String>,
    pub last_call: Option<FunctionCallId>,
    /// `running`, `succeeded`, `failed: ...`; of results that are not kept any more, `expired`.
    pub last_result: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleList {
    /// By app and function.
    pub schedules: Vec<ScheduleRow>,
}

impl Shared {
    /// Takes up the schedules that the store knows.
    pub fn restore_schedules(self: &Arc<Self>, records: Vec<ScheduleRecord>) {
        for record in records {
            let schedule = self.owners.get(&record.function).and_then(|owner| owner.definition().schedule.clone());
            match schedule.filter(|schedule| schedule.to_string() == record.schedule) {
                Some(schedule) => self.schedules.restore(schedule, record),
                None => self.store.write_later(vec![Write::DeleteSchedule(record.function)]),
            }
        }
        let apps: Vec<Arc<App>> = self.apps.iter().map(|app| app.clone()).collect();
        for app in apps {
            self.attach_schedules(&app);
        }
    }

    /// Makes the schedules of an app those of its live version. Apps that a client runs have none.
    pub fn attach_schedules(self: &Arc<Self>, app: &Arc<App>) {
        let wanted = match app.state() {
            AppState::Deployed => app
                .function_ids()
                .into_values()
                .filter_map(|id| {
                    let definition = self.owners.get(&id)?.definition();
                    // A call of a refused function would only fail, time after time.
                    let runs = !definition.refusals.is_total();
                    Some((id, definition.schedule.clone().filter(|_| runs)?))
                })
                .collect(),
            _ => Vec::new(),
        };
        let writes = self.schedules.attach(&app.id, wanted, wall_ms());
        if !writes.is_empty() {
            self.store.write_later(writes);
        }
    }

    /// Runs what is due, until the server ends.
    pub async fn schedule_loop(self: Arc<Self>) {
        loop {
            let changed = self.schedules.changed.notified();
            let now = Now::read();
            let reckoned_anew = self.schedules.on_set_back(now.wall);
            if !reckoned_anew.is_empty() {
                self.store.write_later(reckoned_anew);
            }
            at_once(self.schedules.due(now), |(attached, next)| {
                let shared = self.clone();
                async move { shared.run_due(&attached, next, now.wall).await }
            })
            .await;
            match self.schedules.earliest(Now::read()) {
                None => changed.await,
                Some(in_ms) => {
                    let nap = Duration::from_millis(in_ms).min(LONGEST_SLEEP);
                    let _ = tokio::time::timeout(nap, changed).await;
                }
            }
        }
    }

    async fn run_due(self: &Arc<Self>, attached: &Attached, next: Option<Millis>, now: Millis) {
        let record = &attached.record;
        let Err(error) = self.run_schedule(record, next, now).await else { return };
        tracing::warn!(function = %record.function, schedule = record.schedule, error, "a scheduled run did not begin; trying again");
        self.schedules.update(record, |known| known.retry_at = Some(steady_ms() + RETRY_MS));
    }

    /// Makes the call of a run and notes it; both or neither.
    ///
    /// # Errors
    /// A sentence: the function cannot take a call now, or nothing can be stored.
    async fn run_schedule(
        self: &Arc<Self>,
        record: &ScheduleRecord,
        next: Option<Millis>,
        now: Millis,
    ) -> Result<FunctionCallId, String> {
        let owner = self.owners.get(&record.function).map(|owner| owner.clone());
        let owner = owner.filter(|owner| owner.is_published() && owner.app.is_running());
        let owner = owner.ok_or("its function is not deployed any more")?;
        let input = NewInput {
            id: InputId::random(),
            idx: 0,
            payload: Payload::Inline(Bytes::from_static(NO_ARGUMENTS)),
            data_format: wire::DataFormat::Pickle as i32,
            method_name: String::new(),
        };
        if !owner.read(|calls| calls.has_room(1, input.payload.resident_bytes())) {
            return Err("too many inputs wait for the function".to_owned());
        }
        let spec = CallSpec {
            id: FunctionCallId::random(),
            kind: CallKind::Unary,
            durable: true,
            parent_input: None,
            created_at: now,
            invocation_type: wire::FunctionCallInvocationType::Async as i32,
        };
        let call = spec.id.clone();
        let run = ScheduledRun {
            function: record.function.clone(),
            schedule: record.schedule.clone(),
            anchor_ms: record.anchor_ms,
            at_ms: now,
            next_run_ms: next,
            call: call.clone(),
        };
        let inputs = vec![input];
        let mut writes = new_call_writes(&owner, &spec, &inputs);
        writes.push(Write::ScheduledRun(run));
        self.store.write(writes).await.map_err(|error| error.to_string())?;
        self.schedules.update(record, |known| {
            known.record.next_run_ms = next;
            known.record.last_run_ms = Some(now);
            known.record.last_call = Some(call.clone());
            known.retry_at = None;
        });
        // They are written, so they are taken, unless the app was stopped meanwhile.
        if owner.begin_call(self, spec, inputs, true) == Begun::AppStopped {
            return Err("its app was stopped".to_owned());
        }
        tracing::info!(app = %owner.app.id, function = owner.tag, schedule = record.schedule, %call, "a scheduled run begins");
        Ok(call)
    }

    /// Everything that runs by itself.
    pub async fn list_schedules(&self) -> ScheduleList {
        let mut schedules = Vec::new();
        for attached in self.schedules.all() {
            if let Some(row) = self.schedule_row(&attached).await {
                schedules.push(row);
            }
        }
        schedules.sort_by(|a, b| (&a.app, &a.environment, &a.function).cmp(&(&b.app, &b.environment, &b.function)));
        ScheduleList { schedules }
    }

    async fn schedule_row(&self, attached: &Attached) -> Option<ScheduleRow> {
        let record = &attached.record;
        let owner = self.owners.get(&record.function).map(|owner| owner.clone())?;
        let app = owner.app.record();
        let last_result = match &record.last_call {
            Some(call) => Some(self.result_of(&owner, call).await),
            None => None,
        };
        let local = |at: Option<Millis>| at.and_then(|at| attached.schedule.local_time(at));
        Some(ScheduleRow {
            app: app.name.unwrap_or(app.description),
            app_id: app.id,
            environment: self.environment_name(&app.environment),
            function: owner.tag.clone(),
            function_id: owner.id.clone(),
            schedule: record.schedule.clone(),
            next_run_ms: record.next_run_ms,
            next_run: local(record.next_run_ms),
            last_run_ms: record.last_run_ms,
            last_run: local(record.last_run_ms),
            last_call: record.last_call.clone(),
            last_result,
        })
    }

    async fn result_of(&self, owner: &Owner, call: &FunctionCallId) -> String {
        let page = PageRequest { after: 0, range: None, limit: 1 };
        let mut finished = owner.read(|calls| calls.outputs(call, page)).map(|page| page.outputs);
        if finished.is_none() {
            finished = self.store.call(call).await.ok().flatten().map(|stored| stored.finished);
        }
        match finished.as_deref() {
            None => "expired".to_owned(),
            Some([]) => "running".to_owned(),
            Some([first, ..]) => match first.outcome.status {
                OutcomeStatus::Success => "succeeded".to_owned(),
                _ => format!("failed: {}", first.outcome.exception),
            },
        }
    }

    /// Runs a function with a schedule once, now, besides its schedule.
    ///
    /// # Errors
    /// A sentence: which schedules there are, when it is none of them; or why the run did not begin.
    pub async fn run_schedule_now(self: &Arc<Self>, app: &str, function: &str) -> Result<FunctionCallId, String> {
        let rows = self.list_schedules().await.schedules;
        let of_app = |row: &&ScheduleRow| row.app == app || row.app_id.as_str() == app;
        let mut wanted = rows.iter().filter(of_app).filter(|row| row.function == function);
        let row = wanted.next().ok_or_else(|| {
            let known: Vec<String> = rows.iter().map(|row| format!("{} {}", row.app, row.function)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("app `{app}` has no deployed function `{function}` with a schedule; schedules: {known}")
        })?;
        if let Some(other) = wanted.next() {
            return Err(format!(
                "app `{app}` is deployed in the environments `{}` and `{}`; name it by its id, `{}` or `{}`",
                row.environment, other.environment, row.app_id, other.app_id
            ));
        }
        let attached = self.schedules.attached.lock().get(&row.function_id).cloned();
        let record = attached.ok_or("the schedule was taken away meanwhile")?.record;
        self.run_schedule(&record, record.next_run_ms, wall_ms()).await
    }
}

/// Begins these together: their writes share the disk's syncs.
async fn at_once<T, F: Future<Output = ()>>(due: Vec<T>, run: impl Fn(T) -> F) {
    futures::stream::iter(due).for_each_concurrent(DUE_AT_ONCE, run).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn runs_that_are_due_do_not_wait_for_each_other() {
        let all_there = tokio::sync::Barrier::new(DUE_AT_ONCE);
        let together = at_once(vec![(); DUE_AT_ONCE], |()| async {
            all_there.wait().await;
        });
        tokio::time::timeout(Duration::from_secs(1), together).await.unwrap();
    }

    fn at(ms: Millis) -> Now {
        Now { wall: ms, steady: ms }
    }

    fn first(schedules: &Schedules) -> Option<Millis> {
        schedules.earliest(at(0))
    }

    fn every_minute() -> Arc<Schedule> {
        let period = scheduler::schedule::Period { minutes: 1, ..Default::default() };
        Arc::new(Schedule::period(period).unwrap())
    }

    fn hourly() -> Arc<Schedule> {
        Arc::new(Schedule::cron("0 * * * *", "UTC").unwrap())
    }

    #[test]
    fn a_redeployment_keeps_the_rhythm_of_a_period_unless_it_changed_it() {
        let (schedules, app, function) = (Schedules::default(), AppId::random(), FunctionId::random());
        assert_eq!(schedules.attach(&app, vec![(function.clone(), every_minute())], 1_000).len(), 1);
        assert_eq!(schedules.attach(&app, vec![(function.clone(), every_minute())], 31_000), []);
        assert_eq!(first(&schedules), Some(61_000));
        schedules.attach(&app, vec![(function.clone(), hourly())], 31_000);
        assert_eq!(first(&schedules), Some(3_600_000));
        schedules.attach(&app, vec![(function, every_minute())], 41_000);
        assert_eq!(first(&schedules), Some(101_000));
    }

    #[test]
    fn a_schedule_goes_with_its_function_and_leaves_those_of_other_apps() {
        let (schedules, one, two) = (Schedules::default(), AppId::random(), AppId::random());
        let function = FunctionId::random();
        schedules.attach(&one, vec![(function.clone(), every_minute())], 0);
        schedules.attach(&two, vec![(FunctionId::random(), hourly())], 0);
        assert_eq!(schedules.attach(&one, Vec::new(), 10), [Write::DeleteSchedule(function)]);
        assert_eq!(first(&schedules), Some(3_600_000));
    }

    #[test]
    fn what_failed_is_tried_again_a_little_later_and_not_before() {
        let schedules = Schedules::default();
        schedules.attach(&AppId::random(), vec![(FunctionId::random(), every_minute())], 0);
        assert!(schedules.due(at(59_999)).is_empty());
        let due = schedules.due(at(60_000));
        assert_eq!(due.len(), 1);
        schedules.update(&due[0].0.record, |known| known.retry_at = Some(65_000));
        assert!(schedules.due(at(64_999)).is_empty());
        assert_eq!(first(&schedules), Some(65_000));
        assert_eq!(schedules.due(at(65_000)).len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_neither_stops_a_schedule_nor_holds_up_what_is_tried_again() {
        const YEAR: Millis = 365 * 24 * 3_600_000;
        let (schedules, app) = (Schedules::default(), AppId::random());
        let (hourly_one, every_minute_one) = (FunctionId::random(), FunctionId::random());
        let wanted = vec![(hourly_one, hourly()), (every_minute_one, every_minute())];
        schedules.attach(&app, wanted, YEAR + 1_000);
        assert_eq!(schedules.on_set_back(YEAR).len(), 0, "the clock was set right by a second");
        assert_eq!(schedules.on_set_back(1_000).len(), 2);
        assert_eq!(schedules.on_set_back(1_000).len(), 0);
        let mut next: Vec<Millis> = schedules.all().iter().filter_map(|known| known.record.next_run_ms).collect();
        next.sort_unstable();
        assert_eq!(next, [61_000, 3_600_000]);
        let (due, _) = schedules.due(at(61_000)).remove(0);
        schedules.update(&due.record, |known| known.retry_at = Some(66_000));
        assert_eq!(schedules.due(Now { wall: 61_000, steady: 65_999 }).len(), 0);
        assert_eq!(schedules.due(Now { wall: 61_000, steady: 66_000 }).len(), 1);
    }

    #[test]
    fn a_run_of_a_schedule_that_was_replaced_meanwhile_changes_nothing() {
        let (schedules, app, function) = (Schedules::default(), AppId::random(), FunctionId::random());
        schedules.attach(&app, vec![(function.clone(), every_minute())], 0);
        let (old, next) = schedules.due(at(60_000)).remove(0);
        schedules.attach(&app, vec![(function, hourly())], 60_000);
        schedules.update(&old.record, |known| known.record.next_run_ms = next);
        assert_eq!(first(&schedules), Some(3_600_000));
    }
}
