//! The promises of the autoscaler, first one by one, then over random views, then against a small model of containers.

use calls::Load;
use proptest::prelude::*;
use types::ids::TaskId;

use super::*;

fn task(n: usize, phase: TaskPhase, running: usize, idle_since: Option<Millis>) -> TaskView {
    TaskView { id: TaskId::parse(&format!("ta-{n:026}")).unwrap(), phase, idle_since, running }
}

fn busy(n: usize) -> TaskView {
    task(n, TaskPhase::Active { since: 0 }, 1, None)
}

fn idle(n: usize, since: Millis) -> TaskView {
    task(n, TaskPhase::Active { since: 0 }, 0, Some(since))
}

fn load(now: Millis, waiting_ms: Millis, ready: usize, running: usize) -> Load {
    let since = (ready > 0).then_some(now.saturating_sub(waiting_ms));
    Load { ready, running, delayed: 0, oldest_ready_at: since, backlog_since: since, completed_in_backlog: 0 }
}

fn view(now: Millis, ready: usize, tasks: Vec<TaskView>) -> AutoscalerView {
    let running = tasks.iter().map(|t| t.running).sum();
    AutoscalerView {
        now,
        load: load(now, 1_000, ready, running),
        completed_recently: RecentCompletions { count: 0, window_ms: 1_000 },
        tasks,
        settings: AutoscalerSettings::default(),
        startup_estimate_ms: 1_000,
        input_ms: None,
        cores: 2,
        app_active: true,
        failed_starts: FailedStarts::default(),
    }
}

#[test]
fn one_input_and_no_container_starts_one_at_once() {
    let mut view = view(5_000, 1, vec![]);
    view.load.oldest_ready_at = Some(5_000);
    let plan = plan_autoscale(&view);
    assert_eq!((plan.start, plan.stop.len()), (1, 0));
    assert_eq!(plan.why, "start 1: 1 inputs wait for 0 containers");
}

#[test]
fn a_thousand_inputs_start_no_more_than_the_first_step() {
    assert_eq!(plan_autoscale(&view(5_000, 1_000, vec![])).start, 4);
    let many_cores = AutoscalerView { cores: 32, ..view(5_000, 1_000, vec![]) };
    assert_eq!(plan_autoscale(&many_cores).start, 32);
}

#[test]
fn a_starting_container_counts_as_capacity() {
    let starting = task(1, TaskPhase::Starting { since: 4_990 }, 0, None);
    assert_eq!(plan_autoscale(&view(5_000, 1, vec![starting])).start, 0);
}

#[test]
fn a_second_step_waits_until_the_first_has_started() {
    let starting: Vec<_> = (0..4).map(|n| task(n, TaskPhase::Starting { since: 4_000 }, 0, None)).collect();
    let plan = plan_autoscale(&view(5_000, 100, starting.clone()));
    assert_eq!(plan.start, 0);
    // Four starts on two cores: four times the estimate of a second, and two turns of 0.4 s.
    assert_eq!(plan.reconsider_at, Some(8_800));
    assert_eq!(plan_autoscale(&view(8_800, 100, starting.clone())).start, 4);
    // With one that is there, the others should be as well.
    let mut tasks = starting;
    tasks[0] = task(0, TaskPhase::Active { since: 4_600 }, 1, None);
    assert_eq!(plan_autoscale(&view(5_000, 100, tasks)).reconsider_at, Some(5_600));
}

#[test]
fn sleepers_get_more_containers_as_soon_as_the_last_ones_were_seen_to_be_slow() {
    let mut tasks: Vec<_> = (0..4).map(busy).collect();
    tasks[3].phase = TaskPhase::Active { since: 4_980 };
    let plan = plan_autoscale(&view(5_000, 16, tasks.clone()));
    assert_eq!((plan.start, plan.reconsider_at), (0, Some(5_030)));
    assert_eq!(plan_autoscale(&view(5_030, 16, tasks)).start, 4);
}

#[test]
fn a_backlog_that_drains_sooner_than_a_container_starts_starts_none() {
    let mut view = view(5_000, 500, vec![busy(1)]);
    view.completed_recently.count = 600;
    let plan = plan_autoscale(&view);
    assert_eq!(plan.start, 0);
    assert_eq!(plan.reconsider_at, Some(5_250));
    assert_eq!(plan.why, "the backlog of 500 drains in 833 ms, sooner than a container starts");
}

