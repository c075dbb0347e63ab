//! What an edited consumer needs before its next delivery. Pure.

use crate::config::ConsumerConfig;

/// What is different about a consumer, from the outside in: each of these needs those before it, but for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Only how many deliveries may run at once, which needs none of the others.
    pub width: bool,
    /// How messages are claimed and what becomes of them: its pullers are replaced.
    pub pullers: bool,
    /// What its component is loaded with, though not what it was linked with: whoever watches for new versions is replaced.
    pub follower: bool,
    /// What the component was linked with or checked against: it is linked again, which compiles nothing.
    pub relink: bool,
    /// Where the component comes from.
    pub source: bool,
}

impl Change {
    /// What has changed between two configurations of one consumer.
    pub fn between(old: &ConsumerConfig, new: &ConsumerConfig) -> Change {
        let source = old.source != new.source;
        let relink = old.grants != new.grants
            || old.config != new.config
            || old.limits != new.limits
            || old.memory_bytes_max != new.memory_bytes_max
            || old.max_batch_size != new.max_batch_size;
        let follower =
            source || relink || old.canary != new.canary || old.timeout != new.timeout || old.queue != new.queue;
        // Whatever else there is: a key that is added to the configuration replaces the pullers until somebody thinks of
        // more.
        let width = old.max_concurrency != new.max_concurrency;
        let as_wide = ConsumerConfig { max_concurrency: old.max_concurrency, ..new.clone() };
        let pullers = follower || *old != as_wide;
        Change { width, pullers, follower, relink, source }
    }

    /// Whether anything has.
    pub fn is_any(self) -> bool {
        self != Change::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A consumer with these keys beside `queue` and `component`.
    fn consumer(keys: &str) -> ConsumerConfig {
        let component = if keys.contains("component") { "" } else { "component = \"a.wasm\"" };
        let queue = if keys.starts_with("queue") { "" } else { "queue = \"a\"" };
        let text = format!("[queues.a]\n[queues.b]\n[consumers.c]\n{queue}\n{component}\n{keys}\n");
        crate::config::parse(&text, Path::new("queue.toml")).unwrap().consumers.remove("c").unwrap()
    }

    #[test]
    fn a_key_is_no_reason_for_more_than_it_needs() {
        let none = Change::default();
        let width = Change { width: true, ..none };
        let pullers = Change { pullers: true, ..none };
        let follower = Change { follower: true, ..pullers };
        let relink = Change { relink: true, ..follower };
        let source = Change { source: true, ..follower };
        for (keys, needs) in [
            ("", none),
            ("max_retries = 4", none),
            ("max_concurrency = 3", width),
            ("max_retries = 9", pullers),
            ("retry_delay = \"5s\"", pullers),
            ("dead_letter_queue = \"b\"", pullers),
            ("instance = \"reused\"", pullers),
            ("max_batch_timeout = \"3s\"", pullers),
            ("rate_limit = \"5/s\"", pullers),
            ("max_retries = 9\nmax_concurrency = 3", Change { width: true, ..pullers }),
            ("timeout = \"5s\"", follower),
            ("queue = \"b\"", follower),
            ("canary = {}", follower),
            ("grants.send = [\"b\"]", relink),
            ("config = { a = \"b\" }", relink),
            ("memory_limit = \"5MiB\"", relink),
            ("limits.tables = 2", relink),
            ("max_batch_size = 10", relink),
            ("component = \"b.wasm\"", source),
        ] {
            assert_eq!(Change::between(&consumer(""), &consumer(keys)), needs, "{keys}");
            assert_eq!(Change::between(&consumer(keys), &consumer("")), needs, "back from {keys}");
        }
    }
}
