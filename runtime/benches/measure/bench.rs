//! The store with one queue, its senders and its consumer.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use linecook_store::{Action, Delivery, NewMessage, Options, QueueLimits, QueueName, Store, Transaction};

use super::Error;

const IN_FLIGHT: usize = 512;
pub(crate) const CLAIM: usize = 512;
const BATCHES: usize = 4;
pub(crate) const LEASE_MS: u64 = 60_000;

/// A plain message.
pub(crate) fn message(body_bytes: usize) -> NewMessage {
    NewMessage { body: Bytes::from(vec![b'x'; body_bytes]), ..NewMessage::default() }
}

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) queue: QueueName,
}

impl Bench {
    /// How it works, to be printed.
    pub(crate) fn settings(options: &Options) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (log_mib, cache_mib) = (options.log_bytes_max >> 20, options.cache_bytes_max >> 20);
        format!(
            "{cores} cores, {}, log of at most {log_mib} MiB, cache {cache_mib} MiB; {IN_FLIGHT} sends in flight, \
             claims of {CLAIM}, {BATCHES} of them being acknowledged",
            std::env::consts::OS
        )
    }

    pub(crate) fn open(folder: &Path, options: &Options) -> Result<Bench, Error> {
        let store = Store::open(folder, options)?;
        let queue = QueueName::new("bench")?;
        store.declare(&queue, QueueLimits::default());
        Ok(Bench { store, queue })
    }

    /// Sends and takes messages until every file of the ring that a short queue needs has been used, and the cache is full.
    pub(crate) fn warm_up(&self, body_bytes: usize) -> Result<(), Error> {
        const ROUND: u64 = 100_000;
        let used_bytes = 12 * ROUND * 260;
        for _ in 0..used_bytes.div_ceil(ROUND * (body_bytes as u64 + 60)) {
            self.send((0..ROUND).map(|_| message(body_bytes)))?;
            self.drain(ROUND)?;
        }
        Ok(())
    }

    pub(crate) fn ready(&self) -> u64 {
        self.store.queue(&self.queue).map_or(0, |stats| stats.ready)
    }

    pub(crate) fn send(&self, messages: impl IntoIterator<Item = NewMessage>) -> Result<(), Error> {
        let (permits, done) = permits(IN_FLIGHT);
        for message in messages {
            done.recv()??;
            let transaction = Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() };
            let permits = permits.clone();
            self.store
                .submit(transaction, move |answer| drop(permits.send(answer.map(drop).map_err(|why| why.to_string()))));
        }
        wait_all(&done, IN_FLIGHT)
    }

    /// Takes so many messages.
    pub(crate) fn drain(&self, messages: u64) -> Result<(), Error> {
        let mut settling = Settling::new(&self.store);
        let mut left = messages;
        while left > 0 {
            let deliveries = self.store.claim(&self.queue, CLAIM.min(left as usize), LEASE_MS)?;
            if deliveries.is_empty() {
                return Err(format!("{left} messages are missing").into());
            }
            left -= deliveries.len() as u64;
            settling.settle(&deliveries, &Action::Ack)?;
        }
        settling.finish()
    }
}

/// Settles batches, a few of which are on their way at a time.
pub(crate) struct Settling<'a> {
    store: &'a Store,
    permits: SyncSender<Result<(), String>>,
    done: Receiver<Result<(), String>>,
}

impl Settling<'_> {
    pub(crate) fn new(store: &Store) -> Settling<'_> {
        let (permits, done) = permits(BATCHES);
        Settling { store, permits, done }
    }

    /// Begins the attempts of a batch and ends them. It waits while too many batches are on their way.
    pub(crate) fn settle(&mut self, deliveries: &[Delivery], action: &Action) -> Result<(), Error> {
        self.done.recv()??;
        let settlements = deliveries.iter().map(|delivery| {
            assert!(self.store.begin(delivery.lease), "a fresh lease can begin");
            Transaction { settle: Some((delivery.lease, action.clone())), ..Transaction::default() }
        });
        let permits = self.permits.clone();
        self.store.submit_all(settlements.collect(), move |answers| {
            let refused = answers.into_iter().find_map(Result::err);
            drop(permits.send(refused.map_or(Ok(()), |why| Err(why.to_string()))));
        });
        Ok(())
    }

    /// Waits until all are durable.
    pub(crate) fn finish(self) -> Result<(), Error> {
        wait_all(&self.done, BATCHES)
    }
}

type Permits = (SyncSender<Result<(), String>>, Receiver<Result<(), String>>);

fn permits(count: usize) -> Permits {
    let (permits, done) = sync_channel(count);
    (0..count).for_each(|_| permits.send(Ok(())).expect("the receiver is here"));
    (permits, done)
}

fn wait_all(done: &Receiver<Result<(), String>>, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        done.recv()??;
    }
    Ok(())
}
