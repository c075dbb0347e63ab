//! `kind = "cron"`: a message at each time of a schedule.
//!
//! | key | meaning |
//! | --- | --- |
//! | `schedule` | five fields, or six with seconds before them, or `@daily` and the like (see [`Schedule`]) |
//! | `timezone` | a name of the IANA database; `"UTC"` by default |
//! | `body` | the body of each message; empty by default |
//! | `catch_up` | what becomes of runs that were due while the runtime did not run: `"one"` (the default) makes up for the last one, `"all"` for the last 1000, `"none"` for none |
//!
//! Each message has the attribute `scheduled-at` (RFC 3339, in UTC), which is when it was due, and an idempotency key that
//! is made of the producer's name and that time. Beside it, the time of the last run is committed with its message, so
//! that neither a restart nor an edit of the file sends a run twice, also after the queue's `dedup_window`.
//!
//! A run is *missed* if it was due before the producer started, or more than a minute ago (the machine slept, the clock
//! jumped ahead, the queue was full). A schedule that is new or was changed has missed nothing before that.
//!
//! A clock that is set back by less than three hours repeats nothing: the schedule waits until it is past the last run
//! again. If it is set back further, the last run was at a time that was wrong, and the schedule starts anew from now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::outlet::{Outlet, Unsent};
use crate::config::producers::{CatchUp, CronConfig, Schedule};
use crate::delivery::{NewMessage, StateWrite};
use crate::time::rfc3339;

/// Runs that `catch_up = "all"` makes up for.
pub const CATCH_UP_MAX: usize = 1000;
/// A run that is later than this was missed.
const LATE_MS: u64 = 60_000;
/// How far a clock is set back that was wrong before.
const CLOCK_WRONG_MS: u64 = 3 * 3_600_000;
/// How often to look at the clock: it may be set, and timers stand still while the machine sleeps.
const LOOK: Duration = Duration::from_secs(1);

const POSITION: &str = "position";

/// How far a schedule has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The schedule that it is about.
    schedule: String,
    timezone: String,
    /// Everything up to here was sent or left out, in milliseconds of the Unix epoch.
    done_ms: u64,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// Runs to be sent, in order.
    runs: Vec<u64>,
    /// Runs that are left out. If there are more than [`CATCH_UP_MAX`], not all are counted.
    missed: u64,
    /// What counts as done afterwards.
    done_ms: u64,
}

impl Position {
    fn of(schedule: &Schedule, done_ms: u64) -> Position {
        Position { schedule: schedule.text().to_owned(), timezone: schedule.timezone().to_owned(), done_ms }
    }

    fn is_of(&self, schedule: &Schedule) -> bool {
        self.schedule == schedule.text() && self.timezone == schedule.timezone()
    }
}

/// What is due of a schedule that is done up to `done_ms`.
fn due(config: &CronConfig, done_ms: u64, started_ms: u64, now_ms: u64) -> Due {
    let schedule = &config.schedule;
    // What was due before this was missed.
    let on_time_from_ms = started_ms.max(now_ms.saturating_sub(LATE_MS));
    let (mut runs, mut missed) = (VecDeque::new(), 0);
    let mut uncounted = false;
    // From the end, so that a year that was slept through costs no more than what is sent.
    let mut next = schedule.last_until(now_ms);
    while let Some(at_ms) = next.filter(|at_ms| *at_ms > done_ms) {
        let on_time = at_ms >= on_time_from_ms;
        let made_up_for = match config.catch_up {
            CatchUp::None => false,
            CatchUp::One => runs.is_empty(),
            CatchUp::All => runs.len() < CATCH_UP_MAX,
        };
        if on_time || made_up_for {
            runs.push_front(at_ms);
        } else if missed == CATCH_UP_MAX as u64 {
            uncounted = true;
            break;
        } else {
            missed += 1;
        }
        next = at_ms.checked_sub(1000).and_then(|before_ms| schedule.last_until(before_ms));
    }
    missed += u64::from(uncounted);
    Due { runs: runs.into(), missed, done_ms: done_ms.max(now_ms / 1000 * 1000) }
}

