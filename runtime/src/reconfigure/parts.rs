//! The parts of the runtime that follow `queue.toml`, in the order in which they do: see [`super::Part`].

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::plan;
use super::{Part, Refusal};
use crate::auth::Auth;
use crate::broker::{Broker, BrokerError, Pending, QueueLimits};
use crate::config::Config;
use crate::dispatch::{Dispatcher, Prepared};
use crate::producers;
use crate::retention::{self, Rule};
use crate::subjects::Subjects;

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
            ("tls", old.tls != new.tls),
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

/// Which queues there are, their limits, and what they subscribe to.
pub struct Queues {
    /// Which knows the queues.
    pub broker: Arc<dyn Broker>,
    /// What they subscribe to. It changes between the queues that come and those that go, so that whoever sends to a
    /// subject always finds the queues that it leads to.
    pub subjects: Arc<Subjects>,
}

impl Queues {
    /// Declares what a file needs, and retracts everything else. What a queue holds stays.
    pub async fn follow(&self, config: &Config) -> Result<(), BrokerError> {
        let required = plan::required(config);
        for (name, limits) in &required {
            self.broker.declare(name, *limits).await?;
        }
        let when_needed = plan::when_needed(config);
        self.subjects.replace(config.subscriptions());
        for queue in self.broker.queues().await? {
            if when_needed.contains(&queue.name) && !required.contains_key(&queue.name) {
                self.broker.declare(&queue.name, QueueLimits::DEAD_LETTERS).await?;
            } else if queue.declared && !required.contains_key(&queue.name) {
                self.broker.retract(&queue.name).await?;
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

/// Who may use the API, and under which names. A token that has gone is refused from the next request on.
pub struct Access {
    auth: Arc<Auth>,
    host_names: watch::Sender<Arc<[String]>>,
}

impl Access {
    /// As the file says that the runtime starts with. The tokens are in force already.
    pub fn new(auth: Arc<Auth>, config: &Config) -> Access {
        Access { auth, host_names: watch::Sender::new(host_names(config)) }
    }

    /// Names that clients without tokens may know this machine by.
    pub fn host_names(&self) -> watch::Receiver<Arc<[String]>> {
        self.host_names.subscribe()
    }
}

impl Part for Access {
    fn apply<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        self.auth.replace(new.runtime.auth.as_deref());
        self.host_names.send_replace(host_names(new));
        Box::pin(async {})
    }
}

/// The name of the certificate is this runtime's as well.
fn host_names(config: &Config) -> Arc<[String]> {
    let of_certificate = config.runtime.tls.as_ref().map(|tls| &tls.name);
    config.runtime.host_names.iter().chain(of_certificate).cloned().collect()
}

/// How long messages may wait in which queue.
#[derive(Debug)]
pub struct Retention(watch::Sender<Arc<[Rule]>>);

impl Retention {
    /// As the file says that the runtime starts with.
    pub fn new(config: &Config) -> Retention {
        Retention(watch::Sender::new(retention::rules(config, QueueLimits::DEAD_LETTERS).into()))
    }

    /// For [`retention::keep`].
    pub fn rules(&self) -> watch::Receiver<Arc<[Rule]>> {
        self.0.subscribe()
    }
}

impl Part for Retention {
    fn apply<'a>(&'a mut self, _old: &'a Config, new: &'a Config) -> Pending<'a, ()> {
        self.0.send_replace(retention::rules(new, QueueLimits::DEAD_LETTERS).into());
        Box::pin(async {})
    }
}
