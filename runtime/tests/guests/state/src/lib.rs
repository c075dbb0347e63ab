//! Reads and writes durable state as the message says. It takes batches, and does each message for itself.
//!
//! The body is a JSON object; `do` says what to do. What a command finds out, it sends to the queue `report`.
//!
//! | body | what happens |
//! | --- | --- |
//! | `{"do":"count","key":"n"}` | Adds 1 to a number, by reading and writing. With `"panics":n`, the first n attempts panic after that; with `"retries":n`, they fail. |
//! | `{"do":"increment","key":"n","by":2}` | Adds to a number. |
//! | `{"do":"get","key":"k"}` | Reports `{"value": "…"}`, or `null`, with the id of the message as the key. |
//! | `{"do":"get-many","key":"k","count":3}` | Reads the key so often at once, and reports `{"bytes": n}` of all values. |
//! | `{"do":"set","key":"k","value":"v"}` | Writes; with `"bytes":n`, so many bytes of `x`. |
//! | `{"do":"delete","key":"k"}` | Takes it away. |
//! | `{"do":"keys"}` | Reports `{"keys": […]}`. |
//! | `{"do":"own-writes"}` | Reports what it sees of what it writes, by all ways. |
//! | `{"do":"open","name":"x"}` | Reports `{"opened": "ok"}`, or the error of the interface. |

use linecook_sdk::__rt::state::generated::wasi::keyvalue::{batch as keyvalue_batch, store};
use linecook_sdk::{Failure, Message, Outcome, batch, consumer, queues, state};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Command {
    Count {
        key: String,
        #[serde(default)]
        panics: u32,
        #[serde(default)]
        retries: u32,
    },
    Increment {
        key: String,
        by: u64,
    },
    Get {
        key: String,
    },
    GetMany {
        key: String,
        count: usize,
    },
    Set {
        key: String,
        #[serde(default)]
        value: String,
        bytes: Option<usize>,
    },
    Delete {
        key: String,
    },
    Keys,
    OwnWrites,
    Open {
        name: String,
    },
}

#[consumer]
fn keep(messages: Vec<Message>) -> Vec<Outcome> {
    batch::each(messages, one)
}

fn one(message: Message) -> Outcome {
    match message.json()? {
        Command::Count { key, panics, retries } => {
            let count: u64 = state::get_json(&key)?.unwrap_or(0);
            state::set_json(&key, &(count + 1))?;
            if message.attempt <= panics {
                panic!("on purpose");
            }
            if message.attempt <= retries {
                return Err(Failure::retry("on purpose"));
            }
        }
        Command::Increment { key, by } => drop(state::increment(&key, by)?),
        Command::Get { key } => {
            let value = state::get(&key)?.map(|value| String::from_utf8_lossy(&value).into_owned());
            queues::json(&json!({ "value": value }))?.key(message.id).send("report")?;
        }
        Command::GetMany { key, count } => {
            let got = keyvalue_batch::get_many(&bucket()?, &vec![key; count]).map_err(dead)?;
            let bytes: usize = got.iter().flatten().map(|(_, value)| value.len()).sum();
            queues::send("report", &json!({ "bytes": bytes }))?;
        }
        Command::Set { key, value, bytes } => state::set(&key, bytes.map_or(value, |bytes| "x".repeat(bytes)))?,
        Command::Delete { key } => state::delete(&key)?,
        Command::Keys => queues::send("report", &json!({ "keys": state::keys()? }))?,
        Command::OwnWrites => own_writes()?,
        Command::Open { name } => {
            let opened = store::open(&name).map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned());
            queues::send("report", &json!({ "opened": opened }))?;
        }
    }
    Ok(())
}

fn bucket() -> Result<store::Bucket, Failure> {
    store::open("").map_err(dead)
}

fn dead(error: store::Error) -> Failure {
    Failure::dead_letter(format!("{error:?}"))
}

fn own_writes() -> Outcome {
    state::set("a", "1")?;
    let first = state::get("a")?;
    state::set("a", "2")?;
    state::set("b", "3")?;
    state::delete("gone")?;
    let incremented = state::increment("a", 5)?;
    let pairs = [("c", "4"), ("d", "5"), ("e", "6")].map(|(key, value)| (key.to_owned(), value.into()));
    keyvalue_batch::set_many(&bucket()?, &pairs).map_err(dead)?;
    keyvalue_batch::delete_many(&bucket()?, &["c", "e", "none"].map(String::from)).map_err(dead)?;
    let many = ["a", "b", "c", "d", "gone"].map(String::from);
    let got = keyvalue_batch::get_many(&bucket()?, &many).map_err(dead)?;
    let got: Vec<_> =
        got.into_iter().map(|one| one.map(|(_, value)| String::from_utf8_lossy(&value).into_owned())).collect();
    let report = json!({
        "first": first.map(|value| String::from_utf8_lossy(&value).into_owned()),
        "incremented": incremented,
        "many": got,
        "exists": [state::exists("b")?, state::exists("gone")?],
        "keys": state::keys()?,
    });
    Ok(queues::send("report", &report)?)
}