/// Runs until it is told to stop.
pub(super) async fn run(outlet: &Outlet, config: &CronConfig, clock: &Arc<dyn Clock>) -> Result<(), Unsent> {
    let started_ms = clock.now_ms();
    let mut done_ms = begin(outlet, config, started_ms).await?;
    while !outlet.is_stopped() {
        let now_ms = clock.now_ms();
        if done_ms.saturating_sub(now_ms) > CLOCK_WRONG_MS {
            tracing::warn!(
                producer = outlet.name(),
                "the clock is hours before the last run, {}: the schedule starts anew from now",
                rfc3339(done_ms)
            );
            done_ms = now_ms;
            outlet.commit(Vec::new(), vec![position(outlet, config, done_ms)]).await?;
        }
        let due = due(config, done_ms, started_ms, now_ms);
        if due.missed > 0 {
            outlet.entry().missed(due.missed);
            let more = if due.missed > CATCH_UP_MAX as u64 { "at least " } else { "" };
            tracing::warn!(
                producer = outlet.name(),
                "{more}{} runs were missed and are left out; {} are sent",
                due.missed,
                due.runs.len()
            );
        }
        for (index, at_ms) in due.runs.iter().enumerate() {
            if outlet.is_stopped() {
                return Ok(());
            }
            // With the last one, all that was left out in between is done too.
            let done = if index + 1 == due.runs.len() { due.done_ms } else { *at_ms };
            send(outlet, config, *at_ms, done).await?;
        }
        if due.runs.is_empty() && due.missed > 0 {
            outlet.commit(Vec::new(), vec![position(outlet, config, due.done_ms)]).await?;
        }
        done_ms = due.done_ms;
        let next_ms = config.schedule.next_after(done_ms);
        outlet.entry().next_run(next_ms);
        let wait = next_ms.map_or(LOOK, |at_ms| Duration::from_millis(at_ms.saturating_sub(clock.now_ms())).min(LOOK));
        tokio::select! {
            () = clock.sleep(wait) => {}
            () = outlet.stopped() => {}
        }
    }
    Ok(())
}

/// Where the schedule goes on.
async fn begin(outlet: &Outlet, config: &CronConfig, now_ms: u64) -> Result<u64, Unsent> {
    let known = outlet.state(POSITION).await?;
    let known = known.and_then(|bytes| serde_json::from_slice::<Position>(&bytes).ok());
    match known {
        Some(position) if position.is_of(&config.schedule) => Ok(position.done_ms),
        // It begins now, but does not repeat what another schedule has sent.
        other => {
            let done_ms = other.map_or(now_ms, |other| now_ms.max(other.done_ms));
            outlet.commit(Vec::new(), vec![position(outlet, config, done_ms)]).await?;
            Ok(done_ms)
        }
    }
}

fn position(outlet: &Outlet, config: &CronConfig, done_ms: u64) -> StateWrite {
    let position = serde_json::to_vec(&Position::of(&config.schedule, done_ms)).expect("texts and numbers are JSON");
    outlet.write(POSITION, Some(position.into()))
}

