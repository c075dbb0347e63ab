//! The store as its users see it: a folder on a real disk, several threads, several lives.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use linecook_store::{
    Action, AttributeEdit, MessageId, NewMessage, OpenError, Options, QueueName, Receipt, Refusal, State, Store,
    Transaction,
};

const LEASE_MS: u64 = 60_000;

fn small() -> Options {
    Options { log_bytes_max: 16 << 20, cache_bytes_max: 1 << 20 }
}

fn open(folder: &Path) -> Store {
    let store = Store::open(folder, &small()).unwrap();
    for queue in ["orders", "orders.dead", "audit"] {
        store.declare(&name(queue), 1 << 30);
    }
    store
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

fn message(body: &[u8]) -> NewMessage {
    NewMessage { body: Bytes::copy_from_slice(body), ..NewMessage::default() }
}

fn commit(store: &Store, transaction: Transaction) -> Result<Receipt, Refusal> {
    let (done, answered) = channel();
    store.submit(transaction, move |answer| done.send(answer).unwrap());
    answered.recv_timeout(Duration::from_secs(60)).expect("the committer answers")
}

fn send(store: &Store, queue: &str, body: &[u8]) -> Result<MessageId, Refusal> {
    let sends = [(name(queue), message(body))].into();
    Ok(commit(store, Transaction { settle: None, sends })?[0])
}

fn bodies(store: &Store, queue: &str) -> Vec<Vec<u8>> {
    store.peek(&name(queue), 1000).unwrap().into_iter().map(|one| one.message.body.to_vec()).collect()
}

#[test]
fn messages_acks_and_sends_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<MessageId> = {
        let store = open(folder.path());
        let ids = ["one", "two", "three"].map(|body| send(&store, "orders", body.as_bytes()).unwrap()).into();
        let delivery = store.claim(&name("orders"), 1, LEASE_MS).unwrap().remove(0);
        assert!(store.begin(delivery.lease));
        let sends = [(name("audit"), message(b"done"))].into();
        commit(&store, Transaction { settle: Some((delivery.lease, Action::Ack)), sends }).unwrap();
        ids
    };
    let store = open(folder.path());
    let left = store.peek(&name("orders"), 10).unwrap();
    assert_eq!(left.iter().map(|one| one.message.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(bodies(&store, "audit"), [b"done"]);
    let next = send(&store, "orders", b"four").unwrap();
    assert!(!ids.contains(&next) && next > ids[2], "ids are never reused");
}

#[test]
fn a_lease_that_was_settled_or_ran_out_is_worth_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    send(&store, "orders", b"one").unwrap();
    let first = store.claim(&name("orders"), 1, 1).unwrap().remove(0);
    // The lease is over after a millisecond; the committer gives the message back.
    let second = loop {
        match store.claim(&name("orders"), 1, LEASE_MS).unwrap().pop() {
            Some(delivery) => break delivery,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert_eq!(second.attempt, 1, "the first attempt never began");
    assert!(!store.begin(first.lease));
    let ack = |lease| Transaction { settle: Some((lease, Action::Ack)), ..Transaction::default() };
    assert_eq!(commit(&store, ack(first.lease)), Err(Refusal::LeaseLost));
    assert_eq!(commit(&store, ack(second.lease)), Ok(Receipt::new()));
    assert_eq!(commit(&store, ack(second.lease)), Err(Refusal::LeaseLost));
    assert!(bodies(&store, "orders").is_empty());
}

#[test]
fn a_dead_letter_keeps_its_id_and_gains_facts_until_it_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let id = send(&store, "orders", b"poison").unwrap();
    let settle = |queue: &str, action| {
        let delivery = store.claim(&name(queue), 1, LEASE_MS).unwrap().remove(0);
        assert!(store.begin(delivery.lease));
        commit(&store, Transaction { settle: Some((delivery.lease, action)), ..Transaction::default() }).unwrap();
    };
    let facts = vec![("linecook-reason".into(), "it can't be parsed".into())];
    settle("orders", Action::Move { queue: name("orders.dead"), attributes: AttributeEdit::Set(facts) });
    let dead = store.peek(&name("orders.dead"), 1).unwrap().remove(0);
    assert_eq!((dead.message.id, dead.attempts, dead.state), (id, 0, State::Ready));
    assert_eq!(dead.message.attributes, [("linecook-reason".into(), "it can't be parsed".into())]);
    settle("orders.dead", Action::Move { queue: name("orders"), attributes: AttributeEdit::StripReserved });
    let back = store.peek(&name("orders"), 1).unwrap().remove(0);
    assert_eq!((back.message.id, back.message.attributes.len()), (id, 0));
}

#[test]
fn a_folder_is_opened_once_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = Store::open(folder.path(), &small()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    store.close();
    Store::open(folder.path(), &small()).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let path = folder.path().join("wal-0001.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..508]);
    bytes[508..512].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(folder.path(), &small()).unwrap_err().to_string();
    assert!(error.contains("wal-0001.log") && error.contains("format 2"), "{error}");
}

#[test]
fn a_log_full_of_live_messages_refuses_sends_and_takes_acks() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let body = vec![7; 200_000];
    let mut sent = 0;
    let refusal = loop {
        match send(&store, "orders", &body) {
            Ok(_) => sent += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(matches!(refusal, Refusal::LogFull { .. }), "{refusal}");
    assert!(sent > 30, "only {sent} messages of 200 kB fitted into 16 MiB");
    // Whatever was confirmed can be handled, over and over, and then there is room again.
    for round in 0..3 {
        let mut handled = 0;
        for delivery in store.claim(&name("orders"), usize::MAX, LEASE_MS).unwrap() {
            assert!(store.begin(delivery.lease));
            let action = if round == 2 { Action::Ack } else { Action::Retry { delay_ms: 0 } };
            commit(&store, Transaction { settle: Some((delivery.lease, action)), ..Transaction::default() }).unwrap();
            handled += 1;
        }
        assert_eq!(handled, sent);
    }
    send(&store, "orders", &body).unwrap();
}

#[test]
fn after_closing_nothing_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.close();
    assert!(matches!(send(&store, "orders", b"late"), Err(Refusal::Stopped(_))));
}
