//! Stands in for the runtime's durable state.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::StateError;

type Entries = BTreeMap<String, Vec<u8>>;

thread_local! {
    /// What handlers on this thread find and leave.
    static ON_RECORD: RefCell<Option<Rc<RefCell<Entries>>>> = const { RefCell::new(None) };
    /// What the handler that runs on this thread has read and written.
    static CURRENT: RefCell<Option<Session>> = const { RefCell::new(None) };
}

/// Durable state for the handlers that run on this thread from here on, until it is dropped; empty at first. Without one,
/// each run begins with an empty state and leaves nothing.
///
/// ```
/// use linecook_sdk::{Failure, Message, Outcome, state, testing};
///
/// fn count(message: Message) -> Outcome {
///     state::increment("n", 1)?;
///     if message.body.is_empty() { Err(Failure::retry("nothing in it")) } else { Ok(()) }
/// }
///
/// let state = testing::state();
/// state.set_json("n", &1);
/// assert!(testing::run(count, testing::message("x")).outcome.is_ok());
/// assert_eq!(state.get_json::<u64>("n"), Some(2));
///
/// // What a failed handler wrote is not written.
/// assert!(testing::run(count, testing::message("")).outcome.is_err());
/// assert_eq!(state.get_json::<u64>("n"), Some(2));
/// ```
pub fn state() -> State {
    let entries = Rc::default();
    State { before: ON_RECORD.replace(Some(Rc::clone(&entries))), entries }
}

/// See [`state`].
#[derive(Debug)]
#[must_use = "when it is dropped, handlers find an empty state again"]
pub struct State {
    entries: Rc<RefCell<Entries>>,
    before: Option<Rc<RefCell<Entries>>>,
}

impl State {
    /// The value of a key, if there is one.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.entries.borrow().get(key).cloned()
    }

    /// The value of a key, read as JSON, if there is one.
    ///
    /// # Panics
    ///
    /// If it is not such JSON, with its text.
    #[track_caller]
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.get(key).map(|value| {
            serde_json::from_slice(&value)
                .unwrap_or_else(|error| panic!("the state {key:?} is not such JSON: {error}\n{}", value.escape_ascii()))
        })
    }

    /// Writes a value, as if a handler had.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.entries.borrow_mut().insert(key.into(), value.into());
    }

    /// Writes a value as JSON.
    ///
    /// # Panics
    ///
    /// If the value can't be written as JSON.
    #[track_caller]
    pub fn set_json<T: Serialize + ?Sized>(&self, key: impl Into<String>, value: &T) {
        self.set(
            key,
            serde_json::to_vec(value).unwrap_or_else(|error| panic!("can't write the value as JSON: {error}")),
        );
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        self.entries.borrow().keys().cloned().collect()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        ON_RECORD.set(self.before.take());
    }
}

/// What one run has read and written.
struct Session {
    on_record: Rc<RefCell<Entries>>,
    /// The messages that are being handled.
    ids: Vec<String>,
    parts: Vec<Part>,
    /// The keys that were written, as they are now.
    written: BTreeMap<String, Option<Vec<u8>>>,
}

/// What belongs to one of the messages.
#[derive(Default)]
struct Part {
    reads: BTreeMap<String, Option<Vec<u8>>>,
    writes: BTreeMap<String, Option<Vec<u8>>>,
}

/// Puts back what was there before, also when the handler panics.
pub(super) struct Running(Option<Session>);

/// A handler is called with these messages.
pub(super) fn begin(ids: &[String]) -> Running {
    let on_record = ON_RECORD.with_borrow(Clone::clone).unwrap_or_default();
    let parts = ids.iter().map(|_| Part::default()).collect();
    Running(CURRENT.replace(Some(Session { on_record, ids: ids.to_vec(), parts, written: BTreeMap::new() })))
}

