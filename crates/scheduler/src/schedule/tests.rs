use jiff::civil::Date;
use jiff::{ToSpan, Zoned};
use proptest::prelude::*;

use super::*;

/// Clocks that move by an hour at night, by half an hour, at midnight, for Ramadan, and not at all.
const ZONES: [&str; 8] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Asia/Beirut",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "UTC",
];

fn at(text: &str) -> Millis {
    let zoned: Zoned = text.parse().unwrap();
    zoned.timestamp().as_millisecond() as Millis
}

fn show(ms: Millis, zone: &str) -> String {
    let zoned = timestamp(ms).unwrap().to_zoned(TimeZone::get(zone).unwrap());
    zoned.strftime("%Y-%m-%d %H:%M %:z").to_string()
}

fn runs(schedule: &Schedule, anchor: Millis, after: Millis, count: usize) -> Vec<Millis> {
    let next = |at: &Millis| schedule.next_after(anchor, *at);
    std::iter::successors(next(&after), next).take(count).collect()
}

fn every(period: Period) -> Schedule {
    Schedule::period(period).unwrap()
}

#[test]
fn a_cron_schedule_follows_the_clock_of_its_zone() {
    let schedule = Schedule::cron("0 6 * * 1-5", "America/New_York").unwrap();
    let next = schedule.next_after(0, at("2026-03-06T12:00[UTC]")).unwrap();
    // Monday morning, after the clocks went forward on Sunday.
    assert_eq!(schedule.local_time(next).unwrap(), "2026-03-09 06:00:00 -04:00");
    assert_eq!(Schedule::cron("* * * * *", "").unwrap().to_string(), "cron `* * * * *` in UTC");
}

#[test]
fn a_day_of_month_and_a_weekday_mean_either() {
    let schedule = Schedule::cron("0 0 13 * 5", "UTC").unwrap();
    let days: Vec<String> = runs(&schedule, 0, at("2026-02-01T00:00[UTC]"), 4)
        .into_iter()
        .map(|ms| show(ms, "UTC")[..10].to_owned())
        .collect();
    assert_eq!(days, ["2026-02-06", "2026-02-13", "2026-02-20", "2026-02-27"]);
}

#[test]
fn what_is_no_schedule_is_refused_with_the_reason() {
    for bad in
        ["", "* * * *", "* * * * * *", "61 * * * *", "a b c d e", "* * * * 9", "*/0 * * * *", "5-1 * * * *", "@reboot"]
    {
        let error = Schedule::cron(bad, "UTC").unwrap_err();
        assert!(matches!(error, ScheduleError::Malformed { .. }), "{bad}: {error}");
    }
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        assert!(matches!(Schedule::cron(never, "UTC"), Err(ScheduleError::NeverFires { .. })), "{never}");
    }
    assert!(Schedule::cron("0 0 29 2 *", "UTC").is_ok());
    assert_eq!(Schedule::cron("* * * * *", "Mars/Base"), Err(ScheduleError::UnknownZone("Mars/Base".to_owned())));
    let period = |period| Schedule::period(period).unwrap_err();
    assert_eq!(period(Period::default()), ScheduleError::ShortPeriod);
    assert_eq!(period(Period { seconds: 0.5, ..Period::default() }), ScheduleError::ShortPeriod);
    assert_eq!(period(Period { days: -1, hours: 48, ..Period::default() }), ScheduleError::NegativePeriod);
    for seconds in [f32::NAN, f32::INFINITY, 1e30] {
        assert_eq!(period(Period { seconds, ..Period::default() }), ScheduleError::LongPeriod);
    }
    assert_eq!(period(Period { years: i32::MAX, ..Period::default() }), ScheduleError::LongPeriod);
}

