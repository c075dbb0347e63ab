//! From a changed component to the first delivery that it handles, while messages flow through `linecook run`.
//!
//! ```text
//! cargo bench --bench reload                # exit code 1 if a requirement is missed
//! cargo bench --bench reload -- --quick     # once each: shows that it works
//! ```
//!
//! The component is about 1 MB: a handler that uses the crate regex with all of Unicode. Each round puts a version in the
//! place of the one before by a rename: first one that was never seen (*cold*: it has to be compiled), then the one of the
//! round before (*from the cache*). A message is sent every 5 ms; each sends on which version handled it. The time is from
//! the rename until the first send of the new version is durable.
//!
//! A part of it is not work: a file is taken to be whole when nothing has changed about it for 100 ms. Beside it stands what
//! wasmtime alone needs to compile the same bytes with the same settings, on all cores and with nothing else to do.
//!
//! Required is that a cold one takes at most twice as long as the compiler alone, as it has a lower priority than all that
//! goes on beside it, and a little over the wait; that nobody waits for a compiler if the code is there; and that deliveries
//! go on meanwhile.

mod measure;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use linecook::sandbox::engine_config;
use measure::{Error, Verdict, median};
use serde_json::Value;

#[path = "../tests/support/guests.rs"]
mod guests;
#[path = "../tests/support/runtime.rs"]
mod runtime;

use runtime::{Kitchen, Runtime};

/// How long a file must not change.
const STABLE_MS: f64 = 100.0;
/// Beside the stability wait and the compiler: reading, hashing, linking, the trial instance, the first delivery.
const OVERHEAD_MS_MAX: f64 = 150.0;
/// No message waits longer than this for the one before it while a version is compiled and taken into use.
const GAP_MS_MAX: f64 = 250.0;
const SEND_EVERY: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    match run(if quick { 1 } else { 10 }) {
        Ok(verdict) if quick || verdict.print() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(rounds: u32) -> Result<Verdict, Error> {
    let component = std::fs::read(guests::component("large"))?;
    println!(
        "a component of {} bytes, {rounds} rounds, a message every {SEND_EVERY:?}, 2 workers, {} cores; ms, median (min to max)\n",
        component.len(),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    let kitchen = Kitchen::new(
        "",
        "[queues.in]\n[queues.out]\n[consumers.large]\nqueue = \"in\"\ncomponent = \"large.wasm\"\ngrants.send = [\"out\"]\n",
    );
    kitchen.write("large.wasm", version(&component, 0)?);
    let runtime = kitchen.start_ready();
    let (mut cold, mut cached, mut bare, mut gaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        bare.push(compile(&version(&component, 1000 + round)?)?);
        let new = reload(&kitchen, &runtime, &component, round)?;
        cold.push(new.first_ms);
        let old = reload(&kitchen, &runtime, &component, round - 1)?;
        cached.push(old.first_ms);
        gaps.extend([new.gap_ms, old.gap_ms]);
    }
    let (cold, cached, bare) = (spread(cold), spread(cached), spread(bare));
    let gap = gaps.into_iter().fold(0.0, f64::max);
    println!("wasmtime alone compiles it in             {bare}");
    println!("file change to first delivery, cold       {cold}");
    println!("file change to first delivery, cached     {cached}");
    println!("of both, the wait until the file is whole {STABLE_MS:.0}");
    println!("longest time between two deliveries       {gap:.0}");
    let mut verdict = Verdict::default();
    let cold_max = 2.0 * bare.0 + STABLE_MS + OVERHEAD_MS_MAX;
    verdict.require(
        cold.0 <= cold_max,
        format!("cold: at most {cold_max:.0} ms, which is twice compiling alone, waiting and {OVERHEAD_MS_MAX} ms"),
    );
    let cached_max = STABLE_MS + OVERHEAD_MS_MAX;
    verdict.require(cached.0 <= cached_max, format!("from the cache: at most {cached_max:.0} ms"));
    verdict.require(gap <= GAP_MS_MAX, format!("a delivery at least every {GAP_MS_MAX} ms"));
    Ok(verdict)
}

/// Median, least and most.
struct Spread(f64, f64, f64);

fn spread(mut values: Vec<f64>) -> Spread {
    let median = median(&mut values);
    Spread(median, values[0], values[values.len() - 1])
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0} to {:.0})", self.0, self.1, self.2)
    }
}

/// The component with another number in it.
fn version(component: &[u8], number: u32) -> Result<Vec<u8>, Error> {
    const MARK: &[u8] = b"the version is ";
    let mut changed = component.to_vec();
    let at =
        changed.windows(MARK.len()).position(|bytes| bytes == MARK).ok_or("the guest has no version")? + MARK.len();
    changed[at..at + 8].copy_from_slice(format!("{number:08}").as_bytes());
    Ok(changed)
}

/// What one reload came to.
struct Reload {
    first_ms: f64,
    gap_ms: f64,
}

fn reload(kitchen: &Kitchen, runtime: &Runtime, component: &[u8], number: u32) -> Result<Reload, Error> {
    let wanted = format!("{number:08}");
    kitchen.write("next.wasm", version(component, number)?);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                runtime.send("in", "42 cooks, one of them Ωμέγα");
                next += SEND_EVERY;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        let changed_at = SystemTime::now();
        std::fs::rename(kitchen.path().join("next.wasm"), kitchen.path().join("large.wasm"))?;
        let mut seen: Vec<(f64, bool)> = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !seen.iter().any(|(_, new)| *new) {
            if Instant::now() > deadline {
                return Err(format!("version {wanted} handles nothing:\n{}", runtime.log()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
            seen = look(runtime, changed_at, &wanted)?;
        }
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| "the sender panicked")?;
        seen.sort_by(|one, other| one.0.total_cmp(&other.0));
        let first_ms = seen.iter().find(|(_, new)| *new).map_or(f64::NAN, |(at, _)| *at);
        let gap_ms = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(0.0, f64::max);
        runtime.until("all handled", |runtime| runtime.is_empty("in"));
        runtime.delete("/queues/out/messages");
        Ok(Reload { first_ms, gap_ms })
    })
}

/// What has come out, by when, and whether the new version sent it.
fn look(runtime: &Runtime, changed_at: SystemTime, wanted: &str) -> Result<Vec<(f64, bool)>, Error> {
    let read = |message: Value| {
        let at = humantime::parse_rfc3339(message["enqueued_at"].as_str().ok_or("no time")?)?;
        let body: Value = serde_json::from_str(message["body"].as_str().ok_or("no body")?)?;
        let ms = match at.duration_since(changed_at) {
            Ok(after) => after.as_secs_f64() * 1000.0,
            Err(before) => -before.duration().as_secs_f64() * 1000.0,
        };
        Ok((ms, body["version"] == wanted))
    };
    runtime.peek("out").into_iter().map(read).collect()
}

/// Milliseconds that wasmtime takes for the same, in this process.
fn compile(component: &[u8]) -> Result<f64, Error> {
    let engine = wasmtime::Engine::new(&engine_config(64))?;
    let started = Instant::now();
    engine.precompile_component(component)?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
