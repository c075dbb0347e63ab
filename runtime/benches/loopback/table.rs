//! The table, and what it has to show.

use std::time::Duration;

use crate::client::Measured;
use crate::settings::{BATCH, PIPELINE, System, Work};

/// The medians of the rounds.
pub(crate) struct Row {
    work: Work,
    measured: Measured,
}

impl Row {
    pub(crate) fn new(work: Work, rounds: &[Measured]) -> Row {
        let median = |of: fn(&Measured) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let time = |of: fn(&Measured) -> f64| Duration::from_secs_f64(median(of));
        let measured = Measured {
            rate: median(|round| round.rate),
            p50: time(|round| round.p50.as_secs_f64()),
            p99: time(|round| round.p99.as_secs_f64()),
            cpu_seconds_per_million: median(|round| round.cpu_seconds_per_million),
        };
        Row { work, measured }
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!("system                    connections  messages/s  p50, ms  p99, ms  server CPU s per million messages");
    for Row { work, measured } in rows {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        println!(
            "{work:<24}  {:>11}  {:>10.0}  {:>7.2}  {:>7.2}  {:>34.2}",
            work.connections,
            measured.rate,
            ms(measured.p50),
            ms(measured.p99),
            measured.cpu_seconds_per_million,
        );
    }
}

/// Prints each requirement and by how much it is met. Answers whether all are.
pub(crate) fn judge(rows: &[Row]) -> bool {
    let find = |system, messages| {
        let work = Work { system, connections: 64, messages, by_wrk: false };
        rows.iter().find(|row| row.work == work).expect("a row for each work").measured
    };
    let (linecook, batches) = (find(System::Linecook, 1), find(System::Linecook, BATCH));
    let (redis, pipelines) = (find(System::Redis, 1), find(System::Redis, PIPELINE));
    let rabbitmq = find(System::RabbitMq, 1);
    let cpu = |one: Measured, other: Measured| one.cpu_seconds_per_million / other.cpu_seconds_per_million;
    let requirements = [
        ("64 connections: messages a second, of Redis'", linecook.rate / redis.rate, Bound::Above(1.0)),
        ("64 connections: messages a second, of RabbitMQ's", linecook.rate / rabbitmq.rate, Bound::Above(1.0)),
        ("64 connections: CPU per message, of RabbitMQ's", cpu(linecook, rabbitmq), Bound::Below(1.0)),
        ("64 connections: CPU per message, of Redis'", cpu(linecook, redis), Bound::Below(1.5)),
        (
            "batches of 100: messages a second, of the rate of single ones",
            batches.rate / linecook.rate,
            Bound::Above(5.0),
        ),
        ("batches of 100: CPU per message, of a Redis pipeline's", cpu(batches, pipelines), Bound::Below(1.0)),
    ];
    println!();
    let mut all = true;
    for (what, ratio, bound) in requirements {
        let (is_met, required) = match bound {
            Bound::Above(least) => (ratio > least, format!("more than {least}")),
            Bound::Below(most) => (ratio < most, format!("less than {most}")),
        };
        println!("{}  {what}: {ratio:.2} times, required {required}", if is_met { "met   " } else { "MISSED" });
        all &= is_met;
    }
    all
}

enum Bound {
    Above(f64),
    Below(f64),
}
