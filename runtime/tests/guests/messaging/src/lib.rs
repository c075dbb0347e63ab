//! A consumer of `wasi:messaging@0.2.0-draft`, which knows nothing of Linecook. The body of the message says what it does:
//!
//! | body | what happens |
//! | --- | --- |
//! | `ok` | `ok(())` |
//! | `error TEXT` | `err(other(TEXT))` |
//! | `trap` | a panic |
//! | `send TOPIC` | sends a message that says what it was handed, then `ok`; what refuses to be sent is the error |
//! | `forward TOPIC` | sends on the message that it was handed |
//! | `keep BYTES` | makes messages of 1 MiB, up to so many bytes, and keeps them |
//! | `metadata COUNT` | makes 200 messages with so many empty metadata each, and keeps them |
//! | `hoard` | keeps the message that it was handed, for ever |

#[allow(unsafe_code, missing_docs, reason = "generated")]
mod host {
    wit_bindgen::generate!({
        inline: "
            package test:messaging;
            world messaging {
                import wasi:messaging/types@0.2.0-draft;
                import wasi:messaging/producer@0.2.0-draft;
                export wasi:messaging/incoming-handler@0.2.0-draft;
            }
        ",
        path: "../../../../sdk/wit",
        world: "test:messaging/messaging",
        generate_all,
    });
}

use host::exports::wasi::messaging::incoming_handler::Guest;
use host::wasi::messaging::producer;
use host::wasi::messaging::types::{Client, Error, Message};

struct Handler;

impl Guest for Handler {
    fn handle(message: Message) -> Result<(), Error> {
        let body = String::from_utf8_lossy(&message.data()).into_owned();
        let (what, argument) = body.split_once(' ').unwrap_or((&body, ""));
        match what {
            "ok" => Ok(()),
            "error" => Err(Error::Other(argument.to_owned())),
            "trap" => panic!("on purpose"),
            "send" => {
                let seen = format!("{:?} {:?} {:?}", message.topic(), message.content_type(), message.metadata());
                let outgoing = Message::new(b"first");
                outgoing.set_data(seen.as_bytes());
                outgoing.set_content_type("text/plain").map_err(|()| Error::Other("content type".to_owned()))?;
                let metadata =
                    [("a", "1"), ("b", "2"), ("c", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
                outgoing.set_metadata(&metadata).map_err(|error| Error::Other(format!("{error:?}")))?;
                outgoing.add_metadata("b", "two").map_err(|error| Error::Other(format!("{error:?}")))?;
                outgoing.remove_metadata("c");
                send(argument, outgoing)
            }
            "forward" => send(argument, message),
            "keep" => {
                let bytes: usize = argument.parse().expect("a number");
                let kept: Vec<_> = (0..bytes >> 20).map(|_| Message::new(&vec![0; 1 << 20])).collect();
                drop(kept);
                Ok(())
            }
            "metadata" => {
                let metadata = vec![(String::new(), String::new()); argument.parse().expect("a number")];
                let keep = || {
                    let message = Message::new(&[]);
                    message.set_metadata(&metadata).map(|()| message)
                };
                let kept: Result<Vec<_>, _> = (0..200).map(|_| keep()).collect();
                kept.map(drop).map_err(|error| Error::Other(format!("{error:?}")))
            }
            "hoard" => {
                std::mem::forget(message);
                Ok(())
            }
            _ => Err(Error::Other(format!("what is {what}?"))),
        }
    }
}

fn send(topic: &str, message: Message) -> Result<(), Error> {
    let client = Client::connect("any")?;
    producer::send(&client, topic, message)?;
    client.disconnect()
}

#[allow(unsafe_code, reason = "generated")]
mod export {
    super::host::export!(Handler with_types_in super::host);

    use super::Handler;
}
