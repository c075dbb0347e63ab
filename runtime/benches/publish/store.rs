//! Linecook's side.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use linecook_store::{Action, Lease, NewMessage, Options, QueueLimits, QueueName, Store, Transaction};

use crate::Error;
use crate::load::Broker;
use crate::settings::Settings;

const LEASE_MS: u64 = 60_000;

pub(crate) struct LinecookStore {
    store: Store,
    queue: QueueName,
}

pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<LinecookStore, Error> {
    let store = Store::open(folder, &Options { log_bytes_max: settings.log_bytes_max, ..Options::default() })?;
    let queue = QueueName::new("published")?;
    store.declare(&queue, QueueLimits::default());
    Ok(LinecookStore { store, queue })
}

impl Broker for LinecookStore {
    type Lease = Lease;

    fn publish(&self, body: Bytes, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        let message = NewMessage { body, ..NewMessage::default() };
        let transaction = Transaction { sends: [(self.queue.clone(), message)].into(), ..Transaction::default() };
        self.store.submit(transaction, move |answer| confirm(answer.map(drop).map_err(|refusal| refusal.to_string())));
    }

    fn watch(&self, arrived: impl Fn() + Send + Sync + 'static) {
        self.store.watch(&self.queue, Arc::new(arrived));
    }

    fn claim(&self, max: usize) -> Result<Vec<(Lease, Bytes)>, String> {
        let deliveries = self.store.claim(&self.queue, max, LEASE_MS).map_err(|refusal| refusal.to_string())?;
        // Its attempt begins, which is put down in the table of attempts.
        deliveries.iter().for_each(|delivery| assert!(self.store.begin(delivery.lease), "a fresh lease can begin"));
        Ok(deliveries.into_iter().map(|delivery| (delivery.lease, delivery.message.body)).collect())
    }

    fn ack(&self, lease: Lease, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        let transaction = Transaction { settle: Some((lease, Action::Ack)), ..Transaction::default() };
        self.store.submit(transaction, move |answer| confirm(answer.map(drop).map_err(|refusal| refusal.to_string())));
    }
}
