//! A history that is many times the log: read page by page in order, through a restart, with a backlog that waits longer than
//! its log file, and given back when nobody wants it any more.

use std::convert::Infallible;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linecook_store::inspect::{DumpOptions, Entry, Folder, Recorded};
use linecook_store::{
    Action, HistoryRange, MessageId, NewMessage, Options, QueueLimits, QueueName, Receipt, Refusal, Store, Transaction,
};

const BODY_BYTES: usize = 1000;
const ROUNDS: usize = 60;
const ROUND_MESSAGES: usize = 500;
const LEASE_MS: u64 = 600_000;

fn name() -> QueueName {
    QueueName::new("orders").unwrap()
}

fn open(folder: &Path, history_ms: u64) -> Store {
    let store = Store::open(folder, &Options { log_bytes_max: 16 << 20, cache_bytes_max: 1 << 20 }).unwrap();
    store.declare(&name(), QueueLimits { history_ms, ..QueueLimits::default() });
    store
}

fn commit(store: &Store, transactions: Vec<Transaction>) -> Vec<Receipt> {
    let (done, answered) = channel();
    store.submit_all(transactions, move |answers| done.send(answers).unwrap());
    let answers = answered.recv_timeout(Duration::from_secs(60)).expect("the committer answers");
    answers.into_iter().map(|answer: Result<Receipt, Refusal>| answer.unwrap()).collect()
}

fn send(store: &Store, count: usize) {
    let message = || NewMessage { body: Bytes::from(vec![b'x'; BODY_BYTES]), ..NewMessage::default() };
    let one = || Transaction { sends: [(name(), message())].into(), ..Transaction::default() };
    commit(store, (0..count).map(|_| one()).collect());
}

/// Acknowledges so many messages, and adds their ids.
fn take(store: &Store, count: usize, ids: &mut Vec<MessageId>) {
    let mut left = count;
    while left > 0 {
        let deliveries = store.claim(&name(), left, LEASE_MS).unwrap();
        left -= deliveries.len();
        ids.extend(deliveries.iter().map(|delivery| delivery.message.id));
        let ack = |lease| Transaction { settle: Some((lease, Action::Ack)), ..Transaction::default() };
        commit(store, deliveries.into_iter().map(|delivery| ack(delivery.lease)).collect());
    }
}

/// The whole history, page by page.
fn read(store: &Store) -> Vec<MessageId> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let range = HistoryRange { from_ms: 0, to_ms: u64::MAX, after, limit: 700, bytes_max: 200_000 };
        let page = store.history(&name(), &range).unwrap();
        assert!(page.messages.len() <= 201, "a page has its limit");
        assert_eq!(page.unreadable, 0);
        ids.extend(page.messages.iter().map(|one| one.message.id));
        after = match page.next {
            Some(next) => Some(next),
            None => return ids,
        };
    }
}

/// History files, and what they take.
fn files(folder: &Path) -> (usize, u64) {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let histories = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".his"));
    // A file may be gone by now.
    let bytes: Vec<u64> = histories.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
    (bytes.len(), bytes.iter().sum())
}

/// What is acknowledged soon is not written once more.
#[test]
fn a_message_that_is_acknowledged_soon_is_kept_by_reference() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), u64::MAX);
    let mut acked = Vec::new();
    send(&store, 20);
    take(&store, 20, &mut acked);
    assert_eq!(read(&store), acked);
    drop(store);
    let (mut by_reference, mut whole) = (0, 0);
    let dump = Folder::open(folder.path()).unwrap().dump(&DumpOptions::default(), |entry| {
        match entry {
            Entry::Record { record: Recorded::Keep { .. }, .. } => by_reference += 1,
            Entry::Record { record: Recorded::Kept { .. }, .. } => whole += 1,
            _ => {}
        }
        Ok::<(), Infallible>(())
    });
    assert_eq!(dump.unwrap(), Ok(()));
    assert_eq!((by_reference, whole), (20, 0));
}

#[test]
fn a_history_outgrows_the_log_and_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), u64::MAX);
    let mut acked = Vec::new();
    // Some wait longer than their log file.
    send(&store, 3000);
    for _ in 0..ROUNDS {
        send(&store, ROUND_MESSAGES);
        take(&store, ROUND_MESSAGES, &mut acked);
    }
    take(&store, 1000, &mut acked);
    let stats = store.queue(&name()).unwrap();
    assert_eq!((stats.history, stats.history_given_up), (acked.len() as u64, 0));
    assert_eq!((stats.ready, stats.bytes), (2000, 2000 * BODY_BYTES as u64), "the history counts for nothing else");
    assert!(read(&store) == acked, "the order of acknowledgements");
    drop(store);

    let store = open(folder.path(), u64::MAX);
    assert!(read(&store) == acked, "the same after a restart");
    let stats = store.queue(&name()).unwrap();
    assert_eq!((stats.history, stats.ready), (acked.len() as u64, 2000));
    let (count, bytes) = files(folder.path());
    let least = (acked.len() * BODY_BYTES) as u64 / 2;
    assert!(bytes > least && count < 60, "{count} files of {bytes} bytes");

    // Nobody wants it any more.
    store.declare(&name(), QueueLimits::default());
    assert!(read(&store).is_empty());
    let begun = Instant::now();
    while files(folder.path()).0 > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?} are left", files(folder.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(store.queue(&name()).unwrap().history, 0);
}
