//! The space of drained queues is given back, whatever the others still hold.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook_store::{Action, NewMessage, Options, QueueLimits, QueueName, Store, Transaction};

const QUEUES: usize = 64;
const MESSAGES: usize = 128;
const BODY_BYTES: usize = 4 << 10;
const LEASE_MS: u64 = 60_000;

/// The shortest ring, the checkpoints' and the attempts' files, and one small segment.
const LEAN_BYTES: u64 = 9 << 20;

fn name(queue: usize) -> QueueName {
    QueueName::new(&format!("queue-{queue}")).unwrap()
}

fn open(folder: &Path) -> Store {
    let store = Store::open(folder, &Options { log_bytes_max: 16 << 20, cache_bytes_max: 1 << 20 }).unwrap();
    (0..QUEUES).for_each(|queue| store.declare(&name(queue), QueueLimits::default()));
    store
}

fn commit(store: &Store, transactions: Vec<Transaction>) {
    let (done, answered) = channel();
    store.submit_all(transactions, move |answers| done.send(answers).unwrap());
    let answers = answered.recv_timeout(Duration::from_secs(60)).expect("the committer answers");
    answers.into_iter().for_each(|answer| drop(answer.unwrap()));
}

/// Acknowledges so many messages of a queue.
fn take(store: &Store, queue: usize, messages: usize) {
    let mut left = messages;
    while left > 0 {
        let deliveries = store.claim(&name(queue), left, LEASE_MS).unwrap();
        assert!(!deliveries.is_empty(), "{left} messages of queue {queue} are missing");
        left -= deliveries.len();
        let ack = |lease| Transaction { settle: Some((lease, Action::Ack)), ..Transaction::default() };
        commit(store, deliveries.into_iter().map(|delivery| ack(delivery.lease)).collect());
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    // A file may be gone by now.
    entries.filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len())).sum()
}

/// Sixty-four queues share every file of the log, one of them is stuck with one live message in the middle: what the
/// others held is given back all the same, and the one message stays, also after a restart.
#[test]
fn one_stuck_queue_does_not_pin_the_space_of_the_others() {
    const STUCK: usize = 17;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for number in 0..MESSAGES {
        let send = |queue: usize| {
            let mut body = vec![queue as u8; BODY_BYTES];
            body[0] = number as u8;
            let message = NewMessage { body: Bytes::from(body), ..NewMessage::default() };
            Transaction { sends: [(name(queue), message)].into(), ..Transaction::default() }
        };
        commit(&store, (0..QUEUES).map(send).collect());
    }
    let full_bytes = folder_bytes(folder.path());
    assert!(full_bytes > 3 * LEAN_BYTES, "the queues must be worth giving back: {full_bytes} bytes");

    for queue in (0..QUEUES).filter(|queue| *queue != STUCK) {
        take(&store, queue, MESSAGES);
    }
    // One message is held, the ones around it go.
    take(&store, STUCK, MESSAGES / 2);
    let held = store.claim(&name(STUCK), 1, LEASE_MS).unwrap().remove(0);
    take(&store, STUCK, MESSAGES / 2 - 1);
    let drained = Instant::now();
    while folder_bytes(folder.path()) > LEAN_BYTES {
        let bytes = folder_bytes(folder.path());
        assert!(drained.elapsed() < Duration::from_secs(60), "{bytes} bytes are left for one message");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(store);

    let store = open(folder.path());
    let left = store.claim(&name(STUCK), 10, LEASE_MS).unwrap();
    assert_eq!(left.iter().map(|delivery| &delivery.message).collect::<Vec<_>>(), [&held.message]);
    assert_eq!(left[0].message.body[0] as usize, MESSAGES / 2);
}