#[test]
fn a_hundred_inputs_known_to_be_long_get_their_containers_at_once() {
    let mut view = view(5_000, 100, vec![]);
    view.input_ms = Some(10_000.0);
    let plan = plan_autoscale(&view);
    assert_eq!(plan.start, 70);
    assert_eq!(plan.why, "start 70: 100 inputs wait, and took 10000 ms each before");
    view.cores = 16;
    assert_eq!(plan_autoscale(&view).start, 100);
}

#[test]
fn a_thousand_inputs_known_to_be_short_start_a_handful() {
    let mut view = view(5_000, 1_000, vec![]);
    view.input_ms = Some(5.0);
    assert_eq!(plan_autoscale(&view).start, 5);
    view.input_ms = Some(0.5);
    assert_eq!(plan_autoscale(&view).start, 2);
    view.load.ready = 1;
    assert_eq!(plan_autoscale(&view).start, 1);
}

#[test]
fn a_burst_on_warm_containers_is_answered_at_once_by_what_is_known() {
    let mut view = view(5_000, 40, vec![busy(1), busy(2)]);
    view.load = load(5_000, 0, 40, 2);
    assert_eq!(plan_autoscale(&view).start, 0);
    view.input_ms = Some(2_000.0);
    assert_eq!(plan_autoscale(&view).start, 18);
    view.input_ms = Some(20.0);
    assert_eq!(plan_autoscale(&view).start, 0);
}

#[test]
fn what_is_known_gives_way_to_what_is_seen() {
    // They took 10 ms; none was finished for three seconds.
    let mut view = view(5_000, 20, vec![busy(1), busy(2)]);
    view.input_ms = Some(10.0);
    view.load = load(5_000, 3_000, 20, 2);
    assert!(plan_autoscale(&view).start > 5);
    view.load.completed_in_backlog = 600;
    view.completed_recently = RecentCompletions { count: 600, window_ms: 2_000 };
    assert_eq!(plan_autoscale(&view).start, 0);
}

#[test]
fn a_burst_after_a_quiet_spell_is_measured_by_itself() {
    let mut view = view(5_000, 2_000, vec![busy(1)]);
    view.load.backlog_since = Some(4_900);
    view.load.oldest_ready_at = Some(4_900);
    view.load.completed_in_backlog = 200;
    view.completed_recently = RecentCompletions { count: 200, window_ms: 60_000 };
    assert_eq!(plan_autoscale(&view).why, "the backlog of 2000 drains in 1000 ms, sooner than a container starts");
}

#[test]
fn short_inputs_get_no_more_containers_than_cores() {
    let mut view = view(5_000, 50_000, vec![busy(1), busy(2)]);
    view.completed_recently.count = 1_000;
    assert_eq!(plan_autoscale(&view).start, 0);
    view.cores = 8;
    assert_eq!(plan_autoscale(&view).start, 6);
}

#[test]
fn the_maximum_counts_containers_that_are_leaving() {
    let mut view = view(5_000, 10, vec![busy(1), task(2, TaskPhase::Draining, 1, None)]);
    view.settings.max_containers = Some(3);
    assert_eq!(plan_autoscale(&view).start, 1);
    view.settings.max_containers = Some(2);
    assert_eq!(plan_autoscale(&view).why, "at the maximum of 2 containers");
}

#[test]
fn the_minimum_is_kept_only_while_the_app_is_active() {
    let mut view = view(500_000, 0, vec![idle(1, 0)]);
    view.settings.min_containers = 3;
    assert_eq!(plan_autoscale(&view).start, 2);
    view.app_active = false;
    let plan = plan_autoscale(&view);
    assert_eq!((plan.start, plan.stop), (0, vec![(view.tasks[0].id.clone(), StopReason::AppStopped)]));
}

#[test]
fn a_buffer_is_kept_while_there_is_input_and_not_otherwise() {
    let mut cold = view(5_000, 1, vec![]);
    cold.settings.buffer_containers = 2;
    assert_eq!(plan_autoscale(&cold).start, 3);
    let mut warm = view(500_000, 0, vec![busy(1), idle(2, 0), idle(3, 0), idle(4, 0)]);
    warm.settings.buffer_containers = 2;
    assert_eq!(plan_autoscale(&warm).stop.len(), 1);
    warm.tasks[0] = idle(1, 499_000);
    warm.load.running = 0;
    assert_eq!(plan_autoscale(&warm).stop.len(), 3);
}

