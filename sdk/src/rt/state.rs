//! Durable state through the runtime.

use std::cell::Cell;

use self::generated::linecook::worker::batch_state;
use self::generated::wasi::keyvalue::atomics;
use self::generated::wasi::keyvalue::store::{self, Bucket, Error};
use crate::state::StateError;

#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated from the contract, whose ABI is raw memory")]
pub mod generated {
    wit_bindgen::generate!({
        inline: "
            package linecook:sdk-state;
            world state {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import linecook:worker/batch-state@0.1.1;
            }
        ",
        path: "wit",
        world: "linecook:sdk-state/state",
        generate_all,
    });
}

thread_local! {
    /// Whether the runtime was told of a message, so that it must be told when there is none any more.
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

/// Opens the bucket, for the message of a batch that is being handled.
fn bucket(message_id: Option<String>) -> Result<Bucket, StateError> {
    if message_id.is_some() || TOLD.get() {
        TOLD.set(message_id.is_some());
        batch_state::for_message(message_id.as_deref()).map_err(|detail| StateError::Refused { detail })?;
    }
    store::open("default").map_err(refused)
}

fn refused(error: Error) -> StateError {
    match error {
        Error::AccessDenied => StateError::NotGranted,
        Error::NoSuchStore => StateError::Refused { detail: "the runtime has no state".to_owned() },
        Error::Other(detail) => StateError::Refused { detail },
    }
}

pub(crate) fn get(message_id: Option<String>, key: &str) -> Result<Option<Vec<u8>>, StateError> {
    bucket(message_id)?.get(key).map_err(refused)
}

pub(crate) fn set(message_id: Option<String>, key: &str, value: Option<Vec<u8>>) -> Result<(), StateError> {
    let bucket = bucket(message_id)?;
    match value {
        Some(value) => bucket.set(key, &value).map_err(refused),
        None => bucket.delete(key).map_err(refused),
    }
}

pub(crate) fn increment(message_id: Option<String>, key: &str, delta: u64) -> Result<u64, StateError> {
    atomics::increment(&bucket(message_id)?, key, delta).map_err(refused)
}

pub(crate) fn keys(message_id: Option<String>) -> Result<Vec<String>, StateError> {
    let bucket = bucket(message_id)?;
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let mut page = bucket.list_keys(cursor).map_err(refused)?;
        all.append(&mut page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(all);
        }
    }
}
