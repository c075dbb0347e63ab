//! The driver of whole cycles, the same for both sides: so many messages in flight, each of which is sent, claimed and
//! acknowledged before the next one takes its place. There is one consumer, on the driver's thread, which hears of what
//! arrives as the runtime's do; the confirmations' callbacks do the rest.

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
        progress: Mutex::new(Progress {
            in_flight: case.senders,
            latencies: Vec::with_capacity(1 << 22),
            ..Progress::default()
        }),
        changed: Condvar::new(),
    });
    let watcher = Arc::downgrade(&cycle);
    broker.watch(move || watcher.upgrade().iter().for_each(|cycle| cycle.arrive()));
    for _ in 0..case.senders {
        Cycle::send(&cycle, Instant::now());
    }
    let consumed = consume(&cycle, case.senders);
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
fn consume<B: Broker>(cycle: &Arc<Cycle<B>>, in_flight: usize) -> Result<(), Error> {
    while cycle.arrived()? {
        for (lease, body) in cycle.broker.claim(in_flight)? {
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
    /// Something may have arrived since the last claim.
    arrived: bool,
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

    /// `sent`: now.
    fn send(cycle: &Arc<Cycle<B>>, sent: Instant) {
        let sender = cycle.clone();
        let confirm = move |confirmed: Result<(), String>| match confirmed {
            Ok(()) => sender.progress().latencies.push(nanos(sent.elapsed())),
            Err(why) => sender.fail(why),
        };
        // A body of its own, as each message from outside has.
        cycle.broker.publish(Bytes::copy_from_slice(&cycle.body), confirm);
    }

    fn acked(cycle: Arc<Cycle<B>>, confirmed: Result<(), String>) {
        let now = Instant::now();
        match confirmed {
            Ok(()) if now < cycle.ends_at => return Cycle::send(&cycle, now),
            Ok(()) => cycle.progress().in_flight -= 1,
            Err(why) => return cycle.fail(why),
        }
        cycle.changed.notify_one();
    }

    fn fail(&self, why: String) {
        self.progress().failed = Some(why);
        self.changed.notify_one();
    }

    /// Something can be claimed.
    fn arrive(&self) {
        self.progress().arrived = true;
        self.changed.notify_one();
    }

    /// Waits until something can be claimed. False if nothing is in flight any more.
    fn arrived(&self) -> Result<bool, String> {
        let mut progress = self.progress();
        while !progress.arrived && progress.in_flight > 0 && progress.failed.is_none() {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        match progress.failed.take() {
            Some(why) => Err(why),
            None => Ok(std::mem::take(&mut progress.arrived) || progress.in_flight > 0),
        }
    }
}
