//! Linecook's side.

use std::path::Path;

use bytes::Bytes;
use linecook_store::{NewMessage, Options, QueueName, Store, Transaction};

use crate::Error;
use crate::load::{Broker, Confirm};
use crate::settings::Settings;

pub(crate) struct LinecookStore {
    store: Store,
    queue: QueueName,
}

pub(crate) fn open(folder: &Path, settings: &Settings) -> Result<LinecookStore, Error> {
    let store = Store::open(folder, &Options { log_bytes_max: settings.log_bytes_max, ..Options::default() })?;
    let queue = QueueName::new("published")?;
    store.declare(&queue, u64::MAX);
    Ok(LinecookStore { store, queue })
}

impl Broker for LinecookStore {
    fn publish(&self, body: Bytes, confirm: Confirm) {
        let message = NewMessage { body, ..NewMessage::default() };
        let transaction = Transaction { settle: None, sends: vec![(self.queue.clone(), message)] };
        self.store.submit(vec![transaction], move |answers| {
            let refused = answers.into_iter().find_map(Result::err);
            confirm(refused.map_or(Ok(()), |refusal| Err(refusal.to_string())));
        });
    }
}
