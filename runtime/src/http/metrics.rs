//! `GET /metrics`: counts in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Shared;
use super::problem::Problem;

/// The upper bounds of the buckets of the time that a send takes to become durable, in microseconds.
const BUCKETS_US: [u64; 12] =
    [250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// What a client made of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Acked,
    Retried,
    DeadLettered,
}

/// What is counted of requests. Relaxed throughout: each count stands for itself.
#[derive(Debug, Default)]
pub(super) struct Meters {
    sent: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    claimed: AtomicU64,
    acked: AtomicU64,
    retried: AtomicU64,
    dead_lettered: AtomicU64,
    /// One more than there are bounds: what is above all of them.
    commits: [AtomicU64; BUCKETS_US.len() + 1],
    commit_us: AtomicU64,
}

impl Meters {
    /// A send was confirmed after so long.
    pub(super) fn sent(&self, messages: u64, duplicates: u64, elapsed: Duration) {
        add(&self.sent, messages - duplicates);
        if duplicates > 0 {
            add(&self.duplicates, duplicates);
        }
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        add(&self.commits[BUCKETS_US.partition_point(|bound| *bound < us)], 1);
        add(&self.commit_us, us);
    }

    /// A send was refused by the queue engine.
    pub(super) fn refused(&self) {
        add(&self.refused, 1);
    }

    pub(super) fn claimed(&self, messages: u64) {
        add(&self.claimed, messages);
    }

    pub(super) fn settled(&self, how: Settled) {
        add(
            match how {
                Settled::Acked => &self.acked,
                Settled::Retried => &self.retried,
                Settled::DeadLettered => &self.dead_lettered,
            },
            1,
        );
    }
}

fn add(count: &AtomicU64, amount: u64) {
    count.fetch_add(amount, Ordering::Relaxed);
}

