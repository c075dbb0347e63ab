//! A consumer's durable state, from the broker to the sandbox.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Broker;
use crate::config::ConsumerConfig;
use crate::delivery::consumer_space;
use crate::sandbox::{DurableState, StateReader};

/// The state of a consumer, if that is granted to it.
pub(super) fn of(config: &ConsumerConfig, broker: &Arc<dyn Broker>) -> Option<DurableState> {
    if !config.grants.state {
        return None;
    }
    let space = consumer_space(&config.name);
    let reader = Arc::new(OnRecord { broker: broker.clone(), space: space.clone() });
    Some(DurableState { space, reader })
}

/// Puts a consumer's limit in force.
pub(super) fn limit(config: &ConsumerConfig, broker: &dyn Broker) {
    if config.grants.state {
        broker.limit_state(&consumer_space(&config.name), config.limits.state_bytes);
    }
}

struct OnRecord {
    broker: Arc<dyn Broker>,
    space: Box<str>,
}

impl StateReader for OnRecord {
    fn get(&self, key: &str) -> Result<Option<Bytes>, String> {
        self.broker.state(&self.space, key).map_err(|error| error.to_string())
    }

    fn keys(&self, after: Option<&str>, limit: usize) -> Result<Vec<Box<str>>, String> {
        self.broker.state_keys(&self.space, after, limit).map_err(|error| error.to_string())
    }

    fn bytes(&self) -> Result<u64, String> {
        self.broker.state_bytes(&self.space).map_err(|error| error.to_string())
    }
}
