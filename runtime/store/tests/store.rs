//! The store as its users see it: a folder on a real disk, several threads, several lives.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use linecook_store::{
    Action, AttributeEdit, Lease, MessageId, MessageState, NewMessage, OpenError, Options, QueueLimits, QueueName,
    Receipt, Refusal, Sent, Store, Transaction,
};

const LEASE_MS: u64 = 60_000;

fn small() -> Options {
    Options { log_bytes_max: 16 << 20, cache_bytes_max: 1 << 20 }
}

fn open(folder: &Path) -> Store {
    let store = Store::open(folder, &small()).unwrap();
    for queue in ["orders", "orders.dead", "audit"] {
        store.declare(
            &name(queue),
            QueueLimits { bytes_max: 1 << 30, dedup_window_ms: 60_000, ..QueueLimits::default() },
        );
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

fn acknowledge(store: &Store, leases: &[Lease]) -> Vec<(usize, Refusal)> {
    let (done, answered) = channel();
    store.acknowledge(leases, move |refused| done.send(refused).unwrap());
    answered.recv_timeout(Duration::from_secs(60)).expect("the committer answers")
}

fn send(store: &Store, queue: &str, body: &[u8]) -> Result<MessageId, Refusal> {
    let sends = [(name(queue), message(body))].into();
    Ok(commit(store, Transaction { sends, ..Transaction::default() })?[0].id)
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
        commit(&store, Transaction { settle: Some((delivery.lease, Action::Ack)), sends, ..Transaction::default() })
            .unwrap();
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
fn acks_are_durable_each_by_itself_and_the_refused_ones_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let lost = {
        let store = open(folder.path());
        for body in ["one", "two", "three", "four"] {
            send(&store, "orders", body.as_bytes()).unwrap();
        }
        let leases: Vec<Lease> =
            store.claim(&name("orders"), 3, LEASE_MS).unwrap().iter().map(|delivery| delivery.lease).collect();
        assert!(leases.iter().all(|lease| store.begin(*lease)));
        // The second one's end is another than an ack.
        let retry = Some((leases[1], Action::Retry { delay_ms: 0 }));
        commit(&store, Transaction { settle: retry, ..Transaction::default() }).unwrap();
        assert_eq!(acknowledge(&store, &leases), [(1, Refusal::LeaseLost)]);
        assert_eq!(bodies(&store, "orders"), [&b"two"[..], b"four"]);
        assert_eq!(acknowledge(&store, &[]), []);
        store.close();
        let refused = acknowledge(&store, &leases);
        assert!(matches!(refused[..], [(0, Refusal::Stopped(_)), (1, Refusal::Stopped(_)), (2, Refusal::Stopped(_))]));
        leases[0]
    };
    let store = open(folder.path());
    assert_eq!(bodies(&store, "orders"), [&b"two"[..], b"four"]);
    assert_eq!(acknowledge(&store, &[lost]), [(0, Refusal::LeaseLost)]);
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
    assert_eq!((dead.message.id, dead.attempts, dead.state), (id, 0, MessageState::Ready));
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

/// Three times as many bytes as the log holds, over restarts, in order, with some of them retried, delayed and keyed.
#[test]
fn a_backlog_larger_than_the_log_is_kept_and_drained_in_order() {
    const MESSAGES: u32 = 3000;
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(folder.path());
        let (done, answered) = channel();
        for number in 0..MESSAGES {
            let mut body = number.to_le_bytes().to_vec();
            body.resize(16_000, number as u8);
            let mut message = message(&body);
            match number % 100 {
                7 => message.key = Some("k".into()),
                8 => message.delay_ms = 3_600_000,
                _ => {}
            }
            let done = done.clone();
            let sends = [(name("orders"), message)].into();
            store.submit(Transaction { sends, ..Transaction::default() }, move |answer| {
                done.send(answer.map(drop)).unwrap();
            });
        }
        drop(done);
        assert!(answered.iter().all(|answer| answer == Ok(())));
        // The first few fail, and are to be handled first again.
        for delivery in store.claim(&name("orders"), 10, LEASE_MS).unwrap() {
            assert!(store.begin(delivery.lease));
            let settle = Some((delivery.lease, Action::Retry { delay_ms: 0 }));
            commit(&store, Transaction { settle, ..Transaction::default() }).unwrap();
        }
    }
    let store = open(folder.path());
    let stats = store.queue(&name("orders")).unwrap();
    assert_eq!((stats.ready, stats.delayed), (u64::from(MESSAGES) * 99 / 100, u64::from(MESSAGES) / 100));
    assert_eq!(stats.bytes, 16_000 * u64::from(MESSAGES) + u64::from(MESSAGES) / 100);
    let mut handled = Vec::new();
    loop {
        let deliveries = store.claim(&name("orders"), 100, LEASE_MS).unwrap();
        if deliveries.is_empty() {
            break;
        }
        for delivery in deliveries {
            let body = &delivery.message.body;
            let number = u32::from_le_bytes(body[..4].try_into().unwrap());
            assert!(body[4..].iter().all(|byte| *byte == number as u8) && body.len() == 16_000);
            assert_eq!(delivery.attempt, if number <= 10 { 2 } else { 1 }, "message {number}");
            assert!(store.begin(delivery.lease));
            let settle = Some((delivery.lease, Action::Ack));
            commit(&store, Transaction { settle, ..Transaction::default() }).unwrap();
            handled.push(number);
        }
    }
    // A keyed message comes when the one before it is done; all others come in order.
    let plain = |handled: &[u32]| handled.iter().copied().filter(|number| number % 100 != 7).collect::<Vec<_>>();
    let keyed = handled.iter().copied().filter(|number| number % 100 == 7).collect::<Vec<_>>();
    assert_eq!(plain(&handled), plain(&(0..MESSAGES).filter(|number| number % 100 != 8).collect::<Vec<_>>()));
    assert_eq!(keyed, (0..MESSAGES).filter(|number| number % 100 == 7).collect::<Vec<_>>());
    drop(store);
    let store = open(folder.path());
    let left = store.queue(&name("orders")).unwrap();
    assert_eq!((left.ready, left.leased, left.delayed), (0, 0, u64::from(MESSAGES) / 100), "only the delayed are left");
}

#[test]
fn a_duplicate_gets_the_id_of_the_first_until_its_window_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let send = |store: &Store, queue: &str, key: &str| {
        let message = NewMessage { idempotency_key: Some(key.into()), ..message(b"once") };
        let sends = [(name(queue), message)].into();
        commit(store, Transaction { sends, ..Transaction::default() }).unwrap()[0]
    };
    let first = {
        let store = open(folder.path());
        let first = send(&store, "orders", "a");
        assert!(!first.duplicate);
        assert_eq!(send(&store, "orders", "a"), Sent { id: first.id, duplicate: true });
        assert!(!send(&store, "orders", "b").duplicate && !send(&store, "audit", "a").duplicate);
        // It is remembered beyond its acknowledgement, and with the file that it stood in long gone.
        let delivery = store.claim(&name("orders"), 1, LEASE_MS).unwrap().remove(0);
        let settle = Some((delivery.lease, Action::Ack));
        commit(&store, Transaction { settle, ..Transaction::default() }).unwrap();
        let body = vec![0; 100_000];
        for _ in 0..200 {
            let sends = [(name("audit"), message(&body))].into();
            commit(&store, Transaction { sends, ..Transaction::default() }).unwrap();
        }
        first
    };
    let store = open(folder.path());
    assert_eq!(send(&store, "orders", "a"), Sent { id: first.id, duplicate: true });
    store.declare(&name("orders"), QueueLimits { dedup_window_ms: 1, ..QueueLimits::default() });
    assert!(!send(&store, "orders", "a").duplicate, "its window is over");
}

#[test]
fn of_duplicates_that_race_one_is_taken_and_all_get_its_id() {
    const SENDERS: u64 = 8;
    const KEYS: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let race = |store: &Store| {
        // All of them send each key at about the same time, some in the same group.
        let start = std::sync::Barrier::new(SENDERS as usize);
        let sent: Vec<Vec<Sent>> = std::thread::scope(|scope| {
            let senders = (0..SENDERS).map(|_| {
                scope.spawn(|| {
                    let once = |key: u64| {
                        let message = NewMessage {
                            idempotency_key: Some(format!("{key}").into()),
                            ..message(&key.to_le_bytes())
                        };
                        start.wait();
                        let sends = [(name("orders"), message)].into();
                        commit(store, Transaction { sends, ..Transaction::default() }).unwrap()[0]
                    };
                    (0..KEYS).map(once).collect()
                })
            });
            let senders: Vec<_> = senders.collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        let of_key = |key: u64| sent.iter().map(move |of_sender: &Vec<Sent>| of_sender[key as usize]);
        let ids: Vec<MessageId> = (0..KEYS).map(|key| of_key(key).next().unwrap().id).collect();
        for key in 0..KEYS {
            assert!(of_key(key).all(|sent| sent.id == ids[key as usize]), "key {key}");
        }
        let taken = (0..KEYS).map(|key| of_key(key).filter(|sent| !sent.duplicate).count()).sum::<usize>();
        (ids, taken as u64)
    };
    let (ids, taken) = race(&open(folder.path()));
    assert_eq!(taken, KEYS);
    let store = open(folder.path());
    assert_eq!(race(&store), (ids, 0), "also after a restart");
    assert_eq!(store.queue(&name("orders")).unwrap().ready, KEYS);
}

#[test]
fn after_closing_nothing_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.close();
    assert!(matches!(send(&store, "orders", b"late"), Err(Refusal::Stopped(_))));
}

#[test]
fn a_purge_takes_away_what_was_there_and_nothing_that_comes_later() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(folder.path());
        // More than one step takes, some of it in segments and some leased.
        let (done, answered) = channel();
        for number in 0..12_000 {
            let done = done.clone();
            let message = NewMessage { delay_ms: number % 5 * 1_000_000, ..message(&[1; 2000]) };
            let sends = [(name("orders"), message)].into();
            store.submit(Transaction { sends, ..Transaction::default() }, move |answer| {
                done.send(answer.is_ok()).unwrap();
            });
        }
        drop(done);
        assert!(answered.iter().all(|taken| taken));
        send(&store, "audit", b"stays").unwrap();
        let leased = store.claim(&name("orders"), 10, LEASE_MS).unwrap();
        assert!(store.begin(leased[0].lease));

        let (done, answered) = channel();
        store.purge(&name("orders"), move |purged| done.send(purged).unwrap());
        send(&store, "orders", b"later").unwrap();
        assert_eq!(answered.recv().unwrap(), Ok(12_000));
        let settle = Some((leased[0].lease, Action::Ack));
        let late = commit(&store, Transaction { settle, ..Transaction::default() });
        assert_eq!(late, Err(Refusal::LeaseLost));
        let stats = store.queue(&name("orders")).unwrap();
        assert_eq!((stats.ready, stats.delayed, stats.leased, stats.bytes), (1, 0, 0, 5));
        store.purge(&name("nothing"), |purged| assert!(matches!(purged, Err(Refusal::NoSuchQueue(_)))));
    }
    let store = open(folder.path());
    assert_eq!(bodies(&store, "orders"), [b"later"]);
    assert_eq!(bodies(&store, "audit"), [b"stays"]);
}

