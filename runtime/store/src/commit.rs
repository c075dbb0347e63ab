//! The three steps of a commit that [`crate::engine::Engine::commit`] strings together: admit, encode, apply.

use crate::NewMessage;
use crate::queues::{Entry, Location};
use crate::record::{self, DeliveryState, PutPlace, QueueNumber, Record};
use crate::room::Room;
use crate::shared::{Content, State};
use crate::transaction::{Action, AttributeEdit, Receipt, Refusal, Transaction};
use crate::wal::frame;
use crate::{Lease, MessageId, QueueName};

/// A transaction that was admitted: nothing but the disk can refuse it now.
pub(crate) struct Admitted {
    // Large, and most transactions have none: a group of sends is moved around without it.
    pub(crate) settle: Option<Box<Settle>>,
    sends: Vec<Sent>,
}

pub(crate) struct Settle {
    lease: Lease,
    pub(crate) entry: Entry,
    pub(crate) effect: Effect,
}

/// What a settlement does.
pub(crate) enum Effect {
    Remove,
    Update(DeliveryState),
    Move { queue: QueueNumber, position: u64, edit: AttributeEdit, content: Option<Content>, bytes: u64 },
    Release,
}

struct Sent {
    sequence: u64,
    queue: QueueNumber,
    message: NewMessage,
    bytes: u64,
}

/// Where a put lies in the payload of the frame that is being built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    offset: u32,
    len: u32,
}

impl Settle {
    pub(crate) fn sequence(&self) -> u64 {
        self.lease.message
    }
}

impl Admitted {
    /// Queues that it puts messages into.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueNumber> {
        let moved = self.settle.iter().filter_map(|settle| match settle.effect {
            Effect::Move { queue, .. } => Some(queue),
            _ => None,
        });
        moved.chain(self.sends.iter().map(|send| send.queue))
    }
}

/// Bytes that a message counts for in its queue's limit.
pub(crate) fn message_bytes(message: &NewMessage) -> u64 {
    let texts = message.key.as_deref().map_or(0, str::len) + message.content_type.as_deref().map_or(0, str::len);
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    (message.body.len() + texts + attributes) as u64
}

/// The most bytes that a transaction may take in a frame.
pub(crate) fn bytes_max(state: &State, transaction: &Transaction) -> u64 {
    /// More than an update or a removal takes.
    const SETTLE_BYTES: u64 = 64;
    /// More than the record that introduces a queue takes.
    const QUEUE_BYTES: u64 = QueueName::BYTES_MAX as u64 + 16;
    let sends = transaction.sends.iter().map(|(_, message)| record::put_bytes_max(message) + QUEUE_BYTES);
    let settle = match &transaction.settle {
        Some((lease, Action::Move { attributes, .. })) => {
            let location = state.queues.leased(*lease).map_or(0, |entry| u64::from(entry.location.len));
            location + attributes.bytes_gained() + SETTLE_BYTES + QUEUE_BYTES
        }
        Some(_) => SETTLE_BYTES,
        None => 0,
    };
    sends.sum::<u64>() + settle
}

/// Step 1: checks one transaction against the queues and holds what it needs, or holds nothing and says why.
pub(crate) fn admit(
    state: &mut State,
    room: &mut Room,
    transaction: Transaction,
    now_ms: u64,
) -> Result<Admitted, Refusal> {
    if let Some(why) = &state.stopped {
        return Err(Refusal::Stopped(why.clone()));
    }
    let room_before = *room;
    let mut sends = Vec::with_capacity(transaction.sends.len());
    let mut admitted = Ok(());
    let mut record_bytes = 0;
    for (name, message) in transaction.sends {
        admitted = admit_send(state, room, &mut record_bytes, &name, message).map(|send| sends.push(send));
        if admitted.is_err() {
            break;
        }
    }
    let settle = admitted.and_then(|()| {
        transaction
            .settle
            .map(|(lease, action)| admit_settle(state, room, lease, action, now_ms).map(Box::new))
            .transpose()
    });
    match settle {
        Ok(settle) => Ok(Admitted { settle, sends }),
        Err(refusal) => {
            for send in sends {
                state.queues.unreserve(send.queue, send.bytes);
            }
            *room = room_before;
            Err(refusal)
        }
    }
}

