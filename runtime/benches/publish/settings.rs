//! What is measured, and for how long.

use std::fmt;
use std::time::Duration;

/// How the whole benchmark runs.
pub(crate) struct Settings {
    pub(crate) quick: bool,
    /// Senders and bytes of the only cases that run.
    only: Option<(usize, usize)>,
    /// The only work that is done.
    work: Option<Work>,
    /// Of each side, for each case.
    pub(crate) rounds: usize,
    pub(crate) round: Duration,
    /// More than a round can fill, so that no send is refused.
    pub(crate) log_bytes_max: u64,
}

impl Settings {
    pub(crate) fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Settings, String> {
        let (mut quick, mut only, mut work) = (false, None, None);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => quick = true,
                "--only" => {
                    let case = arguments.next().unwrap_or_default();
                    let numbers = case.split_once('x').map(|(senders, bytes)| (senders.parse(), bytes.parse()));
                    let Some((Ok(senders), Ok(bytes))) = numbers else {
                        return Err(format!("--only takes senders and bytes, such as 512x100, not {case:?}"));
                    };
                    only = Some((senders, bytes));
                }
                "--work" => {
                    work = Some(match arguments.next().as_deref() {
                        Some("publish") => Work::Publish,
                        Some("cycle") => Work::Cycle,
                        _ => return Err("--work takes publish or cycle".into()),
                    });
                }
                // Cargo passes it to every benchmark.
                "--bench" => {}
                other => return Err(format!("unknown argument {other:?}: only --quick, --only and --work are known")),
            }
        }
        let (rounds, round) = if quick { (1, Duration::from_millis(150)) } else { (5, Duration::from_millis(1500)) };
        Ok(Settings { quick, only, work, rounds, round, log_bytes_max: 8 << 30 })
    }
}

impl Settings {
    /// The cases that run.
    pub(crate) fn cases(&self) -> impl Iterator<Item = Case> {
        let Settings { only, work, .. } = *self;
        Case::all()
            .filter(move |case| only.is_none_or(|only| only == (case.senders, case.body_bytes)))
            .filter(move |case| work.is_none_or(|work| work == case.work))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        writeln!(f, "Durable publish: linecook-store against SQLite {}", rusqlite::version())?;
        writeln!(f, "cores {cores}, {} {}", std::env::consts::OS, kernel.trim())?;
        writeln!(
            f,
            "{} rounds of {:.2} s of each, in turn, each in a new folder under {}",
            self.rounds,
            self.round.as_secs_f64(),
            env!("CARGO_TARGET_TMPDIR"),
        )?;
        writeln!(f, "store: log of at most {} GiB, fdatasync for each group", self.log_bytes_max >> 30)?;
        writeln!(
            f,
            "SQLite: journal_mode=WAL, synchronous=FULL, otherwise its defaults; one transaction for each group;"
        )?;
        write!(f, "        a claim is a SELECT on a connection of its own, leases are in memory, an ack is a DELETE")
    }
}

/// What is done with each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It is sent.
    Publish,
    /// It is sent, claimed and acknowledged.
    Cycle,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Work::Publish => "publish",
            Work::Cycle => "cycle",
        })
    }
}

/// One row of the table.
pub(crate) struct Case {
    pub(crate) work: Work,
    pub(crate) senders: usize,
    pub(crate) body_bytes: usize,
    /// A busy guest on every core.
    pub(crate) busy: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Case> {
        const BODY_BYTES: [usize; 2] = [100, 1024];
        let publish = |busy| {
            let sizes = move |senders| {
                BODY_BYTES.into_iter().map(move |body_bytes| Case { work: Work::Publish, senders, body_bytes, busy })
            };
            [1, 64, 512].into_iter().flat_map(sizes)
        };
        let cycle = |body_bytes| Case { work: Work::Cycle, senders: 512, body_bytes, busy: false };
        BODY_BYTES.into_iter().map(cycle).chain([false, true].into_iter().flat_map(publish))
    }

    /// How many times SQLite's rate the store must do.
    pub(crate) fn ratio_min(&self) -> Option<f64> {
        match (self.work, self.senders, self.body_bytes) {
            (Work::Publish, 512, 100) => Some(1.2),
            (Work::Publish, 512, 1024) => Some(1.5),
            (Work::Cycle, 512, 100) => Some(1.4),
            (Work::Cycle, 512, 1024) => Some(2.0),
            _ => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guests = if self.busy { "busy guests" } else { "no guests" };
        write!(f, "{}: {} in flight, {} bytes, {guests}", self.work, self.senders, self.body_bytes)
    }
}
