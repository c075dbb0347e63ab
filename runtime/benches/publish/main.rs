//! Durable publish, side by side: messages a second through Linecook's store and through SQLite (WAL,
//! `synchronous=FULL`) with the same group commit, the same driver, on the same disk, in turn.
//!
//! ```text
//! cargo bench --bench publish              # all rounds; exit code 1 if a requirement is missed
//! cargo bench --bench publish -- --quick   # short rounds that only show that it works
//! cargo bench --bench publish -- --only 512x100   # only these senders and bytes
//! cargo bench --bench publish -- --work cycle     # only this work
//! ```
//!
//! - `publish`: a sender has one message in flight: when it is confirmed, it sends the next one. Nothing is consumed, so
//!   both sides build a backlog: the log makes new files as it goes, SQLite's table grows. The second half runs beside a
//!   busy thread on every core, at the low priority that the sandbox's workers have.
//! - `cycle`: a message that is durable is claimed by the one consumer and acknowledged; when that is confirmed, its
//!   sender sends the next one. A message is in flight until then, and messages are counted once they are acknowledged.
//!   Both sides tell the consumer after each group that brings messages, as the store tells the runtime's consumers.
//!
//! Each round has a folder of its own. The latencies are those of publishing, from sending to confirmation.

mod cycle;
mod guests;
mod load;
#[path = "../measure/mod.rs"]
mod measure;
mod settings;
mod sqlite;
mod store;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use guests::BusyGuests;
use load::{Broker, Measured};
use measure::Error;
use settings::{Case, Settings, Work};

fn main() -> ExitCode {
    measure::exit_code(Settings::from_arguments(std::env::args().skip(1)), |settings| run(&settings))
}

/// Answers whether every requirement was met, or was not to be judged.
fn run(settings: &Settings) -> Result<bool, Error> {
    println!("{settings}\n");
    println!("{HEADING}");
    let mut missed = Vec::new();
    for case in settings.cases() {
        let guests = if case.busy { Some(BusyGuests::start()?) } else { None };
        let compared = Compared::measure(settings, &case)?;
        drop(guests);
        println!("{}", compared.row(&case));
        let ratio = compared.ratio();
        if let Some(at_least) = case.ratio_min().filter(|at_least| ratio < *at_least) {
            missed.push(format!("{case}: the store does {ratio:.2} times SQLite's rate, and {at_least} is required"));
        }
    }
    if settings.quick {
        println!("\nThe rounds were too short to judge the ratios.");
        return Ok(true);
    }
    println!();
    missed.iter().for_each(|line| println!("MISSED  {line}"));
    if missed.is_empty() {
        println!(
            "Every requirement is met: with 512 in flight, publish 1.2 times SQLite at 100 B and 1.5 times at 1 KiB, \
             cycle 1.4 and 2 times."
        );
    }
    Ok(missed.is_empty())
}

const HEADING: &str = "
                                     store, msg/s                  SQLite, msg/s                         store, ms       SQLite, ms
work     senders  bytes  guests      median (min-max)              median (min-max)              ratio   p50     p99     p50     p99";

/// The rounds of both sides.
struct Compared {
    store: Vec<Measured>,
    sqlite: Vec<Measured>,
}

impl Compared {
    fn measure(settings: &Settings, case: &Case) -> Result<Compared, Error> {
        let mut compared = Compared { store: Vec::new(), sqlite: Vec::new() };
        for _ in 0..settings.rounds {
            compared.store.push(round(settings, case, store::open)?);
            compared.sqlite.push(round(settings, case, sqlite::open)?);
        }
        Ok(compared)
    }

    fn ratio(&self) -> f64 {
        median(&self.store, Measured::rate) / median(&self.sqlite, Measured::rate)
    }

    fn row(&self, case: &Case) -> String {
        let ms = |rounds: &[Measured], of: fn(&Measured) -> Duration| {
            format!("{:<8.2}", median(rounds, |round| of(round).as_secs_f64() * 1000.0))
        };
        format!(
            "{:<7}  {:<7}  {:<5}  {:<10}  {:<28}  {:<28}  {:<6.2}  {}{}{}{}",
            case.work,
            case.senders,
            case.body_bytes,
            if case.busy { "every core" } else { "none" },
            rates(&self.store),
            rates(&self.sqlite),
            self.ratio(),
            ms(&self.store, |round| round.latency(0.5)),
            ms(&self.store, |round| round.latency(0.99)),
            ms(&self.sqlite, |round| round.latency(0.5)),
            ms(&self.sqlite, |round| round.latency(0.99)),
        )
    }
}

/// One round of one side in a new folder, which is removed afterwards.
fn round<B: Broker>(
    settings: &Settings,
    case: &Case,
    open: impl FnOnce(&std::path::Path, &Settings) -> Result<B, Error>,
) -> Result<Measured, Error> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let broker = Arc::new(open(folder.path(), settings)?);
    let measured = match case.work {
        Work::Publish => load::measure(&broker, case, settings.round)?,
        Work::Cycle => cycle::measure(&broker, case, settings.round)?,
    };
    // Closes it: a round that has ended writes nothing into the next one.
    drop(broker);
    folder.close()?;
    // Nor is the disk still busy with what the round left behind.
    #[cfg(unix)]
    rustix::fs::sync();
    Ok(measured)
}

fn rates(rounds: &[Measured]) -> String {
    let rates = rounds.iter().map(Measured::rate);
    let (min, max) = rates.fold((f64::MAX, 0.0), |(min, max): (f64, f64), rate| (min.min(rate), max.max(rate)));
    format!("{} ({}-{})", thousands(median(rounds, Measured::rate)), thousands(min), thousands(max))
}

fn median(rounds: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn thousands(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
