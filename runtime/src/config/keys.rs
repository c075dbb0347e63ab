//! The keys of `queue.toml`, table by table.

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// The file itself.
    File,
    /// `[runtime]`.
    Runtime,
    /// `[runtime.auth]`.
    Auth,
    /// `[runtime.auth.tokens.NAME]`.
    Token,
    /// `[runtime.tls]`.
    Tls,
    /// `[queues.NAME]`.
    Queue,
    /// `[consumers.NAME]`.
    Consumer,
    /// `[consumers.NAME.grants]`.
    Grants,
    /// `[consumers.NAME.canary]`.
    Canary,
    /// An item of `dirs` in `[consumers.NAME.grants]`.
    Dir,
    /// `[consumers.NAME.limits]`.
    Limits,
    /// `[producers.NAME]` before its kind is known.
    Producer,
    /// `[producers.NAME]` of the kind `cron`.
    Cron,
    /// `[producers.NAME]` of the kind `tail`.
    Tail,
    /// `[producers.NAME]` of the kind `watch`.
    Watch,
    /// `[producers.NAME]` of the kind `webhook`.
    Webhook,
}

impl Table {
    pub(super) const ALL: [Table; 16] = [
        Table::File,
        Table::Runtime,
        Table::Auth,
        Table::Token,
        Table::Tls,
        Table::Queue,
        Table::Consumer,
        Table::Grants,
        Table::Canary,
        Table::Dir,
        Table::Limits,
        Table::Producer,
        Table::Cron,
        Table::Tail,
        Table::Watch,
        Table::Webhook,
    ];

    /// The keys that it may have, in the order in which they are documented.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Table::File => &["runtime", "queues", "consumers", "producers"],
            Table::Runtime => &[
                "data_dir",
                "listen",
                "drain_timeout",
                "workers",
                "log_max_bytes",
                "ca_file",
                "host_names",
                "auth",
                "tls",
            ],
            Table::Auth => &["tokens"],
            Table::Token => &["sha256", "scopes", "expires"],
            Table::Tls => &["cert", "key", "name"],
            Table::Queue => &["retention", "max_bytes", "dedup_window", "history", "subscribe"],
            Table::Consumer => &[
                "queue",
                "source",
                "component",
                "max_concurrency",
                "max_batch_size",
                "max_batch_timeout",
                "timeout",
                "max_retries",
                "retry_delay",
                "retry_delay_max",
                "dead_letter_queue",
                "memory_limit",
                "rate_limit",
                "instance",
                "max_deliveries_per_instance",
                "instance_idle_timeout",
                "canary",
                "limits",
                "config",
                "grants",
            ],
            Table::Grants => &["send", "http", "tcp", "env", "secrets", "dirs", "state"],
            Table::Canary => &["share", "deliveries"],
            Table::Dir => &["host", "guest", "access"],
            Table::Limits => &[
                "cpu_time",
                "core_instances",
                "tables",
                "table_elements",
                "host_call_bytes",
                "random_bytes",
                "log_bytes",
                "sends",
                "send_bytes",
                "state_bytes",
            ],
            Table::Producer => &["kind"],
            Table::Cron => &[
                "kind",
                "queue",
                "subject",
                "schedule",
                "timezone",
                "body",
                "catch_up",
                "content_type",
                "key",
                "attributes",
            ],
            Table::Tail => &[
                "kind",
                "queue",
                "subject",
                "files",
                "start",
                "max_line",
                "long_lines",
                "content_type",
                "key",
                "attributes",
            ],
            Table::Watch => &[
                "kind",
                "queue",
                "subject",
                "folder",
                "files",
                "recursive",
                "settle",
                "body",
                "after",
                "move_to",
                "content_type",
                "key",
                "attributes",
            ],
            Table::Webhook => &[
                "kind",
                "queue",
                "subject",
                "path",
                "signature",
                "secret_env",
                "tolerance",
                "id_header",
                "headers",
                "content_type",
                "key",
                "attributes",
            ],
        }
    }

    /// What a person calls it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Table::File => "the top level",
            Table::Runtime => "[runtime]",
            Table::Auth => "[runtime.auth]",
            Table::Token => "[runtime.auth.tokens.NAME]",
            Table::Tls => "[runtime.tls]",
            Table::Queue => "[queues.NAME]",
            Table::Consumer => "[consumers.NAME]",
            Table::Grants => "[consumers.NAME.grants]",
            Table::Canary => "[consumers.NAME.canary]",
            Table::Dir => "an item of `dirs`",
            Table::Limits => "[consumers.NAME.limits]",
            Table::Producer => "[producers.NAME]",
            Table::Cron => "[producers.NAME] of the kind \"cron\"",
            Table::Tail => "[producers.NAME] of the kind \"tail\"",
            Table::Watch => "[producers.NAME] of the kind \"watch\"",
            Table::Webhook => "[producers.NAME] of the kind \"webhook\"",
        }
    }

    /// What to do about a key that this table does not have.
    pub(super) fn hint(self, unknown: &str) -> String {
        if let Some(near) = nearest(unknown, self.keys().iter().copied()) {
            return format!("did you mean `{near}`?");
        }
        match Table::ALL.iter().find(|table| **table != self && table.keys().contains(&unknown)) {
            Some(home) => format!("`{unknown}` belongs in {}", home.title()),
            None => {
                let keys: Vec<_> = self.keys().iter().map(|key| format!("`{key}`")).collect();
                format!("the keys here are {}", keys.join(", "))
            }
        }
    }
}

/// The candidate that somebody who wrote `word` most likely meant, if one is close: a slip of the fingers, or one
/// name that is a part of the other (`retries` for `max_retries`).
pub(crate) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> Option<&'c str> {
    // The distance takes time and memory by the product of the lengths, and nobody mistypes a short name as a long one.
    if word.len() > 200 {
        return None;
    }
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let word = plain(word);
    let typed = candidates
        .clone()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= word.len().max(candidate.len()).div_ceil(4))
        .min_by_key(|(distance, _)| *distance);
    let part = || {
        candidates.clone().find(|candidate| {
            let candidate = plain(candidate);
            word.len() >= 4 && candidate.len() >= 4 && (candidate.contains(&word) || word.contains(&candidate))
        })
    };
    typed.map(|(_, candidate)| candidate).or_else(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_what_a_person_meant() {
        let keys = Table::Consumer.keys().iter().copied();
        for (word, meant) in [
            ("max_retires", Some("max_retries")),
            ("max-retries", Some("max_retries")),
            ("Timeout", Some("timeout")),
            ("retries", Some("max_retries")),
            ("concurrency", Some("max_concurrency")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys.clone()), meant, "{word}");
        }
    }
}
