//! `kind = "cron"`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::choice;
use crate::config::keys::nearest;
use crate::config::producers::{CatchUp, CronConfig, Schedule};
use crate::config::reader::{TableReader, Value, excerpt};
use crate::delivery::limits::BODY_BYTES_MAX;

/// More than the longest expression that means something.
const SCHEDULE_BYTES_MAX: usize = 500;

const SCHEDULE_RULE: &str = "write minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\" (every \
                             day at three); seconds may stand before them";

/// Reads the keys of this kind.
pub(super) fn read(table: &TableReader<'_>) -> Option<CronConfig> {
    let zone = match table.get("timezone") {
        Some(value) => time_zone(&value),
        None => Some((TimeZone::UTC, "UTC")),
    };
    let schedule = table.require("schedule", "\"0 3 * * *\"");
    // Without its zone an expression can still be wrong in itself.
    let (known, (zone, zone_name)) = (zone.is_some(), zone.unwrap_or((TimeZone::UTC, "UTC")));
    let schedule = schedule.and_then(|value| self::schedule(&value, zone, zone_name));
    let body = table.get("body").map_or(Some(String::new()), |value| body(&value));
    let catch_up = table.get("catch_up").map_or(Some(CatchUp::One), |value| {
        let choices = [("one", CatchUp::One), ("all", CatchUp::All), ("none", CatchUp::None)];
        choice(&value, "a way to make up for missed runs", &choices)
    });
    Some(CronConfig { schedule: schedule.filter(|_| known)?, body: body?, catch_up: catch_up? })
}

fn body(value: &Value<'_>) -> Option<String> {
    let text = value.text("'{\"report\":\"daily\"}'")?.value;
    if text.len() > BODY_BYTES_MAX {
        value.refuse("`body` is larger than 1 MiB", "let the consumer read it from a file");
        return None;
    }
    Some(text.to_owned())
}

fn schedule(value: &Value<'_>, zone: TimeZone, zone_name: &str) -> Option<Schedule> {
    let text = value.text("\"0 3 * * *\"")?.value;
    if text.len() > SCHEDULE_BYTES_MAX {
        value.refuse(format!("a schedule has at most {SCHEDULE_BYTES_MAX} bytes"), SCHEDULE_RULE);
        return None;
    }
    let schedule = match Schedule::parse(text, zone, zone_name) {
        Ok(schedule) => schedule,
        Err(why) => {
            value.refuse(format!("{:?} is not a schedule: {why}", excerpt(text)), SCHEDULE_RULE);
            return None;
        }
    };
    let now_ms = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    if schedule.next_after(now_ms).is_none() {
        value.refuse(format!("{:?} never comes", excerpt(text)), "name a day that there is in its months");
        return None;
    }
    Some(schedule)
}

/// A zone by its name in the IANA database.
fn time_zone<'v>(value: &Value<'v>) -> Option<(TimeZone, &'v str)> {
    let text = value.text("\"Europe/Paris\"")?.value;
    if let Ok(zone) = TimeZone::get(text) {
        return Some((zone, text));
    }
    let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    // A city alone is what people write.
    let city = names.iter().find(|name| name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(text)));
    let meant = city.map(String::as_str).or_else(|| nearest(text, names.iter().map(String::as_str)));
    let hint = match meant {
        Some(meant) => format!("did you mean {meant:?}?"),
        None => "write a name of the IANA database, such as \"Europe/Paris\" or \"UTC\"".to_owned(),
    };
    value.refuse(format!("there is no time zone {:?}", excerpt(text)), hint);
    None
}
