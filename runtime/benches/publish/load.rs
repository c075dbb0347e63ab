//! The driver, the same for both sides: so many senders, each of which sends its next message when the last one is
//! confirmed. There is no thread for a sender: the confirmation's callback sends.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Error;
use crate::settings::Case;

/// What takes messages, hands them out, and forgets them.
pub(crate) trait Broker: Send + Sync + 'static {
    /// A message that was claimed.
    type Lease;

    /// Returns at once. `confirm` is called on the committer's thread once the message is durable, or told why it is not.
    fn publish(&self, body: Bytes, confirm: impl FnOnce(Result<(), String>) + Send + 'static);

    /// Calls `arrived` after each group that brings messages, before those are confirmed, on the committer's thread.
    fn watch(&self, arrived: impl Fn() + Send + Sync + 'static);

    /// Leases up to `max` of the oldest messages and reads them. All that were confirmed are there.
    fn claim(&self, max: usize) -> Result<Vec<(Self::Lease, Bytes)>, String>;

    /// Returns at once. `confirm` is called on the committer's thread once the message is gone for ever.
    fn ack(&self, lease: Self::Lease, confirm: impl FnOnce(Result<(), String>) + Send + 'static);
}

/// What a round came to.
pub(crate) struct Measured {
    took: Duration,
    /// From sending to confirmation, in nanoseconds, smallest first.
    latencies: Vec<u32>,
}

impl Measured {
    /// `latencies`: of each message, in any order.
    pub(crate) fn new(took: Duration, mut latencies: Vec<u32>) -> Measured {
        latencies.sort_unstable();
        Measured { took, latencies }
    }

    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// The latency that this part of all messages kept within.
    pub(crate) fn latency(&self, part: f64) -> Duration {
        let place = (self.latencies.len() as f64 * part) as usize;
        Duration::from_nanos(u64::from(self.latencies[place.min(self.latencies.len() - 1)]))
    }
}

/// Sends for so long, then waits for what is in flight.
pub(crate) fn measure<B: Broker>(broker: &Arc<B>, case: &Case, duration: Duration) -> Result<Measured, Error> {
    let (finished, senders_finished) = mpsc::channel();
    let started = Instant::now();
    let load = Arc::new(Load {
        broker: broker.clone(),
        body: vec![b'x'; case.body_bytes],
        ends_at: started + duration,
        // Only the committer's thread locks it while the round lasts.
        latencies: Mutex::new(Vec::with_capacity(1 << 22)),
    });
    for _ in 0..case.senders {
        Load::send(&load, finished.clone());
    }
    drop(finished);
    // All of them, also if one was refused: the broker is closed only when nobody sends any more.
    let ends: Vec<Result<(), String>> = senders_finished.iter().collect();
    ends.into_iter().collect::<Result<(), String>>()?;
    let took = started.elapsed();
    let latencies = std::mem::take(&mut *load.latencies.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Measured::new(took, latencies))
}

pub(crate) fn nanos(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

struct Load<B> {
    broker: Arc<B>,
    body: Vec<u8>,
    ends_at: Instant,
    latencies: Mutex<Vec<u32>>,
}

impl<B: Broker> Load<B> {
    /// Sends one message, and the sender's next one when it is confirmed. `finished` hears of the sender's last.
    fn send(load: &Arc<Load<B>>, finished: Sender<Result<(), String>>) {
        let sender = load.clone();
        let sent = Instant::now();
        let confirm = move |confirmed: Result<(), String>| {
            let now = Instant::now();
            sender.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(nanos(now - sent));
            if confirmed.is_ok() && now < sender.ends_at {
                Load::send(&sender, finished);
            } else {
                // Let go of the broker before the round can end: its own thread must not be the one that closes it.
                drop(sender);
                // The driver waits until the last sender has let go of this.
                let _ = finished.send(confirmed);
            }
        };
        // A body of its own, as each message from outside has.
        load.broker.publish(Bytes::copy_from_slice(&load.body), confirm);
    }
}
