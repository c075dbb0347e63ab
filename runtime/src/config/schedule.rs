//! When a cron producer runs: a cron expression in a time zone, as `croner` and `jiff` understand them.
//!
//! # Daylight saving
//! A schedule whose second, minute and hour are single numbers (`0 3 * * *`) runs once on each of its days: a run in the
//! hour that a change to summer time skips comes at the first instant after the gap, and one in the hour that a change
//! back repeats comes at the first of the two. A schedule with `*`, lists, ranges or steps in one of these fields
//! (`*/15 * * * *`) follows the clock on the wall: it has no runs in the skipped hour, and runs in both passes of the
//! repeated one.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A cron expression in a time zone.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    zone_name: String,
    cron: Box<Cron>,
    zone: TimeZone,
}

impl Schedule {
    /// Reads an expression of five fields (minute, hour, day of the month, month, day of the week), of six with seconds
    /// before them, or a name such as `@daily`. The error says what is wrong with it.
    pub(super) fn parse(text: &str, zone: TimeZone, zone_name: &str) -> Result<Schedule, String> {
        let fields = text.split_whitespace().count();
        if !matches!(fields, 5 | 6) && !text.trim_start().starts_with('@') {
            return Err(format!("it has {fields} field{}, not five or six", if fields == 1 { "" } else { "s" }));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| reason(&error.to_string()))?;
        Ok(Schedule { text: text.to_owned(), zone_name: zone_name.to_owned(), cron: Box::new(cron), zone })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of the time zone.
    pub fn timezone(&self) -> &str {
        &self.zone_name
    }

    /// The first run after an instant, both in milliseconds of the Unix epoch. None if there is none before the year 5000.
    pub fn next_after(&self, at_ms: u64) -> Option<u64> {
        self.find(at_ms, |cron, at| cron.find_next_occurrence(at, false))
    }

    /// The last run at an instant or before it, both in milliseconds of the Unix epoch.
    pub fn last_until(&self, at_ms: u64) -> Option<u64> {
        self.find(at_ms, |cron, at| cron.find_previous_occurrence(at, true))
    }

    fn find(
        &self,
        at_ms: u64,
        search: impl FnOnce(&Cron, &jiff::Zoned) -> Result<jiff::Zoned, croner::errors::CronError>,
    ) -> Option<u64> {
        // Runs are at whole seconds.
        let at = Timestamp::from_second(i64::try_from(at_ms / 1000).ok()?).ok()?;
        let found = search(&self.cron, &at.to_zoned(self.zone.clone())).ok()?;
        u64::try_from(found.timestamp().as_millisecond()).ok()
    }
}

/// The parser's words without their heading.
fn reason(text: &str) -> String {
    let text = text.split_once(": ").map_or(text, |(_, reason)| reason);
    text.trim_end_matches('.').replace("CronPattern", "it").replace("Pattern", "it")
}

impl PartialEq for Schedule {
    /// What was written is what it is: two texts for the same times are two schedules.
    fn eq(&self, other: &Schedule) -> bool {
        (&self.text, &self.zone_name) == (&other.text, &other.zone_name)
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.text, self.zone_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, TimeZone::get(zone).unwrap(), zone).unwrap()
    }

    fn ms(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_millisecond() as u64
    }

    /// The runs after `from` up to `to`, in UTC.
    fn runs(text: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let schedule = schedule(text, zone);
        let mut at = ms(from);
        let mut runs = Vec::new();
        while let Some(next) = schedule.next_after(at).filter(|next| *next <= ms(to)) {
            runs.push(Timestamp::from_millisecond(next as i64).unwrap().to_string());
            at = next;
        }
        runs
    }

    #[test]
    fn a_fixed_time_in_the_skipped_hour_runs_once_right_after_it() {
        // In Paris, 2026-03-29 02:00 is followed by 03:00, which is 01:00 in UTC.
        assert_eq!(
            runs("30 2 * * *", "Europe/Paris", "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_in_the_repeated_hour_runs_once_at_the_first() {
        // In Paris, 2026-10-25 03:00 is followed by 02:00: 02:30 is at 00:30 and at 01:30 in UTC.
        assert_eq!(
            runs("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z"),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn an_interval_skips_the_skipped_hour_and_runs_through_the_repeated_one_twice() {
        assert_eq!(
            runs("*/30 * * * *", "Europe/Paris", "2026-03-29T00:29:00Z", "2026-03-29T01:30:00Z"),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
        );
        assert_eq!(
            runs("*/30 2 * * *", "Europe/Paris", "2026-03-29T00:00:00Z", "2026-03-29T23:00:00Z"),
            [""; 0],
            "there is no hour 2 on that day"
        );
        assert_eq!(
            runs("*/30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"),
            ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"]
        );
    }

    #[test]
    fn looking_back_finds_the_runs_that_looking_forward_finds() {
        let (from, to) = (ms("2026-03-27T00:00:00Z"), ms("2026-03-31T00:00:00Z"));
        let (autumn_from, autumn_to) = (ms("2026-10-23T00:00:00Z"), ms("2026-10-27T00:00:00Z"));
        for text in ["30 2 * * *", "0 0 2 * * *", "*/30 * * * *", "*/20 2 * * *", "0 3 * * *", "15,45 1-3 * * *"] {
            for zone in ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "UTC"] {
                for (from, to) in [(from, to), (autumn_from, autumn_to)] {
                    let schedule = schedule(text, zone);
                    let forward: Vec<_> =
                        std::iter::successors(schedule.next_after(from), |at| schedule.next_after(*at))
                            .take_while(|at| *at <= to)
                            .collect();
                    let mut back: Vec<_> =
                        std::iter::successors(schedule.last_until(to), |at| schedule.last_until(at - 1000))
                            .take_while(|at| *at > from)
                            .collect();
                    back.reverse();
                    assert_eq!(forward, back, "{text} in {zone}");
                }
            }
        }
    }

    #[test]
    fn seconds_and_names_are_understood() {
        assert_eq!(
            runs("*/20 * * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:00:59Z"),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
        assert_eq!(
            runs("@daily", "Europe/Paris", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ["2026-01-01T23:00:00Z"]
        );
        assert_eq!(
            runs("0 9 * * MON-FRI", "UTC", "2026-01-02T00:00:00Z", "2026-01-05T12:00:00Z"),
            ["2026-01-02T09:00:00Z", "2026-01-05T09:00:00Z"]
        );
    }

    #[test]
    fn what_never_comes_is_said_soon() {
        assert_eq!(schedule("0 0 30 2 *", "Europe/Paris").next_after(ms("2026-01-01T00:00:00Z")), None);
    }
}
