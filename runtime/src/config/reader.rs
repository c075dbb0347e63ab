//! Reads a parsed TOML document key by key, and collects what is wrong instead of stopping at the first error.
//!
//! A getter that finds something wrong reports it and answers as if the key were not there: the file is refused in the
//! end, and until then the rest of it is checked as well.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use linecook_store::QueueName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::RateLimit;
use super::errors::ConfigError;
use super::keys::Table;
use super::units::{self, InvalidQuantity};
use crate::subjects::{Pattern, Subject};

/// Collects errors.
#[derive(Debug, Default)]
pub(super) struct Errors(RefCell<Vec<ConfigError>>);

impl Errors {
    pub(super) fn push(&self, error: ConfigError) {
        self.0.borrow_mut().push(error);
    }

    pub(super) fn into_inner(self) -> Vec<ConfigError> {
        self.0.into_inner()
    }
}

/// Something with the place where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// The keys and values of one table.
pub(super) struct TableReader<'d> {
    kind: Table,
    /// Where to point when something is missing.
    span: Range<usize>,
    entries: &'d DeTable<'d>,
    errors: &'d Errors,
}

/// One value, with the key that it stands under.
#[derive(Clone)]
pub(super) struct Value<'d> {
    /// As in the file; an item of an array has the array's key.
    pub(super) key: &'d str,
    /// Where the value stands.
    pub(super) span: Range<usize>,
    /// Where the key stands.
    pub(super) key_span: Range<usize>,
    /// Whether it is an item of the array that stands under the key.
    item: bool,
    value: &'d DeValue<'d>,
    errors: &'d Errors,
}

impl<'d> TableReader<'d> {
    /// Reads the document itself.
    pub(super) fn document(entries: &'d DeTable<'d>, errors: &'d Errors) -> TableReader<'d> {
        TableReader { kind: Table::File, span: 0..0, entries, errors }
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Value<'d>> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(Value::new(key, value, self.errors))
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, key: &str, example: &str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            let error = ConfigError::at(self.span(), format!("`{key}` is missing"));
            self.errors.push(error.hint(format!("add `{key} = {example}`")));
        }
        value
    }

    /// The same table, now that it is known which of several it is.
    pub(super) fn of_kind(self, kind: Table) -> TableReader<'d> {
        TableReader { kind, ..self }
    }

    /// Reports every key that nobody knows. To be called last.
    pub(super) fn finish(self) {
        for (key, value) in self.entries {
            let value = Value::new(key, value, self.errors);
            if self.kind.keys().contains(&value.key) {
                continue;
            }
            value.refuse_key(format!("unknown key {}", name(value.key)), self.kind.hint(value.key));
        }
    }
}

impl<'d> Value<'d> {
    fn new(key: &'d Spanned<std::borrow::Cow<'d, str>>, value: &'d Spanned<DeValue<'d>>, errors: &'d Errors) -> Self {
        let (span, key_span) = (value.span(), key.span());
        Value { key: key.get_ref(), span, key_span, item: false, value: value.get_ref(), errors }
    }

    /// Reports an error about the value.
    pub(super) fn refuse(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(ConfigError::at(self.span.clone(), message).hint(hint));
    }

    /// Reports an error about the key.
    pub(super) fn refuse_key(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(ConfigError::at(self.key_span.clone(), message).hint(hint));
    }

    fn refuse_type(&self, wanted: &str, hint: impl Into<String>) {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        // The span of a table that has a header is the header, which does not show what is wrong: the key does.
        let span = if self.value.is_table() && !self.item { self.key_span.clone() } else { self.span.clone() };
        let what = if self.item { "an item of " } else { "" };
        let message = format!("{what}{} must be {wanted}, not {found}", name(self.key));
        self.errors.push(ConfigError::at(span, message).hint(hint));
    }

    /// A hint that shows what may stand here.
    fn example(&self, value: &str) -> String {
        if self.item { format!("write {value}") } else { format!("write `{} = {value}`", excerpt(self.key)) }
    }