#[test]
fn the_longest_idle_container_is_stopped_first_and_the_minimum_stays() {
    let mut view = view(100_000, 0, vec![idle(1, 30_000), idle(2, 10_000), idle(3, 20_000), idle(4, 90_000)]);
    view.settings.min_containers = 2;
    let stopped: Vec<_> = plan_autoscale(&view).stop.into_iter().map(|(id, _)| id).collect();
    assert_eq!(stopped, [view.tasks[1].id.clone(), view.tasks[2].id.clone()]);
}

#[test]
fn an_idle_container_is_looked_at_again_when_its_window_ends() {
    let plan = plan_autoscale(&view(50_000, 0, vec![idle(1, 20_000), idle(2, 45_000)]));
    assert_eq!((plan.stop.len(), plan.reconsider_at), (0, Some(80_000)));
}

#[test]
fn a_start_that_is_not_needed_any_more_is_withdrawn_before_a_warm_container() {
    let starting = task(3, TaskPhase::Starting { since: 20_000 }, 0, None);
    let mut view = view(90_000, 0, vec![busy(1), idle(2, 10_000), starting.clone()]);
    view.settings.min_containers = 2;
    assert_eq!(plan_autoscale(&view).stop, [(starting.id, StopReason::Idle)]);
}

#[test]
fn a_lowered_maximum_stops_what_has_not_begun_first() {
    let starting = task(3, TaskPhase::Starting { since: 0 }, 0, None);
    let mut view = view(5_000, 0, vec![busy(1), idle(2, 4_000), starting.clone()]);
    view.settings.max_containers = Some(2);
    assert_eq!(plan_autoscale(&view).stop, [(starting.id, StopReason::OverMaximum)]);
}

#[test]
fn a_failed_start_holds_back_the_next_until_its_time() {
    let mut view = view(5_000, 3, vec![]);
    view.failed_starts.on_failure(3_000, 4_000);
    view.failed_starts.on_failure(4_000, 4_900);
    let plan = plan_autoscale(&view);
    assert_eq!((plan.start, plan.reconsider_at), (0, Some(5_400)));
    view.now = 5_400;
    assert_eq!(plan_autoscale(&view).start, 1);
}

#[test]
fn after_a_failed_start_one_container_at_a_time_tries_whatever_waits() {
    let mut view = view(5_000, 300, vec![]);
    view.settings.min_containers = 6;
    view.failed_starts.on_failure(3_000, 5_000);
    assert_eq!(plan_autoscale(&view).start, 1);
    view.tasks = vec![task(1, TaskPhase::Starting { since: 5_000 }, 0, None)];
    view.now = 9_000;
    assert_eq!(plan_autoscale(&view).start, 0);
    view.tasks[0].phase = TaskPhase::Active { since: 9_000 };
    view.failed_starts.on_ready();
    assert!(plan_autoscale(&view).start > 1);
}

#[test]
fn the_scaleup_window_holds_back_every_container_but_the_first() {
    let mut view = view(5_000, 3, vec![]);
    view.settings.scaleup_window_ms = 10_000;
    assert_eq!(plan_autoscale(&view).start, 3);
    view.tasks = vec![busy(1)];
    let plan = plan_autoscale(&view);
    assert_eq!((plan.start, plan.reconsider_at), (0, Some(14_000)));
}

#[test]
fn concurrent_containers_are_filled_before_others_start() {
    let mut view = view(5_000, 7, vec![task(1, TaskPhase::Active { since: 0 }, 4, None)]);
    view.settings.concurrency = 10;
    // Six of the seven fit beside the four.
    assert_eq!(plan_autoscale(&view).start, 1);
    view.load.ready = 6;
    assert_eq!(plan_autoscale(&view).start, 0);
}

// ------------------------------------------------------------------------------------------------------- properties

fn any_task(n: usize) -> impl Strategy<Value = TaskView> {
    let phase = prop_oneof![
        (0u64..100_000).prop_map(|since| TaskPhase::Starting { since }),
        (0u64..100_000).prop_map(|since| TaskPhase::Active { since }),
        Just(TaskPhase::Draining),
    ];
    (phase, 0usize..4, 0u64..100_000).prop_map(move |(phase, running, since)| {
        let running = if matches!(phase, TaskPhase::Starting { .. }) { 0 } else { running };
        let is_idle = running == 0 && matches!(phase, TaskPhase::Active { .. });
        task(n, phase, running, is_idle.then_some(since))
    })
}

