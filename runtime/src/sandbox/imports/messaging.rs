//! `wasi:messaging`: consumers that were written for any host. Topics are queues, metadata are attributes.
//!
//! A guest is handed the attributes of its message as metadata, and with them what `linecook:worker` says in fields of its
//! own: [`MESSAGE_ID`], [`ATTEMPT`] and, if there is one, the ordering key as [`KEY`]. So the metadata of a message that it
//! passes on may have them too: the first two are left out then, and the third is the ordering key of what is sent.

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, Val};
use wasmtime::{Result, StoreContextMut};

use super::queues::Sender;
use crate::delivery::Delivery;
use crate::sandbox::InstanceSettings;
use crate::sandbox::bindings::linecook::worker::queues::{Host as _, Outgoing, SendError};
use crate::sandbox::bindings::messaging::wasi::messaging::types::HostMessage as _;
use crate::sandbox::bindings::messaging::wasi::messaging::{producer, types};
use crate::sandbox::limits::{Exceeded, METADATA_HELD_MAX, bytes_text};
use crate::sandbox::state::State;

/// The message's id.
const MESSAGE_ID: &str = "linecook-message-id";
/// 1 for the first.
const ATTEMPT: &str = "linecook-attempt";
/// The ordering key.
const KEY: &str = "linecook-key";

/// A connection to the one message service that there is.
#[allow(unreachable_pub, reason = "the generated bindings name it publicly")]
pub struct Client(());

/// A message that the guest was handed, or has made.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "the generated bindings name it publicly")]
pub struct Message {
    topic: Option<String>,
    content_type: Option<String>,
    data: Vec<u8>,
    metadata: Vec<(String, String)>,
    /// What counts of it as the guest's: nothing of a message that it was handed and has not changed.
    held_bytes: u64,
    held_pairs: usize,
}

/// Counts what the host keeps for a guest.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Held {
    /// The messages that it has made, and those that it was handed, as long as it has not let go of them.
    messages: usize,
    /// Bytes of the messages that it has made, handles aside.
    bytes: u64,
    /// Their metadata, which take memory however short they are.
    pairs: usize,
}

impl Held {
    /// Whether nothing is kept.
    pub(in crate::sandbox) fn is_empty(&self) -> bool {
        self.messages == 0
    }
}

impl Message {
    /// As a guest is handed it.
    fn of(delivery: &Delivery, settings: &InstanceSettings) -> Message {
        let message = &delivery.message;
        let attributes = message.attributes.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let key = message.key.as_ref().map(|key| (KEY.to_owned(), key.to_string()));
        let facts =
            [(MESSAGE_ID.to_owned(), message.id.to_string()), (ATTEMPT.to_owned(), delivery.attempt.to_string())];
        Message {
            topic: Some(settings.queue.to_string()),
            content_type: message.content_type.as_deref().map(str::to_owned),
            data: message.body.to_vec(),
            metadata: attributes.chain(facts).chain(key).collect(),
            held_bytes: 0,
            held_pairs: 0,
        }
    }

    fn bytes(&self) -> u64 {
        let metadata: usize = self.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        (self.data.len() + self.content_type.as_ref().map_or(0, String::len) + metadata) as u64
    }

    fn into_outgoing(self) -> Outgoing {
        let mut key = None;
        let mut attributes = self.metadata;
        attributes.retain_mut(|(name, value)| {
            if name == KEY {
                key = Some(std::mem::take(value));
            }
            ![KEY, MESSAGE_ID, ATTEMPT].contains(&name.as_str())
        });
        Outgoing { body: self.data, content_type: self.content_type, key, attributes, delay_ms: 0 }
    }
}

/// The guest's messages, and the way out.
pub(super) struct Messaging<'s> {
    state: &'s mut State,
}

struct MessagingData;

