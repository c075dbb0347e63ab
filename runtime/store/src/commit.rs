//! The three steps of a commit that [`crate::engine::Engine::commit`] strings together: [`Admitter`], [`encode`],
//! [`Applier`].

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::NewMessage;
use crate::attempts::Slot;
use crate::dedup::{self, Dedup, KeyHash, Seen};
use crate::history::Recent;
use crate::kv::admission::{self, Admission as StateAdmission};
use crate::location::Location;
use crate::queues::Held;
use crate::record::{self, DeliveryState, KeptPlace, PutPlace, QueueNumber, StateChange};
use crate::room::Room;
use crate::shared::{Content, State, Wanted};
use crate::transaction::{Action, AttributeEdit, Job, Receipt, Refusal, Sent, Transaction};
use crate::wal::frame;
use crate::{Lease, MessageId, QueueName, StateWrite};

/// What became of the jobs of a group, in their order. Most are acks that nothing goes with: a thousand of them take the room
/// of ten transactions, so that they stay in the processor's cache until they are applied.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) ones: Vec<One>,
    /// Those that are more than an ack, or were refused, by their places among the jobs.
    pub(crate) wholes: Vec<(usize, Result<Admitted, Refusal>)>,
}

/// One job of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) enum One {
    /// An ack of a message that counts for so many bytes, and is just gone.
    Ack(u32),
    /// The next one of [`Group::wholes`].
    Whole,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.ones.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ones.len()
    }

    pub(crate) fn push(&mut self, whole: Result<Admitted, Refusal>) {
        self.wholes.push((self.ones.len(), whole));
        self.ones.push(One::Whole);
    }

    /// Transactions that were admitted, but for acks that nothing goes with.
    pub(crate) fn admitted(&self) -> impl Iterator<Item = &Admitted> {
        self.wholes.iter().filter_map(|(_, one)| one.as_ref().ok())
    }

    /// Each job with what became of it.
    pub(crate) fn each<'a>(&'a self, jobs: &'a [Job]) -> impl Iterator<Item = (&'a Job, Became<'a>)> {
        let mut wholes = self.wholes.iter();
        self.ones.iter().zip(jobs).map(move |(one, job)| match (one, job) {
            (One::Ack(bytes), Job::Ack(lease)) => (job, Became::Gone(*lease, *bytes)),
            (One::Ack(_), Job::Whole(_)) => unreachable!("only an ack is admitted as one"),
            (One::Whole, _) => match &wholes.next().expect("each of them is there").1 {
                Ok(admitted) => (job, Became::Admitted(admitted)),
                Err(refusal) => (job, Became::Refused(refusal)),
            },
        })
    }

    pub(crate) fn clear(&mut self) {
        self.ones.clear();
        self.wholes.clear();
    }
}

/// What became of one job.
pub(crate) enum Became<'a> {
    /// The message of an ack that nothing goes with is gone; it counts for so many bytes.
    Gone(Lease, u32),
    Admitted(&'a Admitted),
    Refused(&'a Refusal),
}

/// A transaction that was admitted: nothing but the disk can refuse it now.
pub(crate) struct Admitted {
    pub(crate) settle: Option<Settle>,
    /// What its messages got, in their order.
    sends: SmallVec<[Admission; 1]>,
}

pub(crate) struct Settle {
    pub(crate) lease: Lease,
    pub(crate) effect: Effect,
}

/// What a settlement does.
pub(crate) enum Effect {
    /// Of a message that counts for so many bytes.
    Remove(u32),
    /// Gone from the queue, and in its history.
    Keep(Box<Keep>),
    Update(DeliveryState),
    // Large and rare: a group of acks is moved around without it.
    Move(Box<Move>),
    Release,
}

/// An acknowledged message that its queue's history keeps.
pub(crate) struct Keep {
    pub(crate) held: Held,
    /// In the history.
    pub(crate) position: u64,
    /// If the put stands in an earlier file than the one that this goes to.
    pub(crate) content: Option<Content>,
}

/// A message that moves from queue to queue.
pub(crate) struct Move {
    pub(crate) held: Held,
    queue: QueueNumber,
    position: u64,
    pub(crate) edit: AttributeEdit,
    /// Read before anything is encoded.
    pub(crate) content: Option<Content>,
    /// Reserved in its new queue.
    bytes: u64,
}

/// What becomes of a message that is sent.
enum Admission {
    New(Placed),
    /// The sequence number of the first one.
    Duplicate(u64),
}

/// What a message that is sent got.
struct Placed {
    queue: QueueNumber,
    bytes: u32,
    position: u64,
    sequence: u64,
}

/// Where a put lies in the payload of the frame that is being built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    offset: u32,
    len: u32,
}

