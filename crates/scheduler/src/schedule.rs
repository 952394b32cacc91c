//! When a function with a schedule runs by itself: the next time after a given one, and what is due.
//!
//! A *cron* schedule follows the wall clock of its zone and knows no beginning. A time of day that a zone skips when it
//! moves its clocks forward runs once, right after the gap; one that it repeats runs once, at the first of the two;
//! expressions that mean an interval (`*/15 * * * *`) follow real time through both.
//!
//! A *period* counts from an anchor, the time of deployment: its runs are at anchor + 1 period, + 2 periods, ... by the
//! calendar, each counted from the anchor itself. So a month after 31 January is 28 February, and two months after it is
//! 31 March again. Adding to the last run instead would stay at the 28th, and drift by every delay.

use std::fmt;

use calls::Millis;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use thiserror::Error;

/// The smallest period: a mistaken unit must not start a thousand containers a second.
const SHORTEST_PERIOD_MS: i64 = 1_000;
/// Counting further than this is beyond any calendar.
const MOST_PERIODS: i64 = 1 << 40;

/// Why a schedule is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScheduleError {
    #[error("the cron expression `{text}` is malformed: {why}; it has five fields: minute, hour, day, month, weekday")]
    Malformed { text: String, why: String },
    #[error("the cron expression `{text}` never fires: no date is like that")]
    NeverFires { text: String },
    #[error("there is no time zone `{0}`; use a name like `Europe/Berlin` or `UTC`")]
    UnknownZone(String),
    #[error("a period cannot have a negative part")]
    NegativePeriod,
    #[error("a period must be at least one second")]
    ShortPeriod,
    #[error("a period of this length has no second run")]
    LongPeriod,
}

/// When a function runs by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Several hundred bytes once it is parsed.
    Cron(Box<CronSchedule>),
    Period(Period),
}

#[derive(Debug, Clone, PartialEq)]
pub struct CronSchedule {
    text: String,
    zone: String,
    cron: Cron,
    time_zone: TimeZone,
}

/// A calendar's span; its parts are not negative.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Period {
    pub years: i32,
    pub months: i32,
    pub weeks: i32,
    pub days: i32,
    pub hours: i32,
    pub minutes: i32,
    pub seconds: f32,
}

impl Schedule {
    /// An expression of five fields in the wall clock of a zone; the empty zone is UTC.
    ///
    /// # Errors
    /// When the expression is malformed or never fires, or there is no such zone.
    pub fn cron(text: &str, zone: &str) -> Result<Self, ScheduleError> {
        let zone = if zone.is_empty() { "UTC" } else { zone };
        let time_zone = TimeZone::get(zone).map_err(|_| ScheduleError::UnknownZone(zone.to_owned()))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let malformed = |why: String| ScheduleError::Malformed { text: text.to_owned(), why };
        let cron = parser.parse(text).map_err(|error| malformed(plain(&error.to_string())))?;
        let parsed = CronSchedule { text: text.to_owned(), zone: zone.to_owned(), cron, time_zone };
        let schedule = Self::Cron(Box::new(parsed));
        // Years have no field, so what fires at all fires within the calendar's cycle from anywhere.
        match schedule.next_after(0, 0) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::NeverFires { text: text.to_owned() }),
        }
    }

    /// # Errors
    /// For a period that is negative, shorter than a second, or longer than the calendar.
    pub fn period(period: Period) -> Result<Self, ScheduleError> {
        let Period { years, months, weeks, days, hours, minutes, seconds } = period;
        let parts = [years, months, weeks, days, hours, minutes];
        if parts.iter().any(|part| *part < 0) || seconds < 0.0 {
            return Err(ScheduleError::NegativePeriod);
        }
        if !seconds.is_finite() {
            return Err(ScheduleError::LongPeriod);
        }
        let first = period.after_anchor(0, 1).ok_or(ScheduleError::LongPeriod)?;
        if first < SHORTEST_PERIOD_MS as Millis {
            return Err(ScheduleError::ShortPeriod);
        }
        Ok(Self::Period(period))
    }

    /// A time on the clock of the schedule's zone, for people.
    pub fn local_time(&self, at: Millis) -> Option<String> {
        let zone = match self {
            Self::Cron(cron) => cron.time_zone.clone(),
            Self::Period(_) => TimeZone::UTC,
        };
        Some(timestamp(at)?.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %:z").to_string())
    }

    /// The first run after a time; `None` when the calendar ends before it.
    pub fn next_after(&self, anchor: Millis, after: Millis) -> Option<Millis> {
        match self {
            Self::Cron(cron) => cron.next_after(after),
            Self::Period(period) => period.next_after(anchor, after),
        }
    }
}