impl HasData for MessagingData {
    type Data<'s> = Messaging<'s>;
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    fn messaging(state: &mut State) -> Messaging<'_> {
        Messaging { state }
    }
    types::add_to_linker::<State, MessagingData>(linker, messaging)?;
    producer::add_to_linker::<State, MessagingData>(linker, messaging)?;

    // Two editions of the draft have one version: in the other, what sets something gives no result. These take either.
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:messaging/types@0.2.0-draft")?;
    types.func_new("[method]message.set-content-type", |store, _, parameters, results| {
        set(store, parameters, results, |mut messaging, message, values| match values {
            [Val::String(content_type)] => messaging.set_content_type(message, content_type.clone()).map(drop),
            _ => wasmtime::bail!("a content type is a text"),
        })
    })?;
    types.func_new("[method]message.add-metadata", |store, _, parameters, results| {
        set(store, parameters, results, |mut messaging, message, values| match values {
            [Val::String(key), Val::String(value)] => {
                messaging.add_metadata(message, key.clone(), value.clone()).map(drop)
            }
            _ => wasmtime::bail!("a key and a value are texts"),
        })
    })?;
    types.func_new("[method]message.set-metadata", |store, _, parameters, results| {
        set(store, parameters, results, |mut messaging, message, values| {
            let [Val::List(pairs)] = values else { wasmtime::bail!("metadata are a list") };
            let pair = |pair: &Val| match pair {
                Val::Tuple(pair) => match &pair[..] {
                    [Val::String(key), Val::String(value)] => Ok((key.clone(), value.clone())),
                    _ => wasmtime::bail!("a key and a value are texts"),
                },
                _ => wasmtime::bail!("metadata are pairs"),
            };
            messaging.set_metadata(message, pairs.iter().map(pair).collect::<Result<_>>()?).map(drop)
        })
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Changes the message that the first parameter is, with the others.
fn set(
    mut store: StoreContextMut<'_, State>,
    parameters: &[Val],
    results: &mut [Val],
    change: impl FnOnce(Messaging<'_>, Resource<Message>, &[Val]) -> Result<()>,
) -> Result<()> {
    let [Val::Resource(resource), values @ ..] = parameters else {
        wasmtime::bail!("a method of a message has no message");
    };
    let message = resource.try_into_resource::<Message>(&mut store)?;
    change(Messaging { state: store.data_mut() }, message, values)?;
    if let Some(result) = results.first_mut() {
        *result = Val::Result(Ok(None));
    }
    Ok(())
}

/// Hands a delivery to the guest.
pub(in crate::sandbox) fn hand_over(state: &mut State, delivery: &Delivery) -> Result<Resource<Message>> {
    let message = Message::of(delivery, &state.outside.settings);
    push(state, message)
}

fn push(state: &mut State, message: Message) -> Result<Resource<Message>> {
    let handle = state.handles.push(message)?;
    state.held.messages += 1;
    Ok(handle)
}

impl Messaging<'_> {
    fn table(&mut self) -> &mut ResourceTable {
        &mut self.state.handles
    }

    /// Changes a message, and what is held for it.
    fn change(&mut self, message: &Resource<Message>, change: impl FnOnce(&mut Message)) -> Result<()> {
        let message = self.state.handles.get_mut(message)?;
        change(message);
        let (before, after) = (message.held_bytes, message.bytes());
        let (pairs_before, pairs) = (message.held_pairs, message.metadata.len());
        (message.held_bytes, message.held_pairs) = (after, pairs);
        let held = &mut self.state.held;
        held.pairs = held.pairs - pairs_before + pairs;
        if pairs > pairs_before && held.pairs > METADATA_HELD_MAX {
            wasmtime::bail!("the messages that a guest keeps may have {METADATA_HELD_MAX} metadata in all");
        }
        self.hold(before, after)
    }

    /// Lets go of a message.
    fn delete(&mut self, message: Resource<Message>) -> Result<Message> {
        let message = self.table().delete(message)?;
        self.state.held.messages -= 1;
        self.state.held.pairs -= message.held_pairs;
        self.hold(message.held_bytes, 0)?;
        Ok(message)
    }

    /// Takes room for what a message has become.
    fn hold(&mut self, before: u64, after: u64) -> Result<()> {
        let limit = self.state.outside.settings.limits.send_bytes;
        let held = &mut self.state.held;
        held.bytes = held.bytes.saturating_sub(before) + after;
        if after > before && held.bytes > limit {
            return Err(Exceeded::new("limits.send_bytes", bytes_text(limit)).into());
        }
        Ok(())
    }
}

impl types::Host for Messaging<'_> {}

impl types::HostClient for Messaging<'_> {
    fn connect(&mut self, _name: String) -> Result<Result<Resource<Client>, types::Error>> {
        Ok(Ok(self.table().push(Client(()))?))
    }

    fn disconnect(&mut self, _client: Resource<Client>) -> Result<Result<(), types::Error>> {
        Ok(Ok(()))
    }

    fn drop(&mut self, client: Resource<Client>) -> Result<()> {
        self.table().delete(client)?;
        Ok(())
    }
}

impl types::HostMessage for Messaging<'_> {
    fn new(&mut self, data: Vec<u8>) -> Result<Resource<Message>> {
        let held_bytes = data.len() as u64;
        self.hold(0, held_bytes)?;
        push(self.state, Message { data, held_bytes, ..Message::default() })
    }

    fn topic(&mut self, message: Resource<Message>) -> Result<Option<String>> {
        Ok(self.table().get(&message)?.topic.clone())
    }

    fn content_type(&mut self, message: Resource<Message>) -> Result<Option<String>> {
        Ok(self.table().get(&message)?.content_type.clone())
    }

    fn set_content_type(&mut self, message: Resource<Message>, content_type: String) -> Result<Result<(), ()>> {
        self.change(&message, |message| message.content_type = Some(content_type))?;
        Ok(Ok(()))
    }

    fn data(&mut self, message: Resource<Message>) -> Result<Vec<u8>> {
        Ok(self.table().get(&message)?.data.clone())
    }

    fn set_data(&mut self, message: Resource<Message>, data: Vec<u8>) -> Result<()> {
        self.change(&message, |message| message.data = data)
    }

    fn metadata(&mut self, message: Resource<Message>) -> Result<Option<Vec<(String, String)>>> {
        let metadata = &self.table().get(&message)?.metadata;
        Ok((!metadata.is_empty()).then(|| metadata.clone()))
    }

    fn add_metadata(
        &mut self,
        message: Resource<Message>,
        key: String,
        value: String,
    ) -> Result<Result<(), types::MetadataError>> {
        self.change(&message, |message| {
            message.metadata.retain(|(name, _)| *name != key);
            message.metadata.push((key, value));
        })?;
        Ok(Ok(()))
    }

    fn set_metadata(
        &mut self,
        message: Resource<Message>,
        metadata: Vec<(String, String)>,
    ) -> Result<Result<(), types::MetadataError>> {
        self.change(&message, |message| message.metadata = metadata)?;
        Ok(Ok(()))
    }

    fn remove_metadata(&mut self, message: Resource<Message>, key: String) -> Result<()> {
        self.change(&message, |message| message.metadata.retain(|(name, _)| *name != key))
    }

    fn drop(&mut self, message: Resource<Message>) -> Result<()> {
        self.delete(message).map(drop)
    }
}

impl producer::Host for Messaging<'_> {
    fn send(
        &mut self,
        client: Resource<Client>,
        topic: String,
        message: Resource<Message>,
    ) -> Result<Result<(), types::Error>> {
        self.table().get(&client)?;
        let message = self.delete(message)?;
        let sent = Sender::of(self.state).send(topic, message.into_outgoing());
        Ok(sent.map_err(|error| match error {
            SendError::NotGranted(why) => types::Error::PermissionDenied(why),
            SendError::LimitExceeded(why) | SendError::Invalid(why) => types::Error::Other(why),
        }))
    }
}