impl Admission {
    fn placed(&self) -> Option<&Placed> {
        match self {
            Admission::New(placed) => Some(placed),
            Admission::Duplicate(_) => None,
        }
    }
}

impl Settle {
    /// Where the message stands.
    pub(crate) fn queue(&self) -> QueueNumber {
        QueueNumber(self.lease.queue)
    }
}

impl Keep {
    /// How to read the message.
    pub(crate) fn wanted(&self, lease: Lease) -> Wanted {
        wanted(&self.held, lease)
    }

    /// As it stood in its queue.
    fn place(&self, lease: Lease) -> PutPlace {
        PutPlace {
            queue: QueueNumber(lease.queue),
            position: lease.position,
            sequence: self.held.sequence,
            enqueued_at_ms: self.held.enqueued_at_ms,
            state: DeliveryState { due_at_ms: 0, ..self.held.state },
            holds_key: false,
            idempotency: None,
        }
    }
}

fn wanted(held: &Held, lease: Lease) -> Wanted {
    let Held { sequence, location, .. } = *held;
    Wanted { queue: QueueNumber(lease.queue), position: lease.position, sequence, location }
}

impl Move {
    /// How to read the message.
    pub(crate) fn wanted(&self, lease: Lease) -> Wanted {
        wanted(&self.held, lease)
    }

    fn place(&self, now_ms: u64) -> PutPlace {
        PutPlace {
            queue: self.queue,
            position: self.position,
            sequence: self.held.sequence,
            enqueued_at_ms: if self.edit.starts_anew() { now_ms } else { self.held.enqueued_at_ms },
            state: DeliveryState::default(),
            holds_key: false,
            idempotency: None,
        }
    }

    fn message(&self) -> &NewMessage {
        &self.content.as_ref().expect("read before anything is encoded").message
    }
}

impl Admitted {
    /// Whether it delays a message from now on. A message that is sent with a delay tells itself when that was.
    pub(crate) fn delays(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| match settle.effect {
            Effect::Update(state) => state.due_at_ms != 0,
            _ => false,
        })
    }

    /// The sequence numbers of the messages that its duplicates are duplicates of.
    pub(crate) fn duplicates(&self) -> impl Iterator<Item = u64> {
        self.sends.iter().filter_map(|send| match send {
            Admission::Duplicate(first) => Some(*first),
            Admission::New(_) => None,
        })
    }

    /// Whether it sends the message with this sequence number.
    pub(crate) fn is_first(&self, sequence: u64) -> bool {
        self.sends.iter().filter_map(Admission::placed).any(|placed| placed.sequence == sequence)
    }

    /// Queues that it puts messages into.
    pub(crate) fn queues(&self) -> impl Iterator<Item = QueueNumber> {
        let moved = self.settle.iter().filter_map(|settle| match &settle.effect {
            Effect::Move(moved) => Some(moved.queue),
            _ => None,
        });
        moved.chain(self.sends.iter().filter_map(Admission::placed).map(|placed| placed.queue))
    }
}

/// Bytes that a message counts for in its queue's limit.
pub(crate) fn message_bytes(message: &NewMessage) -> u32 {
    let texts = message.key.as_deref().map_or(0, str::len) + message.content_type.as_deref().map_or(0, str::len);
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    u32::try_from(message.body.len() + texts + attributes).expect("a record is at most a part of a file")
}

/// More than an update or a removal takes in a frame.
const SETTLE_BYTES: u64 = 64;

/// The most bytes that a job may take in a frame.
pub(crate) fn bytes_max(state: &State, job: &Job) -> u64 {
    /// More than the record that introduces a queue takes.
    const QUEUE_BYTES: u64 = QueueName::BYTES_MAX as u64 + 16;
    let transaction = match job {
        Job::Ack(lease) => return ack_bytes_max(state, *lease),
        Job::Whole(transaction) => transaction,
    };
    let sends = transaction.sends.iter().map(|(_, message)| record::put_bytes_max(message) + QUEUE_BYTES);
    let settle = match &transaction.settle {
        Some((lease, Action::Move { attributes, .. })) => {
            let record_bytes = state.queues.leased_at(*lease).map_or(0, |location| u64::from(location.len));
            record_bytes + attributes.bytes_gained() + SETTLE_BYTES + QUEUE_BYTES
        }
        Some((lease, Action::Ack)) => ack_bytes_max(state, *lease),
        Some(_) => SETTLE_BYTES,
        None => 0,
    };
    sends.sum::<u64>() + settle + admission::record_bytes_max(transaction)
}

