//! Linecook's side.

use std::path::Path;

use bytes::Bytes;
use linecook_store::{NewMessage, Options, QueueLimits, QueueName, Store, Transaction};

use crate::Error;
use crate::load::Broker;
use crate::settings::Settings;

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
    fn publish(&self, body: Bytes, confirm: impl FnOnce(Result<(), String>) + Send + 'static) {
        let message = NewMessage { body, ..NewMessage::default() };
        let transaction = Transaction { settle: None, sends: [(self.queue.clone(), message)].into() };
        self.store.submit(transaction, move |answer| confirm(answer.map(drop).map_err(|refusal| refusal.to_string())));
    }
}