/// It is done in steps, and between any two of them others have their turn.
#[test]
fn others_go_on_while_a_large_queue_is_purged() {
    const MESSAGES: u64 = 200_000;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (done, answered) = channel();
    for _ in 0..MESSAGES / 500 {
        let sends = (0..500).map(|_| (name("orders"), message(b"one of many"))).collect();
        let done = done.clone();
        store.submit(Transaction { sends, ..Transaction::default() }, move |answer| {
            done.send(answer.is_ok()).unwrap();
        });
    }
    drop(done);
    assert!(answered.iter().all(|taken| taken));

    let (done, purged) = channel();
    store.purge(&name("orders"), move |answer| done.send(answer).unwrap());
    let mut turns = 0;
    let removed = loop {
        // A message comes and goes.
        send(&store, "audit", b"meanwhile").unwrap();
        let delivery = store.claim(&name("audit"), 1, LEASE_MS).unwrap().remove(0);
        let settle = Some((delivery.lease, Action::Ack));
        commit(&store, Transaction { settle, ..Transaction::default() }).unwrap();
        match purged.try_recv() {
            Ok(answer) => break answer.unwrap(),
            Err(_) => turns += 1,
        }
    };
    assert_eq!(removed, MESSAGES);
    assert!(turns >= 10, "only {turns} messages came and went meanwhile");
}