prop_compose! {
    fn any_settings()(
        min_containers in 0u32..6,
        max_containers in prop::option::of(0u32..12),
        buffer_containers in 0u32..4,
        scaleup_window_ms in prop_oneof![Just(0u64), 0u64..5_000],
        scaledown_window_ms in 0u64..90_000,
        concurrency in 0u32..4,
    ) -> AutoscalerSettings {
        AutoscalerSettings {
            min_containers, max_containers, buffer_containers, scaleup_window_ms, scaledown_window_ms, concurrency,
        }
    }
}

fn any_tasks() -> impl Strategy<Value = Vec<TaskView>> {
    (0usize..10).prop_flat_map(|count| (0..count).map(any_task).collect::<Vec<_>>())
}

fn any_failed_starts() -> impl Strategy<Value = FailedStarts> {
    prop_oneof![
        3 => Just(FailedStarts::default()),
        1 => (1u32..9, 60_000u64..200_000).prop_map(|(rounds, at)| {
            let mut failed = FailedStarts::default();
            (0..rounds).for_each(|_| _ = failed.on_failure(at, at));
            failed
        }),
    ]
}

prop_compose! {
    fn any_view()(
        now in 100_000u64..200_000,
        ready in prop_oneof![Just(0usize), 0usize..40, 0usize..10_000],
        waiting_ms in 0u64..20_000,
        completed in 0u64..3_000,
        tasks in any_tasks(),
        settings in any_settings(),
        startup_estimate_ms in 1u64..5_000,
        input_ms in prop::option::of(0.0f64..20_000.0),
        cores in 0u32..9,
        app_active: bool,
        failed in any_failed_starts(),
    ) -> AutoscalerView {
        let running = tasks.iter().map(|t| t.running).sum();
        AutoscalerView {
            now,
            load: Load { completed_in_backlog: completed * waiting_ms / 1_000, ..load(now, waiting_ms, ready, running) },
            completed_recently: RecentCompletions { count: completed, window_ms: 1_000 },
            tasks,
            settings,
            startup_estimate_ms,
            input_ms,
            cores,
            app_active,
            failed_starts: failed,
        }
    }
}

fn carry_out(view: &AutoscalerView, plan: &AutoscalerPlan) -> AutoscalerView {
    let mut after = view.clone();
    for task in &mut after.tasks {
        if plan.stop.iter().any(|(id, _)| *id == task.id) {
            task.phase = TaskPhase::Draining;
            task.idle_since = None;
        }
    }
    for n in 0..plan.start {
        after.tasks.push(task(1_000 + n, TaskPhase::Starting { since: view.now }, 0, None));
    }
    after
}

fn starting(view: &AutoscalerView) -> usize {
    view.tasks.iter().filter(|t| matches!(t.phase, TaskPhase::Starting { .. })).count()
}