fn ack_bytes_max(state: &State, lease: Lease) -> u64 {
    match state.history.keeps(QueueNumber(lease.queue)) {
        true => state.queues.leased_at(lease).map_or(0, |location| u64::from(location.len)) + 2 * SETTLE_BYTES,
        false => SETTLE_BYTES,
    }
}

/// Step 1: checks transactions against the queues and holds what they need.
pub(crate) struct Admitter<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) room: Room,
    pub(crate) dedup: &'a mut Dedup,
    pub(crate) state_admission: &'a mut StateAdmission,
    pub(crate) store_tag: u64,
    pub(crate) now_ms: u64,
}

/// What runs remember of the idempotency keys of a transaction, by hash.
pub(crate) type Remembered = FxHashMap<KeyHash, Seen>;

impl Admitter<'_> {
    /// Admits one job, or holds nothing and says why. Its messages stay where they are; the settlement is taken
    /// out. What comes of it is put behind the others of its group.
    pub(crate) fn admit(&mut self, job: &mut Job, remembered: &Remembered, group: &mut Group) {
        if let Job::Ack(lease) = job
            && !self.state.history.keeps(QueueNumber(lease.queue))
            && self.state.stopped.is_none()
        {
            match self.state.queues.settle_begin(*lease) {
                Some(held) => group.ones.push(One::Ack(held.bytes)),
                None => group.push(Err(Refusal::LeaseLost)),
            }
            return;
        }
        // It is filled where it stays: see [`Applier::apply`].
        group.push(Ok(Admitted { settle: None, sends: SmallVec::new() }));
        let Some((_, Ok(admitted))) = group.wholes.last_mut() else { unreachable!("it has just been put there") };
        let tried = match job {
            Job::Ack(lease) => self.settle(*lease, Action::Ack, admitted).map(drop),
            Job::Whole(transaction) => self.try_admit(transaction, remembered, admitted),
        };
        if let Err(refusal) = tried {
            let Some((place, Ok(begun))) = group.wholes.pop() else { unreachable!("as above") };
            self.withdraw(begun, job.sends());
            group.wholes.push((place, Err(refusal)));
        }
    }

    /// What of it is in `admitted` already is to be withdrawn if it is refused.
    fn try_admit(
        &mut self,
        transaction: &mut Transaction,
        remembered: &Remembered,
        admitted: &mut Admitted,
    ) -> Result<(), Refusal> {
        self.check_stopped()?;
        let settles = transaction.settle.is_some();
        let mut uncounted = None;
        // As in the frame, so that positions are drawn in the order of the log.
        if let Some((lease, action)) = transaction.settle.take() {
            let is_uncounted = matches!(action, Action::Snooze { .. });
            uncounted = Some(self.settle(lease, action, admitted)?).filter(|_| is_uncounted);
        }
        let mut record_bytes = admission::record_bytes_max(transaction);
        for (name, message) in &transaction.sends {
            let admission = self.send(&mut record_bytes, settles, name, message, remembered)?;
            admitted.sends.push(admission);
        }
        // These come last, since they can't be taken back.
        if !transaction.state.is_empty() || !transaction.state_reads.is_empty() {
            self.state(transaction)?;
        }
        if let Some(slot) = uncounted {
            // Forgotten before the record is durable: a process that dies in between must not count it.
            self.state.queues.forget_attempt(slot);
        }
        Ok(())
    }

    /// Answers the slot of the lease.
    fn settle(&mut self, lease: Lease, action: Action, admitted: &mut Admitted) -> Result<Slot, Refusal> {
        self.check_stopped()?;
        let held = self.state.queues.settle_begin(lease).ok_or(Refusal::LeaseLost)?;
        let slot = held.slot;
        admitted.settle = Some(admit_settle(self.state, &self.room, held, lease, action, self.now_ms)?);
        Ok(slot)
    }

    fn check_stopped(&self) -> Result<(), Refusal> {
        self.state.stopped.as_ref().map_or(Ok(()), |why| Err(Refusal::Stopped(why.clone())))
    }

    /// What it reads and writes of durable state. On a full disk, what only takes away goes on.
    fn state(&mut self, transaction: &Transaction) -> Result<(), Refusal> {
        let bytes = admission::record_bytes_max(transaction);
        if transaction.state.iter().any(|write| write.value.is_some()) {
            self.room.check_sends(bytes)?;
        }
        self.room.check_size(bytes)?;
        self.state_admission.admit(&self.state.kv, transaction)
    }

    fn send(
        &mut self,
        record_bytes: &mut u64,
        settles: bool,
        name: &QueueName,
        message: &NewMessage,
        remembered: &Remembered,
    ) -> Result<Admission, Refusal> {
        let queues = &mut self.state.queues;
        // What began while the queue was declared may end.
        let queue = if settles { queues.known(name) } else { queues.declared(name) };
        let queue = queue.ok_or_else(|| Refusal::NoSuchQueue(name.clone()))?;
        let put_bytes = record::put_bytes_max(message);
        let message_bytes_max = crate::room::message_bytes_max(self.room.file_bytes);
        if put_bytes > message_bytes_max {
            return Err(Refusal::TooLarge { bytes: put_bytes, bytes_max: message_bytes_max });
        }
        let window_ms = queues.dedup_window_ms(queue);
        let key = idempotency(self.store_tag, queue, message).filter(|_| window_ms > 0);
        if let Some(key) = key {
            let seen = self.dedup.find_in_memory(key).or_else(|| remembered.get(&key).copied());
            if let Some(first) = seen.filter(|seen| seen.counts(self.now_ms, window_ms)) {
                return Ok(Admission::Duplicate(first.sequence));
            }
        }
        *record_bytes += put_bytes;
        // A transaction lies in one frame: all of its sends together have the limit.
        let bytes_max = crate::room::transaction_bytes_max(self.room.file_bytes);
        if *record_bytes > bytes_max {
            return Err(Refusal::TooLarge { bytes: *record_bytes, bytes_max });
        }
        self.room.check_sends(put_bytes)?;
        let bytes = message_bytes(message);
        let full = |bytes_max| Refusal::QueueFull { queue: name.clone(), bytes_max };
        queues.reserve(queue, u64::from(bytes)).map_err(full)?;
        let (position, sequence) = (queues.draw_position(queue), queues.draw_sequence());
        if let Some(key) = key {
            self.dedup.hold(key, Seen { sequence, at_ms: self.now_ms });
        }
        Ok(Admission::New(Placed { queue, bytes, position, sequence }))
    }

    /// Undoes an admission that nothing was written for.
    pub(crate) fn withdraw(&mut self, admitted: Admitted, sends: &[(QueueName, NewMessage)]) {
        let queues = &mut self.state.queues;
        for (placed, (_, message)) in admitted.sends.iter().map(Admission::placed).zip(sends) {
            let Some(placed) = placed else { continue };
            queues.unreserve(placed.queue, u64::from(placed.bytes));
            if let Some(key) = idempotency(self.store_tag, placed.queue, message) {
                self.dedup.release(key);
            }
        }
        if let Some(settle) = admitted.settle {
            if let Effect::Move(moved) = settle.effect {
                queues.unreserve(moved.queue, moved.bytes);
            }
            queues.settle_abort(settle.lease);
        }
    }
}