/// All of it, as it is now.
pub(super) async fn metrics(State(shared): State<Shared>) -> Result<Response, Problem> {
    let queues = shared.broker.queues().await.map_err(|error| Problem::broker(&error))?;
    let now_ms = crate::time::now_ms();
    let mut text = Text(String::new());
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let meters = &shared.meters;

    text.family("linecook_http_messages_sent_total", "counter", "Messages that were sent over HTTP and are durable.");
    text.sample("linecook_http_messages_sent_total", &[], get(&meters.sent));
    text.family("linecook_http_duplicates_total", "counter", "Messages sent over HTTP that had been sent before.");
    text.sample("linecook_http_duplicates_total", &[], get(&meters.duplicates));
    text.family("linecook_http_sends_refused_total", "counter", "Sends over HTTP that the queue engine refused.");
    text.sample("linecook_http_sends_refused_total", &[], get(&meters.refused));
    text.commits(meters);
    text.family("linecook_http_messages_claimed_total", "counter", "Messages that clients claimed.");
    text.sample("linecook_http_messages_claimed_total", &[], get(&meters.claimed));
    text.family("linecook_http_leases", "gauge", "Messages that clients hold.");
    text.sample("linecook_http_leases", &[], shared.leases.count() as u64);
    text.family(
        "linecook_http_messages_settled_total",
        "counter",
        "What clients made of the messages that they claimed.",
    );
    for (outcome, count) in [("ack", &meters.acked), ("retry", &meters.retried), ("dead-letter", &meters.dead_lettered)]
    {
        text.sample("linecook_http_messages_settled_total", &[("outcome", outcome)], get(count));
    }

    text.family("linecook_queue_messages", "gauge", "Messages in a queue, by state.");
    for queue in &queues {
        for (state, count) in [("ready", queue.ready), ("delayed", queue.delayed), ("leased", queue.leased)] {
            text.sample("linecook_queue_messages", &[("queue", queue.name.as_str()), ("state", state)], count);
        }
    }
    text.family("linecook_queue_bytes", "gauge", "Bytes of bodies and attributes in a queue.");
    for queue in &queues {
        text.sample("linecook_queue_bytes", &[("queue", queue.name.as_str())], queue.bytes);
    }
    text.family("linecook_queue_oldest_age_ms", "gauge", "How long ago the oldest message of a queue was sent.");
    for queue in &queues {
        let age_ms = queue.oldest_enqueued_at_ms.map_or(0, |at| now_ms.saturating_sub(at));
        text.sample("linecook_queue_oldest_age_ms", &[("queue", queue.name.as_str())], age_ms);
    }

    let consumers = shared.board.all();
    text.family("linecook_deliveries_total", "counter", "Deliveries to a consumer that ended, by outcome.");
    for one in &consumers {
        for (outcome, count) in [("ack", one.acked), ("fail", one.failed), ("dead-letter", one.dead_lettered)] {
            let labels = [("consumer", one.name.as_str()), ("queue", one.queue.as_str()), ("outcome", outcome)];
            text.sample("linecook_deliveries_total", &labels, count);
        }
    }
    text.family("linecook_deliveries_running", "gauge", "Deliveries to a consumer that are running.");
    for one in &consumers {
        text.sample("linecook_deliveries_running", &[("consumer", &one.name), ("queue", &one.queue)], one.running);
    }
    text.family("linecook_consumer_paused", "gauge", "1 if a consumer is paused.");
    for one in &consumers {
        let labels = [("consumer", one.name.as_str()), ("queue", one.queue.as_str())];
        text.sample("linecook_consumer_paused", &labels, u64::from(one.paused));
    }
    text.family("linecook_consumer_generation", "gauge", "The generation of a consumer's module; 0 before the first.");
    for one in &consumers {
        let labels = [("consumer", one.name.as_str()), ("queue", one.queue.as_str())];
        text.sample("linecook_consumer_generation", &labels, one.generation);
    }
    text.family(
        "linecook_consumer_reload_failed",
        "gauge",
        "1 if the newest module of a consumer was not taken into use.",
    );
    for one in &consumers {
        let labels = [("consumer", one.name.as_str()), ("queue", one.queue.as_str())];
        text.sample("linecook_consumer_reload_failed", &labels, u64::from(one.reload_error.is_some()));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0).into_response())
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Values of labels are names of queues, consumers and the like: nothing in them has to be escaped.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            _ = write!(self.0, "{}{label}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn commits(&mut self, meters: &Meters) {
        let name = "linecook_http_send_seconds";
        self.family(name, "histogram", "How long sends over HTTP took to become durable.");
        let mut total = 0;
        for (bound_us, count) in BUCKETS_US.iter().zip(&meters.commits) {
            total += count.load(Ordering::Relaxed);
            let bound = (*bound_us as f64 / 1e6).to_string();
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], total);
        }
        total += meters.commits[BUCKETS_US.len()].load(Ordering::Relaxed);
        self.sample(&format!("{name}_bucket"), &[("le", "+Inf")], total);
        let seconds = meters.commit_us.load(Ordering::Relaxed) as f64 / 1e6;
        _ = writeln!(self.0, "{name}_sum {seconds}");
        self.sample(&format!("{name}_count"), &[], total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_sends_is_a_histogram() {
        let meters = Meters::default();
        for us in [1, 250, 251, 10_000_000] {
            meters.sent(2, 1, Duration::from_micros(us));
        }
        let mut text = Text(String::new());
        text.commits(&meters);
        for line in [
            "linecook_http_send_seconds_bucket{le=\"0.00025\"} 2",
            "linecook_http_send_seconds_bucket{le=\"0.0005\"} 3",
            "linecook_http_send_seconds_bucket{le=\"5\"} 3",
            "linecook_http_send_seconds_bucket{le=\"+Inf\"} 4",
            "linecook_http_send_seconds_count 4",
            "linecook_http_send_seconds_sum 10.000502",
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} is not in\n{}", text.0);
        }
    }
}