fn live(view: &AutoscalerView) -> usize {
    view.tasks.iter().filter(|t| t.phase != TaskPhase::Draining).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn planning_again_after_carrying_out_plans_nothing(view in any_view()) {
        let plan = plan_autoscale(&view);
        let again = plan_autoscale(&carry_out(&view, &plan));
        prop_assert_eq!((again.start, again.stop), (0, vec![]), "after {:?}", plan);
    }

    #[test]
    fn the_maximum_is_never_exceeded_by_a_start(view in any_view()) {
        let plan = plan_autoscale(&view);
        if let (Some(max), true) = (view.settings.max_containers, plan.start > 0) {
            prop_assert!(view.tasks.len() + plan.start <= max as usize);
        }
    }

    #[test]
    fn the_minimum_is_reached_unless_something_forbids_it(view in any_view()) {
        let plan = plan_autoscale(&view);
        let after = live(&carry_out(&view, &plan));
        let blocked = view.failed_starts.rounds() > 0;
        let leaving = view.tasks.len() - live(&view);
        let allowed = view.settings.max_containers.map_or(usize::MAX, |max| (max as usize).saturating_sub(leaving));
        let minimum = (view.settings.min_containers as usize).min(allowed);
        if view.app_active && !blocked {
            prop_assert!(after >= minimum, "{after} after {plan:?}");
        }
    }

    #[test]
    fn a_container_that_works_is_stopped_only_for_the_maximum(view in any_view()) {
        for (id, reason) in plan_autoscale(&view).stop {
            let task = view.tasks.iter().find(|t| t.id == id).unwrap();
            prop_assert!(task.phase != TaskPhase::Draining);
            prop_assert!(reason == StopReason::OverMaximum || (task.running == 0 && view.load.ready == 0));
        }
    }

    #[test]
    fn after_a_failed_start_no_start_makes_more_than_one_starting_container(view in any_view()) {
        let plan = plan_autoscale(&view);
        if view.failed_starts.rounds() > 0 && plan.start > 0 {
            prop_assert_eq!(starting(&carry_out(&view, &plan)), 1);
        }
    }

    #[test]
    fn a_plan_never_starts_and_stops_at_once(view in any_view()) {
        let plan = plan_autoscale(&view);
        prop_assert!(plan.start == 0 || plan.stop.is_empty(), "{plan:?}");
    }

    #[test]
    fn inputs_without_a_place_lead_to_a_start_or_a_time_to_look_again_or_the_maximum(view in any_view()) {
        let plan = plan_autoscale(&view);
        let concurrency = view.settings.concurrency.max(1) as usize;
        let slots: usize = view.tasks.iter().filter(|t| t.phase != TaskPhase::Draining)
            .map(|t| concurrency.saturating_sub(t.running)).sum();
        let full = view.settings.max_containers.is_some_and(|max| view.tasks.len() >= max as usize);
        let trying = view.failed_starts.rounds() > 0 && starting(&view) > 0;
        if view.load.ready > slots && !full && !trying {
            prop_assert!(plan.start > 0 || plan.reconsider_at.is_some_and(|at| at > view.now), "{plan:?}");
        }
    }
}

// -------------------------------------------------------------------------------------------------- a model of time

/// Containers that take `startup_ms` to start and `input_ms` per input, on a clock that moves by 5 ms.
/// Returns how many were started, and when the last of `inputs` began and ended.
fn run_model(inputs: usize, input_ms: f64, startup_ms: Millis) -> (usize, Millis, Millis) {
    let (mut ready, mut started, mut last_began) = (inputs, 0, 0);
    let mut tasks: Vec<(Millis, f64)> = Vec::new();
    let mut finished: Vec<Millis> = Vec::new();
    for now in (0..600_000).step_by(5) {
        for (since, busy_until) in &mut tasks {
            let from = (*since + startup_ms) as f64;
            while ready > 0 && busy_until.max(from) <= now as f64 {
                *busy_until = busy_until.max(from).max(now as f64 - 5.0) + input_ms;
                finished.push(*busy_until as Millis);
                ready -= 1;
                last_began = now;
            }
        }
        let done = finished.iter().filter(|at| **at <= now).count();
        if done == inputs {
            return (started, last_began, now);
        }
        let views = tasks.iter().enumerate().map(|(n, (since, busy_until))| {
            let active = since + startup_ms <= now;
            let running = usize::from(*busy_until > now as f64);
            let phase = if active {
                TaskPhase::Active { since: since + startup_ms }
            } else {
                TaskPhase::Starting { since: *since }
            };
            task(n, phase, running, (active && running == 0).then_some(*busy_until as Millis))
        });
        let recent = finished.iter().filter(|at| **at <= now && **at + 1_000 > now).count();
        let mut view = view(now, ready, views.collect());
        view.load = Load { completed_in_backlog: done as u64, ..load(now, now, ready, view.load.running) };
        view.completed_recently.count = recent as u64;
        let plan = plan_autoscale(&view);
        started += plan.start;
        tasks.extend((0..plan.start).map(|_| (now, 0.0)));
    }
    panic!("{ready} of {inputs} inputs never ran");
}

#[test]
fn twenty_sleepers_soon_have_a_container_each() {
    let (started, last_began, _) = run_model(20, 30_000.0, 800);
    assert_eq!(started, 20);
    assert!(last_began < 4_000, "the last sleeper began after {last_began} ms");
}

#[test]
fn five_thousand_short_inputs_on_two_cores_start_a_handful_of_containers() {
    let (started, ..) = run_model(5_000, 1.0, 500);
    assert!(started <= 4, "{started} containers were started");
}

#[test]
fn a_long_queue_of_long_inputs_gets_many_containers() {
    let (started, _, ended) = run_model(1_000, 1_000.0, 500);
    assert!(started > 50 && ended < 30_000, "{started} containers, {ended} ms");
}