#[test]
fn months_keep_the_day_or_take_the_last_there_is() {
    let anchor = at("2026-01-31T10:30[UTC]");
    let days: Vec<String> = runs(&every(Period { months: 1, ..Period::default() }), anchor, anchor, 4)
        .into_iter()
        .map(|ms| show(ms, "UTC")[..16].to_owned())
        .collect();
    assert_eq!(days, ["2026-02-28 10:30", "2026-03-31 10:30", "2026-04-30 10:30", "2026-05-31 10:30"]);
    let leap = at("2028-02-29T00:00[UTC]");
    let next = every(Period { years: 1, ..Period::default() }).next_after(leap, leap).unwrap();
    assert_eq!(&show(next, "UTC")[..10], "2029-02-28");
}

#[test]
fn a_period_says_itself_in_words() {
    let period = Period { days: 1, hours: 2, seconds: 3.5, ..Period::default() };
    assert_eq!(every(period).to_string(), "every 1 day 2 hours 3.5 seconds");
}

#[test]
fn runs_that_were_missed_are_one_run() {
    let schedule = every(Period { minutes: 1, ..Period::default() });
    assert_eq!(decide_due(&schedule, 0, Some(60_000), 59_999), Due::At(Some(60_000)));
    assert_eq!(decide_due(&schedule, 0, Some(60_000), 60_000), Due::Now { next: Some(120_000) });
    // Ten minutes of absence.
    assert_eq!(decide_due(&schedule, 0, Some(60_000), 630_000), Due::Now { next: Some(660_000) });
    assert_eq!(decide_due(&schedule, 0, None, 630_000), Due::At(None));
}

#[test]
fn a_clock_that_is_set_back_by_much_has_its_times_reckoned_anew() {
    const HOUR: Millis = 3_600_000;
    let schedule = Schedule::cron("0 * * * *", "UTC").unwrap();
    // It ran at nine; the clock was set right by some minutes, and it does not run at nine again.
    assert_eq!(after_set_back(&schedule, HOUR, Some(9 * HOUR), 9 * HOUR - 600_000), None);
    assert_eq!(after_set_back(&schedule, HOUR, Some(900 * HOUR), 9 * HOUR + 1), Some((HOUR, Some(10 * HOUR))));
    assert_eq!(after_set_back(&schedule, 900 * HOUR, None, 9 * HOUR + 1), Some((9 * HOUR + 1, Some(10 * HOUR))));
}

fn any_period() -> impl Strategy<Value = Period> {
    (0..3_i32, 0..15_i32, 0..3_i32, 0..40_i32, 0..30_i32, 0..70_i32, 0..100_000_u32).prop_map(
        |(years, months, weeks, days, hours, minutes, ms)| Period {
            years,
            months,
            weeks,
            days,
            hours,
            minutes,
            seconds: 1.0 + ms as f32 / 1000.0,
        },
    )
}