/// The hash of the idempotency key that a message is sent with.
pub(crate) fn idempotency(store_tag: u64, queue: QueueNumber, message: &NewMessage) -> Option<KeyHash> {
    message.idempotency_key.as_deref().map(|key| dedup::hash(store_tag, queue, key))
}

fn admit_settle(
    state: &mut State,
    room: &Room,
    held: Held,
    lease: Lease,
    action: Action,
    now_ms: u64,
) -> Result<Settle, Refusal> {
    let effect = match action {
        // How it is kept is seen to before it is encoded.
        Action::Ack if state.history.keeps(QueueNumber(lease.queue)) => {
            Ok(Effect::Keep(Box::new(Keep { held, position: 0, content: None })))
        }
        Action::Ack => Ok(Effect::Remove(held.bytes)),
        Action::Release => Ok(Effect::Release),
        Action::Retry { delay_ms } => Ok(given_back(
            &held,
            now_ms,
            DeliveryState {
                attempts: held.attempts_started,
                due_at_ms: due_at(now_ms, delay_ms),
                first_failed_at_ms: held.state.first_failed_at_ms_or(now_ms),
            },
        )),
        Action::Snooze { delay_ms } => {
            Ok(given_back(&held, now_ms, DeliveryState { due_at_ms: due_at(now_ms, delay_ms), ..held.state }))
        }
        Action::Move { queue, attributes } => admit_move(state, room, held, &queue, attributes),
    };
    let effect = effect.and_then(|effect| match effect {
        Effect::Update(_) => room.check_update().map(|()| effect),
        _ => Ok(effect),
    });
    match effect {
        Ok(effect) => Ok(Settle { lease, effect }),
        Err(refusal) => {
            state.queues.settle_abort(lease);
            Err(refusal)
        }
    }
}

