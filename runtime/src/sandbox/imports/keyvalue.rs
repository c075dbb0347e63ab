//! `wasi:keyvalue`: the consumer's durable state. What it writes is collected ([`Session`]), and put on record with the
//! acknowledgement.

use bytes::Bytes;
use linecook_store::MessageId;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, Resource};

use crate::sandbox::bindings::state::linecook::worker::batch_state;
use crate::sandbox::bindings::state::wasi::keyvalue::store::{Error, KeyResponse};
use crate::sandbox::bindings::state::wasi::keyvalue::{atomics, batch, store};
use crate::sandbox::durable::{DurableState, Refused, Session};
use crate::sandbox::grants::Grant;
use crate::sandbox::state::{Outside, State};

/// The consumer's own bucket.
#[allow(unreachable_pub, reason = "the generated bindings name it publicly")]
pub struct Bucket(());

type Answer<T> = Result<Result<T, Error>>;

/// The names of the one bucket.
const NAMES: [&str; 2] = ["", "default"];

/// The guest's way to its state.
pub(super) struct KeyValue<'s> {
    state: &'s mut State,
}

struct KeyValueData;

impl HasData for KeyValueData {
    type Data<'s> = KeyValue<'s>;
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    fn keyvalue(state: &mut State) -> KeyValue<'_> {
        KeyValue { state }
    }
    store::add_to_linker::<State, KeyValueData>(linker, keyvalue)?;
    atomics::add_to_linker::<State, KeyValueData>(linker, keyvalue)?;
    batch::add_to_linker::<State, KeyValueData>(linker, keyvalue)?;
    batch_state::add_to_linker::<State, KeyValueData>(linker, keyvalue)
}

impl KeyValue<'_> {
    /// Reads or writes in a bucket that was opened.
    fn with<T>(
        &mut self,
        bucket: &Resource<Bucket>,
        work: impl FnOnce(&mut Session, &DurableState, u64) -> Result<T, Refused>,
    ) -> Answer<T> {
        self.state.handles.get(bucket)?;
        let State { outside: Outside { settings, .. }, session, .. } = &mut *self.state;
        let Some(durable) = &settings.state else { return Ok(Err(Error::AccessDenied)) };
        Ok(work(session, durable, settings.limits.state_bytes).map_err(|refused| Error::Other(refused.to_string())))
    }
}

impl store::Host for KeyValue<'_> {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        let Outside { settings, access, .. } = &self.state.outside;
        if settings.state.is_none() {
            access.tell_denied(settings, Grant::State, "", "its state was not opened: it is not granted");
            return Ok(Err(Error::AccessDenied));
        }
        if !NAMES.contains(&identifier.as_str()) {
            return Ok(Err(Error::NoSuchStore));
        }
        Ok(Ok(self.state.handles.push(Bucket(()))?))
    }
}

impl store::HostBucket for KeyValue<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.with(&bucket, |session, durable, _| Ok(session.get(durable, &key)?.map(Vec::from)))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.with(&bucket, |session, durable, max| session.set(durable, max, &key, Some(Bytes::from(value))))
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.with(&bucket, |session, durable, max| session.set(durable, max, &key, None))
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        self.with(&bucket, |session, durable, _| Ok(session.get(durable, &key)?.is_some()))
    }

    fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        self.with(&bucket, |session, durable, _| {
            let (keys, cursor) = session.keys(durable, cursor)?;
            Ok(KeyResponse { keys: keys.into_iter().map(String::from).collect(), cursor })
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.state.handles.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for KeyValue<'_> {
    fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        self.with(&bucket, |session, durable, max| session.increment(durable, max, &key, delta))
    }
}

impl batch::Host for KeyValue<'_> {
    fn get_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        self.with(&bucket, |session, durable, _| session.get_many(durable, keys))
    }

    fn set_many(&mut self, bucket: Resource<Bucket>, key_values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        self.with(&bucket, |session, durable, max| {
            let mut pairs = key_values.into_iter();
            pairs.try_for_each(|(key, value)| session.set(durable, max, &key, Some(Bytes::from(value))))
        })
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        self.with(&bucket, |session, durable, max| keys.iter().try_for_each(|key| session.set(durable, max, key, None)))
    }
}

impl batch_state::Host for KeyValue<'_> {
    fn for_message(&mut self, message_id: Option<String>) -> Result<Result<(), String>> {
        let State { sends, session, .. } = &mut *self.state;
        let place = match &message_id {
            None => None,
            Some(id) => {
                let place = id.parse::<MessageId>().ok().and_then(|id| sends.place(id));
                if place.is_none() {
                    return Ok(Err(format!("{id:?} is not the id of a message that is being handled")));
                }
                place
            }
        };
        session.set_current(place);
        Ok(Ok(()))
    }
}