async fn send(outlet: &Outlet, config: &CronConfig, at_ms: u64, done_ms: u64) -> Result<(), Unsent> {
    let scheduled_at = rfc3339(at_ms);
    let mut message: NewMessage = outlet.message(Bytes::copy_from_slice(config.body.as_bytes()));
    message.idempotency_key = Some(format!("cron/{}/{scheduled_at}", outlet.name()).into());
    message.attributes.push(("scheduled-at".into(), scheduled_at.into()));
    let position = position(outlet, config, done_ms);
    match outlet.commit(vec![message], vec![position.clone()]).await {
        Ok(_) => Ok(()),
        Err(Unsent::TooLarge) => {
            outlet.entry().refused(1);
            tracing::error!(producer = outlet.name(), "the message is larger than the log takes: raise log_max_bytes");
            outlet.commit(Vec::new(), vec![position]).await.map(drop)
        }
        Err(stopped) => Err(stopped),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    /// 2026-01-01T00:00:00Z.
    const START: u64 = 1_767_225_600_000;

    fn config(schedule: &str, catch_up: CatchUp) -> CronConfig {
        let text = format!(
            "[queues.a]\n[producers.a]\nkind = \"cron\"\nqueue = \"a\"\nschedule = {schedule:?}\ncatch_up = \"{}\"\n",
            match catch_up {
                CatchUp::One => "one",
                CatchUp::All => "all",
                CatchUp::None => "none",
            }
        );
        let config = crate::config::parse(&text, std::path::Path::new("queue.toml")).unwrap();
        match config.producers["a"].kind.clone() {
            crate::config::producers::ProducerKind::Cron(cron) => cron,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_due_while_it_runs_is_sent_whatever_is_made_up_for() {
        for catch_up in [CatchUp::One, CatchUp::All, CatchUp::None] {
            let config = config("* * * * * *", catch_up);
            // The last look was three seconds ago.
            let found = due(&config, START, START, START + 3500);
            let runs = vec![START + 1000, START + 2000, START + 3000];
            assert_eq!(found, Due { runs, missed: 0, done_ms: START + 3000 }, "{catch_up:?}");
            // The look after that finds nothing.
            let found = due(&config, START + 3000, START, START + 3900);
            assert_eq!(found, Due { runs: Vec::new(), missed: 0, done_ms: START + 3000 });
        }
    }

    #[test]
    fn what_was_due_while_it_did_not_run_is_made_up_for_as_configured() {
        let now = START + 10 * HOUR + 1;
        let of = |catch_up| due(&config("0 * * * *", catch_up), START, now, now);
        assert_eq!(of(CatchUp::One).runs, [START + 10 * HOUR]);
        assert_eq!(of(CatchUp::One).missed, 9);
        assert_eq!(of(CatchUp::All).runs, (1..=10).map(|hour| START + hour * HOUR).collect::<Vec<_>>());
        assert_eq!(of(CatchUp::All).missed, 0);
        assert_eq!(of(CatchUp::None).runs, [0; 0]);
        assert_eq!(of(CatchUp::None).missed, 10);
    }

    #[test]
    fn a_year_of_seconds_is_bounded() {
        let now = START + 365 * 24 * HOUR;
        let found = due(&config("* * * * * *", CatchUp::All), START, now + 1, now);
        assert_eq!(found.runs.len(), CATCH_UP_MAX);
        assert_eq!(found.runs.last(), Some(&now));
        assert!(found.runs.is_sorted());
        assert_eq!(found.missed, CATCH_UP_MAX as u64 + 1, "there are more than these");
    }

    #[test]
    fn a_run_that_is_on_time_makes_up_for_those_that_were_missed_before() {
        // It slept for hours, and woke up at a run.
        let now = START + 10 * HOUR;
        let found = due(&config("0 * * * *", CatchUp::One), START, START, now);
        assert_eq!((found.runs, found.missed), (vec![now], 9));
    }

    #[test]
    fn a_clock_that_is_set_back_repeats_nothing() {
        let done = START + HOUR;
        let found = due(&config("* * * * *", CatchUp::All), done, START, done - 30 * MINUTE);
        assert_eq!(found, Due { runs: Vec::new(), missed: 0, done_ms: done });
    }

    #[test]
    fn another_schedule_is_another_schedule() {
        let schedule = |text, zone| Schedule::clone(&zoned(text, zone).schedule);
        let position = Position::of(&schedule("0 3 * * *", "Europe/Paris"), 1);
        assert!(position.is_of(&schedule("0 3 * * *", "Europe/Paris")));
        assert!(!position.is_of(&schedule("0 4 * * *", "Europe/Paris")));
        assert!(!position.is_of(&schedule("0 3 * * *", "UTC")));
        let text = serde_json::to_vec(&position).unwrap();
        assert_eq!(serde_json::from_slice::<Position>(&text).unwrap(), position);
    }

    fn zoned(schedule: &str, zone: &str) -> CronConfig {
        assert!(TimeZone::get(zone).is_ok());
        let text = format!(
            "[queues.a]\n[producers.a]\nkind = \"cron\"\nqueue = \"a\"\nschedule = {schedule:?}\ntimezone = {zone:?}\n"
        );
        let config = crate::config::parse(&text, std::path::Path::new("queue.toml")).unwrap();
        match config.producers["a"].kind.clone() {
            crate::config::producers::ProducerKind::Cron(cron) => cron,
            other => panic!("{other:?}"),
        }
    }
}
