//! A consumer that was built against the other edition of `wasi:messaging@0.2.0-draft`, in which setting a content type or
//! metadata gives no result. Whatever it is handed, it sends a message to the topic that the body names.

#[allow(unsafe_code, missing_docs, reason = "generated")]
mod host {
    wit_bindgen::generate!({
        inline: "
            package wasi:messaging@0.2.0-draft;

            interface types {
                type metadata = list<tuple<string, string>>;
                type topic = string;
                resource client {
                    connect: static func(name: string) -> result<client, error>;
                    disconnect: func() -> result<_, error>;
                }
                variant error {
                    timeout,
                    connection(string),
                    permission-denied(string),
                    other(string),
                }
                resource message {
                    constructor(data: list<u8>);
                    topic: func() -> option<topic>;
                    content-type: func() -> option<string>;
                    set-content-type: func(content-type: string);
                    data: func() -> list<u8>;
                    set-data: func(data: list<u8>);
                    metadata: func() -> option<metadata>;
                    add-metadata: func(key: string, value: string);
                    set-metadata: func(meta: metadata);
                    remove-metadata: func(key: string);
                }
            }

            interface producer {
                use types.{client, message, error, topic};
                send: func(c: borrow<client>, topic: topic, message: message) -> result<_, error>;
            }

            interface incoming-handler {
                use types.{message, error, topic};
                handle: func(message: message) -> result<_, error>;
            }

            world messaging {
                import types;
                import producer;
                export incoming-handler;
            }
        ",
        world: "messaging",
    });
}

use host::exports::wasi::messaging::incoming_handler::Guest;
use host::wasi::messaging::producer;
use host::wasi::messaging::types::{Client, Error, Message};

struct Handler;

impl Guest for Handler {
    fn handle(message: Message) -> Result<(), Error> {
        let outgoing = Message::new(b"other");
        outgoing.set_content_type("text/plain");
        outgoing.set_metadata(&[("a".to_owned(), "1".to_owned())]);
        outgoing.add_metadata("b", "2");
        let client = Client::connect("any")?;
        producer::send(&client, &String::from_utf8_lossy(&message.data()), outgoing)
    }
}

#[allow(unsafe_code, reason = "generated")]
mod export {
    super::host::export!(Handler with_types_in super::host);

    use super::Handler;
}
