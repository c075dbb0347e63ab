//! What consumers cost that have nothing to do: memory, threads, open files and CPU of `linecook run`, beside a runtime
//! with one consumer.
//!
//! ```text
//! cargo bench --bench idle                # 1,000 consumers; exit code 1 if a requirement is missed
//! cargo bench --bench idle -- --quick     # 50, for a moment: shows that it works
//! ```
//!
//! Each has a queue of its own. In one run they all have the same component, in another one each has its own: the same code
//! under another hash, so that nothing can be shared. What is looked at is `/proc`, a while after all have loaded; what
//! belongs to the machine's other work is not in it.
//!
//! Required is that one more consumer costs what is its own (its queue, its tasks, its settings, and its code unless another
//! one has the same), and no thread, no file and next to no CPU.

mod measure;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use measure::{Error, Usage, Verdict};

#[path = "../tests/support/guests.rs"]
mod guests;
#[path = "../tests/support/runtime.rs"]
mod runtime;

use runtime::Kitchen;

/// Resident memory of one consumer, if all have the same component.
const KIB_SHARED_MAX: f64 = 40.0;
/// Likewise, if each has its own: that is its code, once for each worker.
const KIB_OWN_MAX: f64 = 1536.0;
/// Threads and open files of all consumers together, beyond those of one; and one file for each component, the image of its memory.
const THREADS_MAX: u64 = 4;
const FILES_MAX: u64 = 16;
/// Of one core, all consumers together.
const CPU_PERCENT_MAX: f64 = 5.0;

struct Effort {
    consumers: usize,
    own: usize,
    settle: Duration,
    idle: Duration,
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let effort = match quick {
        true => Effort { consumers: 50, own: 5, settle: Duration::from_millis(500), idle: Duration::from_secs(1) },
        false => Effort { consumers: 1000, own: 100, settle: Duration::from_secs(5), idle: Duration::from_secs(10) },
    };
    match run(&effort) {
        Ok(verdict) if quick || verdict.print() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(effort: &Effort) -> Result<Verdict, Error> {
    let component = std::fs::read(guests::component("noop"))?;
    println!(
        "idle consumers of {} KB of WebAssembly, max_concurrency 8, 2 workers, {} cores; CPU over {:?}, {:?} after the last has \
         loaded\n",
        component.len() / 1000,
        std::thread::available_parallelism().map_or(1, usize::from),
        effort.idle,
        effort.settle,
    );
    println!(
        "{:<34} {:>12} {:>13} {:>8} {:>6} {:>14}",
        "", "resident MiB", "KiB/consumer", "threads", "files", "CPU, % of core"
    );
    let mut verdict = Verdict::default();
    let one = measure(effort, &component, 1, false)?;
    print("one consumer", &one, None);
    for (consumers, own, kib_max) in [(effort.consumers, false, KIB_SHARED_MAX), (effort.own, true, KIB_OWN_MAX)] {
        let usage = measure(effort, &component, consumers, own)?;
        let kib = usage.resident_kb.saturating_sub(one.resident_kb) as f64 / (consumers - 1) as f64;
        let name = format!("{consumers} consumers, {}", if own { "each its own component" } else { "one component" });
        print(&name, &usage, Some(kib));
        verdict.require(kib <= kib_max, format!("{name}: at most {kib_max} KiB each"));
        let threads = usage.threads.saturating_sub(one.threads);
        verdict.require(threads <= THREADS_MAX, format!("{name}: at most {THREADS_MAX} threads more than with one"));
        let files = usage.files.saturating_sub(one.files);
        let files_max = FILES_MAX + if own { consumers as u64 } else { 0 };
        verdict.require(files <= files_max, format!("{name}: at most {files_max} open files more than with one"));
        let cpu = usage.cpu_percent(effort.idle);
        verdict.require(cpu <= CPU_PERCENT_MAX, format!("{name}: at most {CPU_PERCENT_MAX}% of a core"));
    }
    Ok(verdict)
}

fn print(name: &str, usage: &Usage, kib: Option<f64>) {
    println!(
        "{name:<34} {:>12.1} {:>13} {:>8} {:>6} {:>14.2}",
        usage.resident_kb as f64 / 1024.0,
        kib.map_or(String::new(), |kib| format!("{kib:.1}")),
        usage.threads,
        usage.files,
        usage.cpu_percent(usage.over),
    );
}

/// A runtime with so many consumers, all loaded; its CPU time is that of a while in which nothing happens.
fn measure(effort: &Effort, component: &[u8], consumers: usize, own: bool) -> Result<Usage, Error> {
    let mut tables = String::new();
    for number in 0..consumers {
        let file = if own { number } else { 0 };
        write!(
            tables,
            "[queues.q{number}]\n[consumers.c{number}]\nqueue = \"q{number}\"\ncomponent = \"plugins/{file}.wasm\"\n"
        )?;
    }
    let kitchen = Kitchen::new("", &tables);
    for number in 0..if own { consumers } else { 1 } {
        let component = guests::with_custom_section(component, "number", &number.to_le_bytes());
        kitchen.write(&format!("plugins/{number}.wasm"), component);
    }
    let runtime = kitchen.start_ready();
    std::thread::sleep(effort.settle);
    let before = Usage::of(runtime.id())?;
    std::thread::sleep(effort.idle);
    let after = Usage::of(runtime.id())?;
    Ok(Usage { cpu: after.cpu.saturating_sub(before.cpu), over: effort.idle, ..after })
}