    /// A text without zero bytes, which neither paths nor environments can hold.
    pub(super) fn text(&self, example: &str) -> Option<Located<&'d str>> {
        let Some(text) = self.value.as_str() else {
            self.refuse_type("a string", self.example(example));
            return None;
        };
        if text.contains('\0') {
            self.refuse(format!("{} contains a zero byte", name(self.key)), "remove the \\u0000");
            return None;
        }
        Some(Located { value: text, span: self.span.clone() })
    }

    /// A text that is not empty.
    pub(super) fn path(&self, example: &str) -> Option<Located<&'d str>> {
        let text = self.text(example)?;
        if text.value.is_empty() {
            self.refuse(format!("{} is empty", name(self.key)), self.example(example));
            return None;
        }
        Some(text)
    }

    /// A whole number within the limits.
    pub(super) fn integer(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        let (min, max) = (*limits.start(), *limits.end());
        let Some(integer) = self.value.as_integer() else {
            self.refuse_type("a whole number", format!("write a number from {min} to {max}, without quotes"));
            return None;
        };
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|value| limits.contains(value));
        if value.is_none() {
            let message = format!("{} is out of range", name(self.key));
            self.refuse(message, format!("write a number from {min} to {max}"));
        }
        value
    }

    /// Yes or no.
    pub(super) fn flag(&self) -> Option<bool> {
        let DeValue::Boolean(flag) = self.value else {
            self.refuse_type(
                "a boolean",
                format!("write `{} = true` or `{} = false`, without quotes", self.key, self.key),
            );
            return None;
        };
        Some(*flag)
    }

    /// A share, such as `"10%"`, within the limits.
    pub(super) fn percent(&self, limits: RangeInclusive<u8>) -> Option<u8> {
        let (min, max) = (*limits.start(), *limits.end());
        let Some(text) = self.value.as_str() else {
            self.refuse_type("a share", format!("write a share in quotes, from \"{min}%\" to \"{max}%\""));
            return None;
        };
        let value =
            text.strip_suffix('%').and_then(|number| number.parse().ok()).filter(|value| limits.contains(value));
        if value.is_none() {
            let message = format!("{}: {:?} is not a share", name(self.key), excerpt(text));
            self.refuse(message, format!("write a whole number of percent, from \"{min}%\" to \"{max}%\""));
        }
        value
    }

    /// A duration within the limits.
    pub(super) fn duration(&self, limits: RangeInclusive<Duration>) -> Option<Duration> {
        self.quantity("duration", "30s", "s", units::parse_duration, units::format_duration, limits)
    }

    /// A size within the limits, in bytes.
    pub(super) fn size(&self, limits: RangeInclusive<u64>) -> Option<u64> {
        self.quantity("size", "128MiB", "B", units::parse_size, units::format_size, limits)
    }

    /// A rate, such as `"100/s"`, whose number is within the limits.
    pub(super) fn rate(&self, limits: RangeInclusive<u64>) -> Option<RateLimit> {
        let (min, max) = (*limits.start(), *limits.end());
        let Some(text) = self.value.as_str() else {
            let number = self.value.as_integer().map_or("100", |number| number.as_str());
            self.refuse_type("a rate", format!("write it with a unit and in quotes: `{} = \"{number}/s\"`", self.key));
            return None;
        };
        match units::parse_rate(text) {
            Ok(rate) if limits.contains(&rate.messages) => Some(rate),
            Ok(_) => {
                let hint = format!("its number may be {min} to {max}; `linecook pause` stops a consumer");
                self.refuse(format!("{} is out of range", name(self.key)), hint);
                None
            }
            Err(error) => {
                self.refuse(format!("{}: {error}", name(self.key)), error.hint());
                None
            }
        }
    }

    fn quantity<T: PartialOrd + Copy>(
        &self,
        noun: &str,
        example: &str,
        usual_unit: &str,
        parse: fn(&str) -> Result<T, InvalidQuantity>,
        format: fn(T) -> String,
        limits: RangeInclusive<T>,
    ) -> Option<T> {
        let Some(text) = self.value.as_str() else {
            let example = match self.value.as_integer() {
                Some(number) if number.as_str().bytes().all(|b| b.is_ascii_digit()) && number.radix() == 10 => {
                    format!("write it with a unit and in quotes: `{} = \"{number}{usual_unit}\"`", self.key)
                }
                _ => format!("write it with a unit and in quotes: `{} = \"{example}\"`", self.key),
            };
            self.refuse_type(&format!("a {noun}"), example);
            return None;
        };
        match parse(text) {
            Ok(value) if limits.contains(&value) => Some(value),
            Ok(_) => {
                let (min, max) = (format(*limits.start()), format(*limits.end()));
                self.refuse(format!("{} is out of range", name(self.key)), format!("it may be \"{min}\" to \"{max}\""));
                None
            }
            Err(error) => {
                self.refuse(format!("{}: {error}", name(self.key)), error.hint());
                None
            }
        }
    }

    /// The name of a queue.
    pub(super) fn queue_name(&self) -> Option<Located<QueueName>> {
        let text = self.text("\"signups\"")?;
        match QueueName::new(text.value) {
            Ok(value) => Some(Located { value, span: text.span }),
            Err(error) => {
                self.refuse(error.to_string(), QUEUE_NAME_RULE);
                None
            }
        }
    }

    /// The name of a queue that this value's key is.
    pub(super) fn key_as_queue_name(&self) -> Option<QueueName> {
        match QueueName::new(self.key) {
            Ok(name) => Some(name),
            Err(error) => {
                self.refuse_key(error.to_string(), QUEUE_NAME_RULE);
                None
            }
        }
    }

    /// A subject.
    pub(super) fn subject(&self) -> Option<Located<Subject>> {
        let text = self.text("\"orders.placed\"")?;
        match Subject::new(text.value) {
            Ok(value) => Some(Located { value, span: text.span }),
            Err(error) => {
                let hint = "a subject is made of tokens with dots between them, such as \"orders.placed\"";
                self.refuse(error.to_string(), hint);
                None
            }
        }
    }

    /// A pattern of subjects.
    pub(super) fn pattern(&self) -> Option<Pattern> {
        match Pattern::new(self.text("\"orders.*\"")?.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let hint = "a subject is made of tokens with dots between them, such as \"orders.placed\"; in a pattern, \
                            `*` is any one token, and `>` at the end is all that follow";
                self.refuse(error.to_string(), hint);
                None
            }
        }
    }

    /// An IP address with a port.
    pub(super) fn socket_address(&self, example: &str) -> Option<SocketAddr> {
        let text = self.text(example)?;
        match text.value.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let hint = match text.value.strip_prefix("localhost:") {
                    Some(port) => format!("write the address instead of its name: \"127.0.0.1:{}\"", excerpt(port)),
                    None => format!("write an address and a port, such as {example}"),
                };
                self.refuse(format!("{:?} is not an IP address with a port", excerpt(text.value)), hint);
                None
            }
        }
    }

    /// The items of an array. They have the array's key.
    pub(super) fn items(&self, example: &str) -> Vec<Value<'d>> {
        let Some(items) = self.value.as_array() else {
            self.refuse_type("an array", self.example(example));
            return Vec::new();
        };
        let item = |item: &'d Spanned<DeValue<'d>>| Value {
            key: self.key,
            span: item.span(),
            key_span: self.key_span.clone(),
            item: true,
            value: item.get_ref(),
            errors: self.errors,
        };
        items.iter().map(item).collect()
    }

    /// Whether it is a table with nothing in it.
    pub(super) fn is_empty_table(&self) -> bool {
        self.value.as_table().is_some_and(toml::map::Map::is_empty)
    }

    /// The items of an array, or the value itself if it is a text.
    pub(super) fn texts(&self, example: &str) -> Vec<Value<'d>> {
        match self.value {
            DeValue::String(_) => vec![self.clone()],
            DeValue::Array(_) => self.items(example),
            _ => {
                self.refuse_type("a string or an array of strings", self.example(example));
                Vec::new()
            }
        }
    }

    /// Whether it is an array without items.
    pub(super) fn is_empty_array(&self) -> bool {
        self.value.as_array().is_some_and(|items| items.is_empty())
    }

    /// A table whose keys are ours.
    pub(super) fn table(&self, kind: Table) -> Option<TableReader<'d>> {
        let Some(entries) = self.value.as_table() else {
            let hint = match kind {
                Table::Dir => "write { host = \"templates\", guest = \"/templates\", access = \"read\" }".to_owned(),
                // Their key is no name.
                Table::Grants | Table::Canary | Table::Auth | Table::Tls => format!("write it as {}", kind.title()),
                _ => format!("write it as {}", kind.title().replace("NAME", &excerpt(self.key))),
            };
            self.refuse_type("a table", hint);
            return None;
        };
        // An item of an array has no key of its own to point at.
        let span = if kind == Table::Dir { self.span.clone() } else { self.key_span.clone() };
        Some(TableReader { kind, span, entries, errors: self.errors })
    }

    /// The entries of a table whose keys are names that the user chooses, in the order of the file.
    pub(super) fn named(&self, example: &str) -> Vec<Value<'d>> {
        let Some(entries) = self.value.as_table() else {
            self.refuse_type("a table", format!("write {example}"));
            return Vec::new();
        };
        let mut values: Vec<_> = entries.iter().map(|(key, value)| Value::new(key, value, self.errors)).collect();
        values.sort_by_key(|value| value.key_span.start);
        values
    }
}

const QUEUE_NAME_RULE: &str = "a queue name is made of letters, digits, `-`, `_` and single dots between parts, at most 128 \
                               characters, such as \"signups\" or \"signups.dead\"";

/// A key as it is quoted in a message: short, and without control characters.
pub(super) fn name(key: &str) -> String {
    format!("`{}`", excerpt(key).escape_debug())
}

/// The beginning of a text that may be long.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