fn admit_move(
    state: &mut State,
    room: &Room,
    held: Held,
    name: &QueueName,
    edit: AttributeEdit,
) -> Result<Effect, Refusal> {
    let queue = state.queues.known(name).ok_or_else(|| Refusal::NoSuchQueue(name.clone()))?;
    // The attributes that it gains are not known to the byte before it is read; this is never too little.
    let gained = edit.bytes_gained();
    room.check_move(u64::from(held.location.len) + gained)?;
    let bytes = u64::from(held.bytes) + gained;
    let full = |bytes_max| Refusal::QueueFull { queue: name.clone(), bytes_max };
    state.queues.reserve(queue, bytes).map_err(full)?;
    let position = state.queues.draw_position(queue);
    Ok(Effect::Move(Box::new(Move { held, queue, position, edit, content: None, bytes })))
}

/// What becomes of a message that is given back. What was taken because it expired may not have been due yet: it does not
/// come sooner than it was told to, so that what a segment says of it stays true. If no attempt began and it is due when it
/// was, nothing has happened to it.
fn given_back(held: &Held, now_ms: u64, mut state: DeliveryState) -> Effect {
    let was_due_at_ms = held.state.due_at_ms;
    if was_due_at_ms > now_ms {
        state.due_at_ms = state.due_at_ms.max(was_due_at_ms);
        if state.due_at_ms == was_due_at_ms && state.attempts == held.state.attempts {
            return Effect::Release;
        }
    }
    Effect::Update(state)
}

/// 0 means "at once", also where the delay is zero but the clock stands at the epoch.
fn due_at(now_ms: u64, delay_ms: u64) -> u64 {
    if delay_ms == 0 { 0 } else { now_ms.saturating_add(delay_ms) }
}

/// Step 2, first half: the record of an ack that nothing goes with.
pub(crate) fn encode_ack(lease: Lease, bytes: u32, frame: &mut Vec<u8>) {
    record::encode_remove(frame, QueueNumber(lease.queue), lease.position, bytes);
}

/// Step 2, first half: the records of one admitted job, appended to a frame that is being built. `puts` gains
/// the place of each message, in the order in which [`Applier`] asks for them.
pub(crate) fn encode(
    admitted: &Admitted,
    job: &Job,
    store_tag: u64,
    now_ms: u64,
    frame: &mut Vec<u8>,
    puts: &mut Vec<Span>,
) {
    if let Some(settle) = &admitted.settle {
        let (from, at) = (settle.queue(), settle.lease.position);
        match &settle.effect {
            Effect::Remove(bytes) => record::encode_remove(frame, from, at, *bytes),
            Effect::Keep(keep) => {
                let kept = KeptPlace { position: keep.position, acked_at_ms: now_ms };
                match &keep.content {
                    None => record::encode_keep(frame, from, at, keep.held.bytes, kept),
                    Some(content) => {
                        record::encode_remove(frame, from, at, keep.held.bytes);
                        record::encode_kept(frame, kept, |frame| {
                            puts.push(put(frame, &keep.place(settle.lease), &content.message));
                        });
                    }
                }
            }
            Effect::Update(state) => record::encode_update(frame, from, at, state),
            Effect::Move(moved) => {
                record::encode_remove(frame, from, at, moved.held.bytes);
                puts.push(put(frame, &moved.place(now_ms), moved.message()));
            }
            Effect::Release => {}
        }
    }
    let Some(Transaction { sends, state, .. }) = job.whole() else { return };
    for (placed, (_, message)) in admitted.sends.iter().map(Admission::placed).zip(sends) {
        if let Some(placed) = placed {
            let idempotency = idempotency(store_tag, placed.queue, message);
            puts.push(put(frame, &PutPlace { idempotency, ..sent_place(placed, message, now_ms) }, message));
        }
    }
    for StateWrite { space, key, value } in state {
        let change = match value {
            Some(value) => StateChange::Put { space, key, value },
            None => StateChange::Remove { space, key },
        };
        record::encode_state(frame, change);
    }
}