fn admit_send(
    state: &mut State,
    room: &mut Room,
    record_bytes: &mut u64,
    name: &QueueName,
    message: NewMessage,
) -> Result<Sent, Refusal> {
    let queue = state.queues.declared(name).ok_or_else(|| Refusal::NoSuchQueue(name.clone()))?;
    let put_bytes = record::put_bytes_max(&message);
    let message_bytes_max = crate::room::message_bytes_max(room.file_bytes);
    if put_bytes > message_bytes_max {
        return Err(Refusal::TooLarge { bytes: put_bytes, bytes_max: message_bytes_max });
    }
    *record_bytes += put_bytes;
    // A transaction lies in one frame: all of its sends together have the limit.
    let bytes_max = crate::room::transaction_bytes_max(room.file_bytes);
    if *record_bytes > bytes_max {
        return Err(Refusal::TooLarge { bytes: *record_bytes, bytes_max });
    }
    room.take_for_sends(put_bytes)?;
    let bytes = message_bytes(&message);
    let full = |bytes_max| Refusal::QueueFull { queue: name.clone(), bytes_max };
    state.queues.reserve(queue, bytes).map_err(full)?;
    Ok(Sent { sequence: state.queues.draw_sequence(), queue, message, bytes })
}

fn admit_settle(
    state: &mut State,
    room: &mut Room,
    lease: Lease,
    action: Action,
    now_ms: u64,
) -> Result<Settle, Refusal> {
    let entry = state.queues.settle_begin(lease).ok_or(Refusal::LeaseLost)?;
    let effect = match action {
        Action::Ack => Ok(Effect::Remove),
        Action::Release => Ok(Effect::Release),
        Action::Retry { delay_ms } => Ok(Effect::Update(DeliveryState {
            attempts: entry.attempts_started(),
            due_at_ms: due_at(now_ms, delay_ms),
            first_failed_at_ms: entry.state.first_failed_at_ms_or(now_ms),
        })),
        Action::Snooze { delay_ms } => {
            // Forgotten before the record is durable: a process that dies in between must not count it.
            if let Some(slot) = state.slots.get(&lease.token) {
                state.attempts.forget(*slot);
            }
            Ok(Effect::Update(DeliveryState { due_at_ms: due_at(now_ms, delay_ms), ..entry.state }))
        }
        Action::Move { queue, attributes } => admit_move(state, room, &entry, &queue, attributes),
    };
    match effect {
        Ok(effect) => Ok(Settle { lease, entry, effect }),
        Err(refusal) => {
            state.queues.settle_abort(lease);
            Err(refusal)
        }
    }
}

fn admit_move(
    state: &mut State,
    room: &mut Room,
    entry: &Entry,
    name: &QueueName,
    edit: AttributeEdit,
) -> Result<Effect, Refusal> {
    let queue = state.queues.declared(name).ok_or_else(|| Refusal::NoSuchQueue(name.clone()))?;
    // The attributes that it gains are not known to the byte before it is read; this is never too little.
    let gained = edit.bytes_gained();
    room.take_for_move(u64::from(entry.location.len) + gained)?;
    let bytes = entry.bytes + gained;
    let full = |bytes_max| Refusal::QueueFull { queue: name.clone(), bytes_max };
    state.queues.reserve(queue, bytes).map_err(full)?;
    Ok(Effect::Move { queue, position: state.queues.draw_sequence(), edit, content: None, bytes })
}

/// Undoes an admission that nothing was written for.
pub(crate) fn withdraw(state: &mut State, admitted: Admitted) {
    for send in admitted.sends {
        state.queues.unreserve(send.queue, send.bytes);
    }
    if let Some(settle) = admitted.settle {
        if let Effect::Move { queue, bytes, .. } = settle.effect {
            state.queues.unreserve(queue, bytes);
        }
        state.queues.settle_abort(settle.lease);
    }
}

