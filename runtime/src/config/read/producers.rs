//! `[producers.NAME]`: what all kinds have in common. One file for each kind has its own keys.

use std::ops::Range;
use std::path::Path;

use linecook_store::ATTRIBUTE_PREFIX_RESERVED;

use super::component_name;
use crate::config::keys::Table;
use crate::config::producers::{ProducerConfig, ProducerKind, Target};
use crate::config::reader::{Located, TableReader, Value, excerpt, name};
use crate::delivery::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX,
};

mod cron;
mod tail;
mod watch;
pub(crate) mod webhook;

/// Half of what a message may have: the rest is for what the producer says itself, and for the facts of a dead letter.
const ATTRIBUTES_MAX: usize = crate::delivery::limits::ATTRIBUTES_MAX / 2;

/// `[producers.NAME]`, with the places that the cross-checks point at.
pub(in crate::config) struct Producer {
    /// `None` if it is no valid name.
    name: Option<String>,
    pub(in crate::config) target: Option<Located<Target>>,
    content_type: Option<String>,
    key: Option<String>,
    attributes: Vec<(String, String)>,
    pub(in crate::config) kind: Option<ProducerKind>,
    pub(in crate::config) spans: ProducerSpans,
}

/// Where the keys stand that are checked against something outside the table.
#[derive(Default)]
pub(in crate::config) struct ProducerSpans {
    /// The path of a webhook.
    pub(in crate::config) path: Option<Range<usize>>,
    /// The name of its secret.
    pub(in crate::config) secret_env: Vec<Range<usize>>,
    /// The folder that is watched.
    pub(in crate::config) folder: Option<Range<usize>>,
    /// Where its files go.
    pub(in crate::config) move_to: Option<Range<usize>>,
    /// The patterns of files that are followed.
    pub(in crate::config) files: Vec<Range<usize>>,
}

impl Producer {
    pub(super) fn into_config(self) -> Option<ProducerConfig> {
        Some(ProducerConfig {
            name: self.name?,
            target: self.target?.value,
            content_type: self.content_type,
            key: self.key,
            attributes: self.attributes,
            kind: self.kind?,
        })
    }
}

/// Reads one table. `folder` is what relative paths are relative to.
pub(super) fn read(value: &Value<'_>, folder: &Path) -> Option<Producer> {
    let producer_name = component_name(value, "producer");
    let table = value.table(Table::Producer)?;
    let kind = table.require("kind", "\"cron\"").and_then(|value| kind(&value))?;
    let table = table.of_kind(kind);
    let mut spans = ProducerSpans::default();
    let target = target(&table);
    let content_type = table.get("content_type").and_then(|value| content_type(&value));
    let key = table.get("key").and_then(|value| key(&value));
    let attributes = attributes(&table, own_attributes(kind));
    let kind = match kind {
        Table::Cron => cron::read(&table).map(ProducerKind::Cron),
        Table::Tail => tail::read(&table, folder, &mut spans).map(ProducerKind::Tail),
        Table::Watch => watch::read(&table, folder, &mut spans).map(ProducerKind::Watch),
        _ => webhook::read(&table, &mut spans).map(ProducerKind::Webhook),
    };
    table.finish();
    Some(Producer { name: producer_name, target, content_type, key, attributes, kind, spans })
}

/// The queue or the subject.
fn target(table: &TableReader<'_>) -> Option<Located<Target>> {
    let Some(subject) = table.get("subject") else {
        let queue = table.require("queue", "\"signups\"")?.queue_name()?;
        return Some(Located { value: Target::Queue(queue.value), span: queue.span });
    };
    if table.get("queue").is_some() {
        let hint = "keep `queue` to send to one queue, or `subject` to send to all that subscribe to it";
        subject.refuse_key("`queue` and `subject` exclude each other", hint);
        return None;
    }
    let subject = subject.subject()?;
    Some(Located { value: Target::Subject(subject.value), span: subject.span })
}

const KINDS: [(&str, Table); 4] =
    [("cron", Table::Cron), ("tail", Table::Tail), ("watch", Table::Watch), ("webhook", Table::Webhook)];

fn kind(value: &Value<'_>) -> Option<Table> {
    choice(value, "a kind of producer", &KINDS)
}

