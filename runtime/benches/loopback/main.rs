//! Durable sends over loopback, side by side: one message of 1 KiB in flight on each connection through Linecook (HTTP),
//! Redis (`XADD`) and RabbitMQ (publisher confirms), and many at once through the first two.
//!
//! `runtime/benches/load` starts the servers, runs this and stops them; see there. One client drives all of them with the same
//! loop ([`client`]): one thread that waits for readiness, reads an answer and writes the next request, whose bytes are made
//! once. Linecook is measured with `wrk` too, so that it can be seen what the client is worth.

mod amqp;
mod client;
mod http;
#[path = "../measure/mod.rs"]
mod measure;
mod resp;
mod server;
mod settings;
mod table;
mod wrk;

use std::process::ExitCode;

use client::Measured;
use measure::Error;
use server::Server;
use settings::{Settings, System, Work};

fn main() -> ExitCode {
    measure::exit_code(Settings::from_arguments(std::env::args().skip(1)), |settings| run(&settings))
}

/// Answers whether every requirement was met, or was not to be judged.
fn run(settings: &Settings) -> Result<bool, Error> {
    println!("{settings}\n");
    let mut rows: Vec<(Work, Vec<Measured>)> = Work::all().map(|work| (work, Vec::new())).collect();
    // In turn, so that a slow minute of the machine is everybody's.
    for _ in 0..settings.rounds {
        for (work, rounds) in &mut rows {
            let server = settings.server(work.system);
            rounds.push(round(settings, work, server).map_err(|error| format!("{work}: {error}"))?);
        }
    }
    let rows: Vec<_> = rows.into_iter().map(|(work, rounds)| table::Row::new(work, &rounds)).collect();
    table::print(&rows);
    if settings.quick {
        println!("\nThe rounds were too short to judge the requirements.");
        return Ok(true);
    }
    Ok(table::judge(&rows))
}

/// One round, which begins with an empty queue.
fn round(settings: &Settings, work: &Work, server: &Server) -> Result<Measured, Error> {
    let cpu = || server.cpu_seconds();
    if work.by_wrk {
        http::empty(server)?;
        return wrk::measure(server, work.connections, settings, cpu);
    }
    let conversation = match work.system {
        System::Linecook => http::conversation(server, work.messages)?,
        System::Redis => resp::conversation(server, work.messages)?,
        System::RabbitMq => amqp::conversation(server)?,
    };
    client::measure(server, &conversation, work, settings, cpu)
}
