//! A consumer's durable state, from the broker to the sandbox.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Broker;
use crate::config::ConsumerConfig;
use crate::sandbox::{DurableState, StateReader};

/// The state of a consumer that it is granted to, with its limit in force.
pub(super) fn of(config: &ConsumerConfig, broker: &Arc<dyn Broker>) -> Option<DurableState> {
    if !config.grants.state {
        return None;
    }
    let space: Box<str> = format!("consumer/{}", config.name).into();
    broker.limit_state(&space, config.limits.state_bytes);
    let reader = Arc::new(OnRecord { broker: broker.clone(), space: space.clone() });
    Some(DurableState { space, reader })
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