/// The attributes that a kind sets itself.
fn own_attributes(kind: Table) -> &'static [&'static str] {
    match kind {
        Table::Cron => &["scheduled-at"],
        Table::Tail => &["file", "offset", "line-part"],
        Table::Watch => &["file-name", "file-path", "file-size", "file-modified-at"],
        _ => &[],
    }
}

/// One of several words.
fn choice<T: Copy>(value: &Value<'_>, noun: &str, choices: &[(&str, T)]) -> Option<T> {
    let text = value.text(&format!("{:?}", choices[0].0))?;
    let found = choices.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let hint = format!("write {}", words.join(" or "));
        value.refuse(format!("{:?} is not {noun}", excerpt(text.value)), hint);
    }
    found.map(|(_, choice)| *choice)
}

/// Patterns of file names or paths: one text, or an array of them.
fn patterns<'v>(table: &TableReader<'v>, example: &str) -> Vec<Located<&'v str>> {
    let Some(value) = table.get("files") else { return Vec::new() };
    let texts = value.texts(example);
    if texts.is_empty() {
        // What is wrong with a text was said; an empty array has nothing wrong in it but that.
        if value.is_empty_array() {
            value.refuse("`files` names nothing", format!("write `files = {example}`"));
        }
        return Vec::new();
    }
    let good = texts.into_iter().filter(|item| {
        let Some(text) = item.path(example) else { return false };
        let refused = glob::Pattern::new(text.value).err();
        if let Some(error) = &refused {
            let hint = "`*` and `?` stand for what is between two slashes, `**` for any folders, `[a-z]` for a range; \
                        write `[*]` for a star";
            item.refuse(format!("{:?} is not a pattern: {}", excerpt(text.value), error.msg), hint);
        }
        refused.is_none()
    });
    good.filter_map(|item| item.path(example)).collect()
}

fn content_type(value: &Value<'_>) -> Option<String> {
    let text = value.text("\"application/json\"")?.value;
    if text.is_empty() || text.len() > CONTENT_TYPE_BYTES_MAX || text.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
        let message = format!("{:?} is not a media type", excerpt(text));
        value.refuse(message, "write one such as \"application/json\", or leave it out");
        return None;
    }
    Some(text.to_owned())
}

fn key(value: &Value<'_>) -> Option<String> {
    let text = value.text("\"customer-7\"")?.value;
    if text.is_empty() || text.len() > KEY_BYTES_MAX {
        let message = format!("an ordering key has 1 to {KEY_BYTES_MAX} bytes, and this one {}", text.len());
        value.refuse(message, "leave it out if the order of the messages does not matter");
        return None;
    }
    Some(text.to_owned())
}

/// The attributes of all messages. `own` are those that the producer sets itself.
fn attributes(table: &TableReader<'_>, own: &[&str]) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    let values = table.get("attributes");
    for value in values.iter().flat_map(|value| value.named("`attributes = { name = \"value\" }`")) {
        let key = value.key;
        let reserved = key
            .get(..ATTRIBUTE_PREFIX_RESERVED.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(ATTRIBUTE_PREFIX_RESERVED));
        if key.is_empty() || key.len() > ATTRIBUTE_NAME_BYTES_MAX || key.chars().any(char::is_control) {
            let hint = format!("a name has 1 to {ATTRIBUTE_NAME_BYTES_MAX} bytes and no control characters");
            value.refuse_key(format!("{} is not the name of an attribute", name(key)), hint);
        } else if reserved {
            let message = format!("{} begins with \"{ATTRIBUTE_PREFIX_RESERVED}\", which is Linecook's own", name(key));
            value.refuse_key(message, "choose another name");
        } else if own.contains(&key) {
            value.refuse_key(format!("the producer sets {} itself", name(key)), "choose another name");
        } else if attributes.len() == ATTRIBUTES_MAX {
            value.refuse_key(format!("there are more than {ATTRIBUTES_MAX} attributes"), "put the rest into the body");
            break;
        } else if let Some(text) = value.text("\"value\"") {
            if text.value.len() > ATTRIBUTE_VALUE_BYTES_MAX {
                let message = format!("{} has {} bytes, and may have 8 KiB", name(key), text.value.len());
                value.refuse(message, "put it into the body");
            } else {
                attributes.push((key.to_owned(), text.value.to_owned()));
            }
        }
    }
    attributes
}