impl CronSchedule {
    fn next_after(&self, after: Millis) -> Option<Millis> {
        let after = timestamp(after)?.to_zoned(self.time_zone.clone());
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        millis(next.timestamp())
    }
}

impl Period {
    /// The first run that is later than `after`.
    fn next_after(self, anchor: Millis, after: Millis) -> Option<Millis> {
        let is_later = |count: i64| self.after_anchor(anchor, count).is_none_or(|at| at > after);
        // Runs come in order, so halving finds the first later one. A period is at least a second long.
        let elapsed = after.saturating_sub(anchor) as i64;
        let (mut low, mut high) = (1, (elapsed / SHORTEST_PERIOD_MS).saturating_add(2).min(MOST_PERIODS));
        while low < high {
            let middle = low + (high - low) / 2;
            if is_later(middle) { high = middle } else { low = middle + 1 }
        }
        self.after_anchor(anchor, low)
    }

    /// So many periods after the anchor; `None` beyond the calendar.
    fn after_anchor(self, anchor: Millis, count: i64) -> Option<Millis> {
        let times = |part: i32| i64::from(part).checked_mul(count);
        let span: Span = Span::new()
            .try_years(times(self.years)?)
            .and_then(|span| span.try_months(times(self.months).unwrap_or(i64::MAX)))
            .and_then(|span| span.try_weeks(times(self.weeks).unwrap_or(i64::MAX)))
            .and_then(|span| span.try_days(times(self.days).unwrap_or(i64::MAX)))
            .ok()?;
        let clock_ms = i64::from(self.hours) * 3_600_000 + i64::from(self.minutes) * 60_000;
        let seconds_ms = (f64::from(self.seconds) * 1000.0).round();
        let clock_ms = clock_ms.checked_add(seconds_ms as i64)?.checked_mul(count)?;
        let date = timestamp(anchor)?.to_zoned(TimeZone::UTC).checked_add(span).ok()?;
        let at = millis(date.timestamp())?.checked_add(u64::try_from(clock_ms).ok()?)?;
        timestamp(at).map(|_| at)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cron(cron) => write!(f, "cron `{}` in {}", cron.text, cron.zone),
            Self::Period(period) => write!(f, "every {period}"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [
            (self.years, "year"),
            (self.months, "month"),
            (self.weeks, "week"),
            (self.days, "day"),
            (self.hours, "hour"),
            (self.minutes, "minute"),
        ];
        let mut words: Vec<String> = Vec::new();
        for (count, word) in whole.into_iter().filter(|(count, _)| *count > 0) {
            words.push(if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") });
        }
        if self.seconds == 1.0 {
            words.push("1 second".to_owned());
        } else if self.seconds > 0.0 {
            words.push(format!("{} seconds", self.seconds));
        }
        f.write_str(&words.join(" "))
    }
}

/// What a schedule asks for at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before this time; never, when there is none.
    At(Option<Millis>),
    /// One run now, however many were missed, and then the next at this time.
    Now { next: Option<Millis> },
}

/// Decides whether a schedule whose next run was set to `next` is due.
pub fn decide_due(schedule: &Schedule, anchor: Millis, next: Option<Millis>, now: Millis) -> Due {
    match next {
        Some(due) if due <= now => Due::Now { next: schedule.next_after(anchor, now) },
        waits => Due::At(waits),
    }
}

/// A clock that is set back by less was set right, and the runs of that time have been. By more: it was wrong before, and a
/// schedule that keeps what it reckoned then may not run for years.
const SET_BACK_MS: Millis = 3_600_000;

/// New times of a schedule whose clock was set back: from when its periods are counted, and its next run. `None` when they
/// stand. `last`: its last run.
pub fn after_set_back(
    schedule: &Schedule,
    anchor: Millis,
    last: Option<Millis>,
    now: Millis,
) -> Option<(Millis, Option<Millis>)> {
    let has_been = anchor.max(last.unwrap_or(0));
    if has_been <= now.saturating_add(SET_BACK_MS) {
        return None;
    }
    let anchor = anchor.min(now);
    Some((anchor, schedule.next_after(anchor, now)))
}

fn timestamp(ms: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

fn millis(timestamp: Timestamp) -> Option<Millis> {
    Millis::try_from(timestamp.as_millisecond()).ok()
}

/// A library's sentence as a part of ours.
fn plain(sentence: &str) -> String {
    sentence.trim_end_matches('.').replace("CronPattern", "it")
}

#[cfg(test)]
mod tests;
