//! The driver of whole cycles, the same for both sides: so many messages in flight, each of which is sent, claimed and
//! acknowledged before the next one takes its place. There is one consumer, on the driver's thread; the confirmations'
//! callbacks do the rest.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::Error;
use crate::load::{Broker, Measured, nanos};
use crate::settings::Case;

/// Goes on for so long, then until nothing is in flight.
pub(crate) fn measure<B: Broker>(broker: &Arc<B>, case: &Case, duration: Duration) -> Result<Measured, Error> {
    let started = Instant::now();
    let cycle = Arc::new(Cycle {
        broker: broker.clone(),
        body: vec![b'x'; case.body_bytes],
        ends_at: started + duration,
        progress: Mutex::new(Progress { in_flight: case.senders, ..Progress::default() }),
        changed: Condvar::new(),
    });
    for _ in 0..case.senders {
        Cycle::send(&cycle);
    }
    let consumed = consume(&cycle);
    let took = started.elapsed();
    // The callbacks let go of the broker first: its own thread must not be the one that closes it.
    while Arc::strong_count(&cycle) > 1 {
        std::thread::yield_now();
    }
    consumed?;
    let latencies = std::mem::take(&mut cycle.progress().latencies);
    Ok(Measured::new(took, latencies))
}

/// Claims and acknowledges what arrives, until nothing is in flight.
fn consume<B: Broker>(cycle: &Arc<Cycle<B>>) -> Result<(), Error> {
    while let Some(arrived) = cycle.arrived()? {
        let claimed = cycle.broker.claim(arrived)?;
        if claimed.len() != arrived {
            return Err(format!("{arrived} messages were confirmed, and {} can be claimed", claimed.len()).into());
        }
        for (lease, body) in claimed {
            if body != cycle.body {
                return Err("a message was changed on its way".into());
            }
            let acked = cycle.clone();
            cycle.broker.ack(lease, move |confirmed| Cycle::acked(acked, confirmed));
        }
    }
    Ok(())
}

struct Cycle<B> {
    broker: Arc<B>,
    body: Vec<u8>,
    ends_at: Instant,
    // The committer's thread adds to it; the consumer takes what arrived.
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// Confirmed and not yet claimed.
    arrived: usize,
    /// Sent and not yet acknowledged.
    in_flight: usize,
    /// Of publishing.
    latencies: Vec<u32>,
    failed: Option<String>,
}

impl<B: Broker> Cycle<B> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(cycle: &Arc<Cycle<B>>) {
        let sender = cycle.clone();
        let sent = Instant::now();
        let confirm = move |confirmed: Result<(), String>| {
            let mut progress = sender.progress();
            match confirmed {
                Ok(()) => {
                    progress.latencies.push(nanos(sent.elapsed()));
                    progress.arrived += 1;
                }
                Err(why) => progress.failed = Some(why),
            }
            if progress.arrived <= 1 {
                sender.changed.notify_one();
            }
        };
        // A body of its own, as each message from outside has.
        cycle.broker.publish(Bytes::copy_from_slice(&cycle.body), confirm);
    }

    fn acked(cycle: Arc<Cycle<B>>, confirmed: Result<(), String>) {
        match confirmed {
            Ok(()) if Instant::now() < cycle.ends_at => return Cycle::send(&cycle),
            Ok(()) => cycle.progress().in_flight -= 1,
            Err(why) => cycle.progress().failed = Some(why),
        }
        cycle.changed.notify_one();
    }

    /// Waits for messages that can be claimed, and answers how many. None if no more will come.
    fn arrived(&self) -> Result<Option<usize>, String> {
        let mut progress = self.progress();
        while progress.arrived == 0 && progress.in_flight > 0 && progress.failed.is_none() {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        match progress.failed.take() {
            Some(why) => Err(why),
            None => Ok(Some(std::mem::take(&mut progress.arrived)).filter(|arrived| *arrived > 0)),
        }
    }
}