#[test]
fn expired_messages_are_claimed_from_the_front_until_a_younger_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    send(&store, "orders", b"leased").unwrap();
    store.claim(&name("orders"), 1, LEASE_MS).unwrap();
    let sends = [(name("orders"), NewMessage { delay_ms: 1_000_000, ..message(b"delayed") })].into();
    commit(&store, Transaction { sends, ..Transaction::default() }).unwrap();
    send(&store, "orders", b"ready").unwrap();
    assert!(store.claim_expired(&name("orders"), 3_600_000, 10, LEASE_MS).unwrap().is_empty(), "all are younger");
    std::thread::sleep(Duration::from_millis(20));
    let expired = store.claim_expired(&name("orders"), 10, 10, LEASE_MS).unwrap();
    let bodies: Vec<_> = expired.iter().map(|delivery| &delivery.message.body[..]).collect();
    assert_eq!(bodies, [&b"delayed"[..], b"ready"]);
}

#[test]
fn a_retracted_queue_takes_no_sends_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = open(folder.path());
        send(&store, "orders", b"leased").unwrap();
        let leased = store.claim(&name("orders"), 1, LEASE_MS).unwrap();
        send(&store, "orders", b"waits").unwrap();
        store.retract(&name("orders"));
        store.retract(&name("audit"));
        store.retract(&name("nothing"));

        assert_eq!(send(&store, "orders", b"new"), Err(Refusal::NoSuchQueue(name("orders"))));
        let stats = store.queue(&name("orders")).unwrap();
        assert!(!stats.declared && (stats.ready, stats.leased) == (1, 1));
        assert_eq!(store.queue(&name("audit")), None, "it is empty");
        // What began before may end as it would have.
        let settle = Some((leased[0].lease, Action::Ack));
        let sends = [(name("audit"), message(b"sent with the ack"))].into();
        commit(&store, Transaction { settle, sends, ..Transaction::default() }).unwrap();
        assert!(store.queue(&name("audit")).is_some_and(|stats| !stats.declared && stats.ready == 1));
        let never = commit(&store, Transaction { sends: [(name("x"), message(b""))].into(), ..Transaction::default() });
        assert_eq!(never, Err(Refusal::NoSuchQueue(name("x"))));
    }
    // Over a restart, and when it is declared again.
    let store = Store::open(folder.path(), &small()).unwrap();
    assert!(store.queues().iter().all(|stats| !stats.declared && stats.ready == 1));
    assert_eq!(send(&store, "orders", b"new"), Err(Refusal::NoSuchQueue(name("orders"))));
    store.declare(&name("orders"), QueueLimits::default());
    send(&store, "orders", b"new").unwrap();
    assert_eq!(bodies(&store, "orders"), [&b"waits"[..], b"new"]);
}