/// 0 means "at once", also where the delay is zero but the clock stands at the epoch.
fn due_at(now_ms: u64, delay_ms: u64) -> u64 {
    if delay_ms == 0 { 0 } else { now_ms.saturating_add(delay_ms) }
}

/// Step 2, first half: the records of one admitted transaction, appended to a frame that is being built. `puts` gains
/// the place of each message, in the order in which [`apply`] asks for them.
pub(crate) fn encode(admitted: &Admitted, now_ms: u64, frame: &mut Vec<u8>, puts: &mut Vec<Span>) {
    if let Some(Settle { lease, effect, .. }) = admitted.settle.as_deref() {
        match effect {
            Effect::Remove => record::encode_remove(frame, lease.message),
            Effect::Update(state) => record::encode_update(frame, lease.message, state),
            Effect::Move { queue, position, content, .. } => {
                let content = content.as_ref().expect("read before anything is encoded");
                puts.push(put(frame, &moved_place(lease.message, *queue, *position, content), &content.message));
            }
            Effect::Release => {}
        }
    }
    for send in &admitted.sends {
        puts.push(put(frame, &sent_place(send, now_ms), &send.message));
    }
}

/// Step 3: the queues see what the log now says. `payload_at` is where the group's payload lies.
pub(crate) fn apply(
    state: &mut State,
    admitted: Admitted,
    payload_at: Location,
    puts: &mut impl Iterator<Item = Span>,
    touched: &mut Vec<QueueNumber>,
    now_ms: u64,
    id: impl Fn(u64) -> MessageId,
) -> Receipt {
    let mut locate = || {
        let span = puts.next().expect("each message that was encoded has its place");
        Location { offset: payload_at.offset + span.offset, len: span.len, ..payload_at }
    };
    if let Some(settle) = &admitted.settle {
        let sequence = settle.lease.message;
        touched.push(settle.entry.queue);
        match &settle.effect {
            Effect::Remove => apply_record(state, &Record::Remove { sequence }),
            Effect::Update(update) => apply_record(state, &Record::Update { sequence, state: *update }),
            Effect::Move { queue, position, content, bytes, .. } => {
                let content = content.as_ref().expect("it was encoded");
                let place = moved_place(sequence, *queue, *position, content);
                state.queues.unreserve(*queue, *bytes);
                let bytes = message_bytes(&content.message);
                state.queues.put(&place, content.message.key.as_deref(), bytes, locate());
                touched.push(*queue);
            }
            Effect::Release => state.queues.release(sequence),
        }
        if let Some(slot) = state.slots.remove(&settle.lease.token) {
            state.attempts.give_back(slot);
        }
    }
    let mut receipt = Vec::with_capacity(admitted.sends.len());
    for send in admitted.sends {
        state.queues.unreserve(send.queue, send.bytes);
        state.queues.put(&sent_place(&send, now_ms), send.message.key.as_deref(), send.bytes, locate());
        touched.push(send.queue);
        receipt.push(id(send.sequence));
        state.cache.insert(send.sequence, Content { message: send.message, enqueued_at_ms: now_ms });
    }
    receipt
}

fn apply_record(state: &mut State, record: &Record<'_>) {
    state.queues.apply(record, Location::NONE).expect("the engine's own records are right");
}

fn sent_place(send: &Sent, now_ms: u64) -> PutPlace {
    PutPlace {
        queue: send.queue,
        sequence: send.sequence,
        position: send.sequence,
        enqueued_at_ms: now_ms,
        state: DeliveryState { due_at_ms: due_at(now_ms, send.message.delay_ms), ..DeliveryState::default() },
        holds_key: false,
    }
}

fn moved_place(sequence: u64, queue: QueueNumber, position: u64, content: &Content) -> PutPlace {
    PutPlace {
        queue,
        sequence,
        position,
        enqueued_at_ms: content.enqueued_at_ms,
        state: DeliveryState::default(),
        holds_key: false,
    }
}

fn put(frame: &mut Vec<u8>, place: &PutPlace, message: &NewMessage) -> Span {
    let start = frame.len();
    record::encode_put(frame, place, message);
    Span { offset: (start - frame::HEADER_BYTES) as u32, len: (frame.len() - start) as u32 }
}