proptest! {
    #[test]
    fn a_time_of_day_comes_once_on_every_date(
        zone in proptest::sample::select(&ZONES),
        minute in 0..60_u8,
        hour in 0..24_u8,
        start in 0..1500_i64,
    ) {
        let schedule = Schedule::cron(&format!("{minute} {hour} * * *"), zone).unwrap();
        let time_zone = TimeZone::get(zone).unwrap();
        let mut date = Date::constant(2022, 1, 1).checked_add(start.days()).unwrap();
        // From noon on, so that the first run is on one of the two dates beside it.
        let begin = date.at(12, 0, 0, 0).to_zoned(time_zone.clone()).unwrap();
        let begin = begin.timestamp().as_millisecond() as Millis;
        let mut last = None;
        for run in runs(&schedule, 0, begin, 250) {
            let local = timestamp(run).unwrap().to_zoned(time_zone.clone());
            match last {
                None => date = local.date(),
                Some(_) => date = date.tomorrow().unwrap(),
            }
            prop_assert_eq!(local.date(), date, "{} {:?}", zone, local);
            let exists = date.at(hour as i8, minute as i8, 0, 0).to_zoned(time_zone.clone()).unwrap();
            if exists.hour() == hour as i8 && exists.minute() == minute as i8 {
                prop_assert_eq!(local.timestamp(), exists.timestamp(), "at its time, the first of two");
            } else {
                // The clock never showed that time: right after the gap.
                prop_assert!(local.timestamp() <= exists.timestamp(), "{} {:?} {:?}", zone, local, exists);
            }
            last = Some(run);
        }
    }

    #[test]
    fn an_interval_goes_on_through_moved_clocks(
        zone in proptest::sample::select(&ZONES),
        start in 0..1500_u64,
    ) {
        let schedule = Schedule::cron("*/15 * * * *", zone).unwrap();
        let begin = at("2022-01-01T00:00[UTC]") + start * 86_400_000;
        let found = runs(&schedule, 0, begin, 300);
        // All offsets of these zones are multiples of a quarter of an hour.
        prop_assert!(found.windows(2).all(|pair| pair[1] - pair[0] == 15 * 60_000), "{zone}");
    }

    #[test]
    fn the_next_run_is_later_and_none_lies_between(
        zone in proptest::sample::select(&ZONES),
        text in proptest::sample::select(&["7 * * * *", "30 2 * * *", "0 0 1 * *", "15 1,3 * * 0", "*/7 4-6 * 3,10 *"]),
        after in 1_640_995_200_000..1_900_000_000_000_u64,
        part in 0.0..1.0_f64,
    ) {
        let schedule = Schedule::cron(text, zone).unwrap();
        let next = schedule.next_after(0, after).unwrap();
        prop_assert!(next > after);
        let between = after + ((next - 1 - after) as f64 * part) as u64;
        prop_assert_eq!(schedule.next_after(0, between), Some(next));
    }

    #[test]
    fn a_periods_runs_are_counted_from_its_anchor(
        period in any_period(),
        anchor in 0..4_000_000_000_000_u64,
        elapsed in 0..400_000_000_000_u64,
    ) {
        let schedule = every(period);
        let after = anchor + elapsed;
        let next = schedule.next_after(anchor, after).unwrap();
        prop_assert!(next > after);
        // It is one of them, and the one before it is not later than `after`.
        let count = (1..).find(|count| period.after_anchor(anchor, *count).unwrap() >= next).unwrap();
        prop_assert_eq!(period.after_anchor(anchor, count), Some(next));
        prop_assert!(count == 1 || period.after_anchor(anchor, count - 1).unwrap() <= after);
    }

    #[test]
    fn a_run_happens_at_most_once_for_each_due_time(
        steps in proptest::collection::vec(0..200_000_u64, 1..40),
        period in any_period(),
    ) {
        let schedule = every(Period { years: 0, months: 0, weeks: 0, days: 0, hours: 0, ..period });
        let (mut now, mut next) = (1_000, schedule.next_after(1_000, 1_000));
        let mut served = None;
        for step in steps {
            now += step;
            if let Due::Now { next: following } = decide_due(&schedule, 1_000, next, now) {
                prop_assert!(served < next && following.unwrap() > now);
                served = next;
                next = following;
            }
            prop_assert_eq!(decide_due(&schedule, 1_000, next, now), Due::At(next));
        }
    }

    #[test]
    fn any_text_is_a_schedule_or_refused(text in ".{0,30}", zone in ".{0,20}", numbers in any::<(i32, i32, f32, u64)>()) {
        let _ = Schedule::cron(&text, &zone);
        let (months, hours, seconds, anchor) = numbers;
        if let Ok(schedule) = Schedule::period(Period { months, hours, seconds, ..Period::default() }) {
            let _ = schedule.next_after(anchor, anchor.wrapping_mul(3));
        }
    }

    #[test]
    fn any_five_fields_are_a_schedule_or_refused(
        fields in proptest::collection::vec("[0-9*/,LW#-]{1,5}|[A-Z]{3}", 5),
        after in 0..4_000_000_000_000_u64,
    ) {
        if let Ok(schedule) = Schedule::cron(&fields.join(" "), "Europe/Berlin") {
            prop_assert!(schedule.next_after(0, after).is_some_and(|next| next > after), "{:?}", fields);
        }
    }
}
