//! What is measured, and for how long.

use std::fmt;
use std::time::Duration;

use crate::Error;
use crate::server::Server;

/// The body of each message. Printable, so that it is the same bytes in a JSON text.
pub(crate) const BODY_BYTES: usize = 1024;
/// The queue, stream or quorum queue that is sent to.
pub(crate) const QUEUE: &str = "load";
/// Messages in one batch over HTTP.
pub(crate) const BATCH: usize = 100;
/// Commands in flight of one connection to Redis, where many are.
pub(crate) const PIPELINE: usize = 64;

/// The body that every message has.
pub(crate) fn body() -> String {
    "linecook carries this text to the other side. ".chars().cycle().take(BODY_BYTES).collect()
}

/// How the whole benchmark runs.
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Before a round, and not counted.
    pub(crate) warm_up: Duration,
    pub(crate) round: Duration,
    servers: Vec<(System, Server)>,
}

impl Settings {
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Settings, Error> {
        let (mut quick, mut servers) = (false, Vec::new());
        for argument in arguments {
            let mut add = |system, text: &str| -> Result<(), Error> {
                servers.push((system, Server::new(text)?));
                Ok(())
            };
            match argument.split_once('=') {
                Some(("--linecook", text)) => add(System::Linecook, text)?,
                Some(("--redis", text)) => add(System::Redis, text)?,
                Some(("--rabbitmq", text)) => add(System::RabbitMq, text)?,
                _ if argument == "--quick" => quick = true,
                // Cargo passes it to every benchmark.
                _ if argument == "--bench" => {}
                _ => return Err(format!("unknown argument {argument:?}; start this with runtime/benches/load").into()),
            }
        }
        if servers.len() != 3 {
            return Err(
                "it takes --linecook=PORT:PID, --redis= and --rabbitmq=; runtime/benches/load gives them".into()
            );
        }
        let (rounds, warm_up, round) = if quick { (1, 50, 200) } else { (3, 500, 2500) };
        let (warm_up, round) = (Duration::from_millis(warm_up), Duration::from_millis(round));
        Ok(Settings { quick, rounds, warm_up, round, servers })
    }

    pub(crate) fn server(&self, system: System) -> &Server {
        let found = self.servers.iter().find(|(one, _)| *one == system);
        &found.expect("from_arguments takes one of each").1
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        writeln!(f, "Durable sends of {BODY_BYTES} B over loopback, keep-alive, to one queue that nobody consumes")?;
        writeln!(f, "cores {cores}, {} {}", std::env::consts::OS, kernel.trim())?;
        writeln!(
            f,
            "cores are shared: nothing is pinned, servers and client have one priority, and only one server works at a time"
        )?;
        writeln!(
            f,
            "client: one thread, the same loop for all; wrk: one thread too. {} rounds of {:.1} s of each, in turn, each \
             after {:.1} s of warming up and with an empty queue; medians",
            self.rounds,
            self.round.as_secs_f64(),
            self.warm_up.as_secs_f64(),
        )?;
        write!(f, "CPU: user and system time of the server's process, all threads; latencies are those of a request")
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Linecook,
    Redis,
    RabbitMq,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) system: System,
    pub(crate) connections: usize,
    /// In one request.
    pub(crate) messages: usize,
    pub(crate) by_wrk: bool,
}

impl Work {
    const fn new(system: System, connections: usize, messages: usize) -> Work {
        Work { system, connections, messages, by_wrk: false }
    }

    /// The rows that are measured.
    pub(crate) fn all() -> impl Iterator<Item = Work> {
        let singles = [64, 512].into_iter().flat_map(|connections| {
            [
                Work::new(System::Linecook, connections, 1),
                Work { by_wrk: true, ..Work::new(System::Linecook, connections, 1) },
                Work::new(System::Redis, connections, 1),
                Work::new(System::RabbitMq, connections, 1),
            ]
        });
        singles.chain([Work::new(System::Linecook, 64, BATCH), Work::new(System::Redis, 64, PIPELINE)])
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match (self.system, self.messages, self.by_wrk) {
            (System::Linecook, 1, false) => "Linecook",
            (System::Linecook, 1, true) => "Linecook, by wrk",
            (System::Linecook, ..) => "Linecook, batches of 100",
            (System::Redis, 1, _) => "Redis",
            (System::Redis, ..) => "Redis, pipelines of 64",
            (System::RabbitMq, ..) => "RabbitMQ",
        })
    }
}
