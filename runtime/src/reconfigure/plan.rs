//! What is different between two files. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::broker::QueueLimits;
use crate::config::Config;
use crate::delivery::QueueName;

/// The names that are added, changed and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Only in the new file.
    pub added: Vec<String>,
    /// In both, and not the same.
    pub changed: Vec<String>,
    /// Only in the old file.
    pub removed: Vec<String>,
}

/// What one file changes about another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Queues, the dead-letter queues that the file does not name included.
    pub queues: Changes,
    /// Consumers.
    pub consumers: Changes,
}

impl Plan {
    /// From the old file to the new one.
    pub fn between(old: &Config, new: &Config) -> Plan {
        let queues = |config: &Config| -> BTreeMap<String, _> {
            let implied = required(config).into_keys().filter(|name| !config.queues.contains_key(name));
            let implied = implied.map(|name| (name.to_string(), None));
            let named = config.queues.iter().map(|(name, queue)| (name.to_string(), Some(queue.clone())));
            named.chain(implied.collect::<Vec<_>>()).collect()
        };
        Plan {
            queues: Changes::between(&queues(old), &queues(new)),
            consumers: Changes::between(&old.consumers, &new.consumers),
        }
    }
}

impl Changes {
    fn between<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Changes {
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for (name, now) in new {
            match old.get(name) {
                None => added.push(name.clone()),
                Some(before) if before != now => changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let removed = old.keys().filter(|name| !new.contains_key(*name)).cloned().collect();
        Changes { added, changed, removed }
    }
}

impl fmt::Display for Plan {
    /// Such as `queues: audit added; consumers: welcome changed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("queues", &self.queues), ("consumers", &self.consumers)];
        let mut parts = parts.into_iter().filter(|(_, changes)| **changes != Changes::default()).peekable();
        if parts.peek().is_none() {
            return f.write_str("no queue and no consumer is different");
        }
        for (place, (what, changes)) in parts.enumerate() {
            write!(f, "{}{what}:", if place == 0 { "" } else { "; " })?;
            let kinds = [(&changes.added, "added"), (&changes.changed, "changed"), (&changes.removed, "removed")];
            for (place, (names, verb)) in kinds.into_iter().filter(|(names, _)| !names.is_empty()).enumerate() {
                write!(f, "{} {} {verb}", if place == 0 { "" } else { "," }, names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// The queues that take sends under a file: those that it names, and the dead-letter queues of its consumers.
pub fn required(config: &Config) -> BTreeMap<QueueName, QueueLimits> {
    let dead =
        config.consumers.values().map(|consumer| (consumer.dead_letter_queue.clone(), QueueLimits::DEAD_LETTERS));
    let named = config.queues.iter().map(|(name, queue)| (name.clone(), queue.limits()));
    // What is named comes later, so that its own limits count.
    dead.chain(named).collect()
}

/// Dead-letter queues that are made when they are first needed: where the messages of a queue without a consumer go that
/// expire, or that a client gives up.
pub fn when_needed(config: &Config) -> BTreeSet<QueueName> {
    let served: BTreeSet<_> = config.consumers.values().map(|consumer| &consumer.queue).collect();
    let alone = config.queues.keys().filter(|name| !served.contains(name));
    alone.filter_map(|name| QueueName::new(&format!("{name}.dead")).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse(text, Path::new("queue.toml")).unwrap()
    }

    const CONSUMER: &str = "[consumers.c]\nqueue = \"a\"\ncomponent = \"c.wasm\"\n";

    #[test]
    fn what_is_added_changed_and_removed_is_told_by_name() {
        let old = config(&format!(
            "[queues.a]\n[queues.b]\n[queues.gone]\n{CONSUMER}[consumers.gone]\nqueue = \"gone\"\ncomponent = \"c.wasm\""
        ));
        let new = config(&format!(
            "[queues.a]\nmax_bytes = \"1MiB\"\n[queues.b]\n[queues.new]\n{CONSUMER}timeout = \"9s\"\n"
        ));
        let plan = Plan::between(&old, &new);
        assert_eq!(
            plan.to_string(),
            "queues: new added, a changed, gone, gone.dead removed; consumers: c changed, gone removed"
        );
        let back = Plan::between(&new, &old);
        assert_eq!((back.queues.added, back.consumers.added), (plan.queues.removed, plan.consumers.removed));
        assert_eq!(Plan::between(&old, &old), Plan::default());
        assert_eq!(Plan::between(&old, &old).to_string(), "no queue and no consumer is different");
    }

    #[test]
    fn dead_letter_queues_come_and_go_with_who_needs_them() {
        let named = |name: &str| QueueName::new(name).unwrap();
        let with = config(&format!("[queues.a]\n[queues.b]\n{CONSUMER}"));
        assert_eq!(required(&with).get("a.dead"), Some(&QueueLimits::DEAD_LETTERS));
        assert!(!required(&with).contains_key("b.dead"));
        assert!(when_needed(&with).contains(&named("b.dead")));
        let own = config(&format!("[queues.a]\n[queues.\"a.dead\"]\nmax_bytes = \"1MiB\"\n{CONSUMER}"));
        assert_eq!(required(&own).get("a.dead").map(|limits| limits.bytes_max), Some(1 << 20));
        assert_eq!(required(&config("[queues.a]")).len(), 1);
    }
}
