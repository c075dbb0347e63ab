//! The parts of the runtime that follow `queue.toml`, in the order in which they do: see [`super::Part`].

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::plan::{self, DEAD_LETTERS};
use super::{Part, Refusal};
use crate::broker::{Broker, BrokerError, Pending};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Prepared};
use crate::producers;
use crate::retention::{self, Rule};

/// What is decided when the runtime starts.
#[derive(Debug)]
pub struct Fixed;

impl Part for Fixed {
    fn check<'a>(&'a mut self, old: &'a Config, new: &'a Config) -> Pending<'a, Result<(), Refusal>> {
        let (old, new) = (&old.runtime, &new.runtime);
        let fixed = [
            ("data_dir", old.data_dir != new.data_dir),
            ("listen", old.listen != new.listen),
            ("workers", old.workers != new.workers),
            ("log_max_bytes", old.log_bytes_max != new.log_bytes_max),
            ("ca_file", old.ca_file != new.ca_file),
        ];
        let changed = fixed.into_iter().find(|(_, changed)| *changed);
        Box::pin(async move {
            match changed {
                Some((key, _)) => Err(Refusal {
                    key: vec!["runtime".to_owned(), key.to_owned()],
                    message: format!("`{key}` can't change while linecook runs"),
                    hint: "restart linecook to change it, or write what it was before".to_owned(),
                }),
                None => Ok(()),
            }
        })
    }
}

/// Which queues there are, and their limits.
pub struct Queues(pub Arc<dyn Broker>);

impl Queues {
    /// Declares what a file needs, and retracts everything else. What a queue holds stays.
    pub async fn follow(&self, config: &Config) -> Result<(), BrokerError> {
        let required = plan::required(config);
        for (name, limits) in &required {
            self.0.declare(name, *limits).await?;
        }
        let when_needed = plan::when_needed(config);
        for queue in self.0.queues().await? {
            if when_needed.contains(&queue.name) && !required.contains_key(&queue.name) {
                self.0.declare(&queue.name, DEAD_LETTERS).await?;
            } else if queue.declared && !required.contains_key(&queue.name) {
                self.0.retract(&queue.name).await?;
            }
        }
        Ok(())
    }
}

impl Part for Queues {
    fn apply<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        Box::pin(async {
            // Only an engine that has stopped can't, and then the whole runtime ends.
            if let Err(error) = self.follow(new).await {
                tracing::error!(%error, "the queues are not as queue.toml says");
            }
        })
    }
}

/// Who works off the queues.
pub struct Consumers {
    dispatcher: Arc<Mutex<Dispatcher>>,
    prepared: Option<Prepared>,
}

impl Consumers {
    /// Those of a dispatcher. The lock is held while consumers change.
    pub fn new(dispatcher: Arc<Mutex<Dispatcher>>) -> Consumers {
        Consumers { dispatcher, prepared: None }
    }
}

impl Part for Consumers {
    fn check<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, Result<(), Refusal>> {
        Box::pin(async {
            let prepared = self.dispatcher.lock().await.prepare(&new.consumers).await;
            let prepared = prepared.map_err(|refused| {
                let table = "consumers".to_owned();
                Refusal {
                    message: match &refused.consumer {
                        Some(name) => format!("consumer `{name}` can't be as it says here: {}", refused.reason),
                        None => refused.reason,
                    },
                    key: [table].into_iter().chain(refused.consumer).collect(),
                    hint: "save the file again, or send SIGHUP, once that is put right".to_owned(),
                }
            });
            self.prepared = Some(prepared?);
            Ok(())
        })
    }

    fn withdraw<'a>(&'a mut self, _old: &'a Config, _new: &'a Config) -> Pending<'a, ()> {
        Box::pin(async {
            if let Some(prepared) = &self.prepared {
                self.dispatcher.lock().await.retire(prepared).await;
            }
        })
    }

    fn apply<'a>(&'a mut self, _old: &'a Config, _new: &'a Config) -> Pending<'a, ()> {
        Box::pin(async {
            if let Some(prepared) = self.prepared.take() {
                self.dispatcher.lock().await.apply(prepared).await;
            }
        })
    }
}

/// What feeds the queues of itself.
pub struct Producers(pub Arc<producers::Producers>);

impl Part for Producers {
    fn withdraw<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        Box::pin(self.0.withdraw(&new.producers))
    }

    fn apply<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        Box::pin(self.0.apply(&new.producers))
    }
}

/// How long messages may wait in which queue.
#[derive(Debug)]
pub struct Retention(watch::Sender<Arc<[Rule]>>);

impl Retention {
    /// As the file says that the runtime starts with.
    pub fn new(config: &Config) -> Retention {
        Retention(watch::Sender::new(retention::rules(config, DEAD_LETTERS).into()))
    }

    /// For [`retention::keep`].
    pub fn rules(&self) -> watch::Receiver<Arc<[Rule]>> {
        self.0.subscribe()
    }
}

impl Part for Retention {
    fn apply<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        self.0.send_replace(retention::rules(new, DEAD_LETTERS).into());
        Box::pin(async {})
    }
}