/// Step 3: the queues see what the log now says.
pub(crate) struct Applier<P> {
    pub(crate) store_tag: u64,
    pub(crate) now_ms: u64,
    /// Where the group's payload lies.
    pub(crate) payload_at: Location,
    /// Where its messages lie in it, in order.
    pub(crate) puts: P,
    /// The queues that it changed.
    pub(crate) touched: Vec<QueueNumber>,
}

impl<P: Iterator<Item = Span>> Applier<P> {
    /// An ack that nothing goes with.
    pub(crate) fn apply_ack(&mut self, state: &mut State, lease: Lease) {
        let from = QueueNumber(lease.queue);
        self.touch(from);
        state.queues.remove(from, lease.position);
    }

    /// One admitted job, in the order of the group. The receipt is filled where it stays: there are many, and each
    /// copy of what has just been written stalls.
    pub(crate) fn apply(
        &mut self,
        state: &mut State,
        admitted: &Admitted,
        sends: &[(QueueName, NewMessage)],
        receipt: &mut Receipt,
    ) {
        if let Some(settle) = &admitted.settle {
            self.settle(state, settle);
        }
        for (admission, (_, message)) in admitted.sends.iter().zip(sends) {
            let (sequence, duplicate) = match admission {
                Admission::Duplicate(first) => (*first, true),
                Admission::New(placed) => {
                    state.queues.unreserve(placed.queue, u64::from(placed.bytes));
                    let place = sent_place(placed, message, self.now_ms);
                    self.put(state, &place, message, placed.bytes);
                    (placed.sequence, false)
                }
            };
            receipt.push(Sent { id: MessageId::new(self.store_tag, sequence), duplicate });
        }
    }

    fn settle(&mut self, state: &mut State, settle: &Settle) {
        let (from, at) = (settle.queue(), settle.lease.position);
        self.touch(from);
        match &settle.effect {
            Effect::Remove(_) => state.queues.remove(from, at),
            Effect::Keep(keep) => {
                let kept = KeptPlace { position: keep.position, acked_at_ms: self.now_ms };
                let location = match keep.content {
                    None => keep.held.location,
                    Some(_) => self.next_put(),
                };
                let Held { sequence, bytes, .. } = keep.held;
                let recent = Recent { sequence, acked_at_ms: self.now_ms, location, bytes };
                state.history.add(from, kept, recent).expect("positions were drawn in this order");
                state.queues.remove(from, at);
            }
            Effect::Update(update) => state.queues.update(from, at, *update),
            Effect::Move(moved) => {
                state.queues.remove(from, at);
                state.queues.unreserve(moved.queue, moved.bytes);
                self.put(state, &moved.place(self.now_ms), moved.message(), message_bytes(moved.message()));
            }
            Effect::Release => state.queues.release(from, at),
        }
    }

    fn put(&mut self, state: &mut State, place: &PutPlace, message: &NewMessage, bytes: u32) {
        let location = self.next_put();
        state.queues.put(place, message.key.as_deref(), bytes, location);
        self.touch(place.queue);
    }

    /// Where the next message that was encoded lies.
    fn next_put(&mut self) -> Location {
        let span = self.puts.next().expect("each message that was encoded has its place");
        Location { offset: self.payload_at.offset + span.offset, len: span.len, ..self.payload_at }
    }

    fn touch(&mut self, queue: QueueNumber) {
        if self.touched.last() != Some(&queue) {
            self.touched.push(queue);
        }
    }
}

fn sent_place(placed: &Placed, message: &NewMessage, now_ms: u64) -> PutPlace {
    PutPlace {
        queue: placed.queue,
        position: placed.position,
        sequence: placed.sequence,
        enqueued_at_ms: now_ms,
        state: DeliveryState { due_at_ms: due_at(now_ms, message.delay_ms), ..DeliveryState::default() },
        holds_key: false,
        idempotency: None,
    }
}

fn put(frame: &mut Vec<u8>, place: &PutPlace, message: &NewMessage) -> Span {
    let start = frame.len();
    record::encode_put(frame, place, message);
    Span { offset: (start - frame::HEADER_BYTES) as u32, len: (frame.len() - start) as u32 }
}
