//! What guests were denied: told once each, with the lines of `queue.toml` that would grant it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Secrets;
use crate::config::DirGrant;
use crate::sandbox::InstanceSettings;

/// A grant that is a list of names, or that is given or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sandbox) enum Grant {
    /// Queues to send to.
    Send,
    /// Servers to call over HTTP.
    Http,
    /// Servers to connect to.
    Tcp,
    /// Folders to write to, named as guests name them.
    Dirs,
    /// Durable state; it has no names.
    State,
}

/// The denials of one module that were logged already.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Denied(Mutex<BTreeMap<(String, Grant), Names>>);

/// What one consumer was denied for want of one grant.
#[derive(Debug, Default)]
struct Names {
    told: BTreeSet<String>,
    /// There were more than are remembered.
    is_full: bool,
}

/// What there is to log.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// The denial.
    Now,
    /// Nothing.
    Before,
    /// That no more are logged.
    NoMore,
}

impl Denied {
    /// Names come from guests: beyond so many for each grant of a consumer, none is remembered and none is logged.
    const NAMES_MAX: usize = 100;

    /// Logs that the consumer lacks the grant of `name`, unless that was logged before. `what` was denied says the line,
    /// and why beyond the missing grant, if there is more to say.
    pub(super) fn tell(&self, settings: &InstanceSettings, secrets: &Secrets, grant: Grant, name: &str, what: &str) {
        let consumer = &settings.consumer;
        if let Some(text) = self.text(settings, secrets, grant, name, what) {
            tracing::warn!(consumer, "{text}");
        }
    }

    /// What there is to log. Its names are the guest's choice, which may have a secret in it.
    fn text(
        &self,
        settings: &InstanceSettings,
        secrets: &Secrets,
        grant: Grant,
        name: &str,
        what: &str,
    ) -> Option<String> {
        let text = match self.note(&settings.consumer, grant, name) {
            Told::Now => {
                let lines = grant.lines(settings, name);
                // The line end keeps the fields of the record out of the last line, which else is no TOML.
                format!("{what}. In queue.toml, this grants it:\n{lines}\n")
            }
            Told::NoMore => format!(
                "{what}. {} others for want of `{grant}` are in the log; no more are logged until the component is loaded again",
                Self::NAMES_MAX
            ),
            Told::Before => return None,
        };
        Some(secrets.mask(text.into()).into_owned())
    }

    fn note(&self, consumer: &str, grant: Grant, name: &str) -> Told {
        // A mutex, since the workers share a module; it is taken for what is denied only.
        let mut denied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = denied.entry((consumer.to_owned(), grant)).or_default();
        if names.is_full || names.told.contains(name) {
            return Told::Before;
        }
        names.is_full = names.told.len() == Self::NAMES_MAX;
        if names.is_full {
            return Told::NoMore;
        }
        names.told.insert(name.to_owned());
        Told::Now
    }
}

impl Grant {
    /// The lines that grant what is granted now and `name`.
    fn lines(self, settings: &InstanceSettings, name: &str) -> String {
        fn texts<T: ToString>(granted: &[T]) -> Vec<String> {
            granted.iter().map(T::to_string).collect()
        }
        let grants = &settings.grants;
        let mut names = match self {
            Grant::Send => [texts(&grants.send), texts(&grants.send_subjects)].concat(),
            Grant::Http => texts(&grants.http),
            Grant::Tcp => texts(&grants.tcp),
            Grant::Dirs => {
                return format!("[consumers.{}.grants]\n{self} = [{}]", settings.consumer, dirs(settings, name));
            }
            Grant::State => return format!("[consumers.{}.grants]\n{self} = true", settings.consumer),
        };
        names.push(name.to_owned());
        // A name of a grant has nothing that TOML escapes otherwise than Rust.
        let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        format!("[consumers.{}.grants]\n{self} = [{}]", settings.consumer, names.join(", "))
    }
}

/// The folders that are granted now, and the one of this name for writing too.
fn dirs(settings: &InstanceSettings, name: &str) -> String {
    let dir = |DirGrant { host, guest, write }: &DirGrant| {
        let access = if *write || guest == name { "read-write" } else { "read" };
        // What JSON escapes, TOML escapes the same way.
        let [host, guest] = [&*host.to_string_lossy(), guest].map(|path| serde_json::Value::from(path).to_string());
        format!("{{ host = {host}, guest = {guest}, access = \"{access}\" }}")
    };
    settings.grants.dirs.iter().map(dir).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Grant {
    /// The key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Grant::Send => "send",
            Grant::Http => "http",
            Grant::Tcp => "tcp",
            Grant::Dirs => "dirs",
            Grant::State => "state",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_are_told_once_and_not_without_end() {
        let denied = Denied::default();
        assert_eq!(denied.note("a", Grant::Send, "q"), Told::Now);
        assert_eq!(denied.note("a", Grant::Send, "q"), Told::Before);
        let told: Vec<_> = (0..1000).map(|number| denied.note("a", Grant::Http, &number.to_string())).collect();
        assert!(told[..Denied::NAMES_MAX].iter().all(|told| *told == Told::Now));
        assert_eq!(told[Denied::NAMES_MAX], Told::NoMore);
        assert!(told[Denied::NAMES_MAX + 1..].iter().all(|told| *told == Told::Before));
        // Another grant, and another consumer, have a count of their own.
        assert_eq!(denied.note("a", Grant::Tcp, "q"), Told::Now);
        assert_eq!(denied.note("b", Grant::Http, "q"), Told::Now);
    }

    #[test]
    fn secrets_in_names_that_guests_choose_are_masked() {
        let (denied, settings) = (Denied::default(), InstanceSettings::of_a_test());
        let secrets = Secrets::new(vec![("KEY".to_owned(), "hunter2".to_owned())]);
        let text = |number: usize| {
            let name = format!("https://hunter2.{number}.example");
            denied.text(&settings, &secrets, Grant::Http, &name, &format!("a request to {name} was refused"))
        };
        let first = text(0).unwrap();
        assert_eq!(
            first,
            "a request to https://[secret KEY].0.example was refused. In queue.toml, this grants it:\n\
             [consumers.c.grants]\nhttp = [\"https://[secret KEY].0.example\"]\n"
        );
        assert_eq!(text(0), None);
        let last = (1..=Denied::NAMES_MAX).filter_map(text).last().unwrap();
        assert!(last.contains("[secret KEY].100.example") && last.contains("no more are logged"), "{last}");
        assert!(!last.contains("hunter2"), "{last}");
    }
}