impl Running {
    /// It has ended. What was written for the messages that are acknowledged is written, in their order. As in the runtime,
    /// what came of something that was not written after all is not written either: that message would come again.
    pub(super) fn end(self, is_acked: impl Fn(usize) -> bool) {
        let Some(Session { on_record, parts, .. }) = CURRENT.take() else { return };
        let mut entries = on_record.borrow_mut();
        for (_, part) in parts.into_iter().enumerate().filter(|(place, _)| is_acked(*place)) {
            if part.reads.iter().any(|(key, seen)| entries.get(key) != seen.as_ref()) {
                continue;
            }
            for (key, value) in part.writes {
                match value {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Session {
    fn now(&self, key: &str) -> Option<Vec<u8>> {
        match self.written.get(key) {
            Some(written) => written.clone(),
            None => self.on_record.borrow().get(key).cloned(),
        }
    }

    /// The part of a message of the batch; alone, a message needs no name.
    fn part(&mut self, message_id: Option<&str>) -> Result<Option<&mut Part>, StateError> {
        let place = match message_id {
            _ if self.ids.len() == 1 => Some(0),
            None => None,
            Some(id) => Some(
                self.ids
                    .iter()
                    .position(|each| each == id)
                    .ok_or_else(|| refused(format!("{id:?} is not the id of a message that is being handled")))?,
            ),
        };
        Ok(place.map(|place| &mut self.parts[place]))
    }
}

fn refused(detail: String) -> StateError {
    StateError::Refused { detail }
}

fn with<T>(key: &str, work: impl FnOnce(&mut Session) -> Result<T, StateError>) -> Result<T, StateError> {
    CURRENT.with_borrow_mut(|current| {
        let Some(session) = current else {
            panic!(
                "the state {key:?} was used outside of a delivery: call the handler by linecook_sdk::testing::run, and \
                 look at the state by linecook_sdk::testing::state"
            );
        };
        work(session)
    })
}

/// The runtime's checks that don't depend on its settings, so that a test finds what would fail there.
fn check(key: &str, value_bytes: usize) -> Result<(), StateError> {
    if !(1..=512).contains(&key.len()) {
        return Err(refused(format!("a key of the state has 1 to 512 bytes; this one has {}", key.len())));
    }
    if value_bytes > 1 << 20 {
        return Err(refused(format!("the value of {key:?} has {value_bytes} bytes; a value may have 1 MiB")));
    }
    Ok(())
}

pub(crate) fn get(message_id: Option<String>, key: &str) -> Result<Option<Vec<u8>>, StateError> {
    check(key, 0)?;
    with(key, |session| {
        let value = session.now(key);
        if let Some(part) = session.part(message_id.as_deref())?
            && !part.writes.contains_key(key)
        {
            part.reads.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
        Ok(value)
    })
}

pub(crate) fn set(message_id: Option<String>, key: &str, value: Option<Vec<u8>>) -> Result<(), StateError> {
    check(key, value.as_ref().map_or(0, Vec::len))?;
    with(key, |session| {
        let Some(part) = session.part(message_id.as_deref())? else {
            return Err(refused(
                "in a batch, state is written for one of its messages: write it in `batch::each`, or say for which one"
                    .to_owned(),
            ));
        };
        part.writes.insert(key.to_owned(), value.clone());
        session.written.insert(key.to_owned(), value);
        Ok(())
    })
}

pub(crate) fn increment(message_id: Option<String>, key: &str, delta: u64) -> Result<u64, StateError> {
    let before = match get(message_id.clone(), key)? {
        None => 0,
        Some(text) => std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or_else(|| refused(format!("the value of {key:?} is no number that can be incremented")))?,
    };
    let after =
        before.checked_add(delta).ok_or_else(|| refused(format!("{key:?} would be larger than {}", u64::MAX)))?;
    set(message_id, key, Some(after.to_string().into_bytes()))?;
    Ok(after)
}

pub(crate) fn keys(_: Option<String>) -> Result<Vec<String>, StateError> {
    with("", |session| {
        let mut keys: Vec<String> = session.on_record.borrow().keys().cloned().collect();
        keys.retain(|key| !session.written.contains_key(key));
        keys.extend(session.written.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key.clone()));
        keys.sort_unstable();
        Ok(keys)
    })
}

#[cfg(test)]
mod tests {
    use crate::state::{self, StateError};
    use crate::{Failure, Message, Outcome, batch, testing};

    #[test]
    fn a_handler_reads_what_it_wrote_and_a_failed_one_leaves_nothing() {
        let state = testing::state();
        state.set("old", "1");
        let handler = |message: Message| -> Outcome {
            state::set("new", "2")?;
            state::delete("old")?;
            assert_eq!((state::get("new")?, state::exists("old")?), (Some(b"2".to_vec()), false));
            assert_eq!(state::keys()?, ["new"]);
            if message.body == b"bad" { Err(Failure::retry("no")) } else { Ok(()) }
        };
        assert!(testing::run(handler, testing::message("bad")).outcome.is_err());
        assert_eq!(state.keys(), ["old"]);
        assert!(testing::run(handler, testing::message("good")).outcome.is_ok());
        assert_eq!(state.keys(), ["new"]);
    }

    #[test]
    fn each_thread_and_each_run_without_a_state_begins_empty() {
        let count = |_| {
            assert_eq!(state::increment("n", 1)?, 1);
            Ok(())
        };
        for _ in 0..2 {
            assert_eq!(testing::run(count, testing::message("")).outcome, Ok(()));
        }
        let outer = testing::state();
        outer.set("n", "5");
        {
            let _inner = testing::state();
            assert_eq!(testing::run(count, testing::message("")).outcome, Ok(()));
        }
        assert_eq!(outer.get_json::<u64>("n"), Some(5));
    }

    #[test]
    fn in_a_batch_each_write_shares_the_fate_of_its_message() {
        let count = |messages: Vec<Message>| {
            batch::each(messages, |message| {
                state::increment("n", 1)?;
                state::set(message.text()?, "")?;
                if message.body == b"bad" { Err(Failure::retry("no")) } else { Ok(()) }
            })
        };
        let state = testing::state();
        let run = testing::run_batch(count, ["a", "b", "bad", "c"].map(testing::message));
        assert_eq!(run.outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
        // The last one has read what the one before it wrote, which never was: in the runtime, it comes again.
        assert_eq!(state.keys(), ["a", "b", "n"]);
        assert_eq!(state.get_json::<u64>("n"), Some(2));

        let outside = |_: Vec<Message>| -> Outcome { Ok(state::set("n", "9")?) };
        let run = testing::run_batch(outside, ["a", "b"].map(testing::message));
        assert!(matches!(&run.outcomes[0], Err(Failure::Retry { reason, .. }) if reason.contains("batch::each")));
        let named =
            |messages: Vec<Message>| -> Outcome { Ok(batch::for_message(&messages[1].id, || state::set("n", "9"))?) };
        assert!(testing::run_batch(named, ["a", "b"].map(testing::message)).outcomes[0].is_ok());
        assert_eq!(state.get_json::<u64>("n"), Some(9));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_to_do() {
        let handler = |_| {
            for key in [String::new(), "k".repeat(513)] {
                assert!(matches!(state::set(&key, ""), Err(StateError::Refused { .. })));
            }
            assert!(state::set("k", vec![0; (1 << 20) + 1]).is_err());
            state::set("text", "x")?;
            assert!(state::increment("text", 1).is_err());
            let error = state::get_json::<u64>("text").unwrap_err().to_string();
            assert!(error.starts_with("the state \"text\" is not such JSON"), "{error}");
            Ok(())
        };
        assert_eq!(testing::run(handler, testing::message("")).outcome, Ok(()));
    }

    #[test]
    #[should_panic(expected = "outside of a delivery")]
    fn state_outside_of_a_delivery_panics() {
        let _ = state::get("k");
    }
}
