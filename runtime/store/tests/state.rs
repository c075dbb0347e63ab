//! Durable state on a real disk: more than the log holds, over several lives, from several threads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::mpsc::channel;

use bytes::Bytes;
use linecook_store::inspect::{DumpOptions, Entry, FileKind, Folder, Recorded, StateRecorded};
use linecook_store::{OpenError, Options, Refusal, StateRead, StateWrite, Store, Transaction};

const SPACE: &str = "consumer/counts";

fn open(folder: &Path) -> Store {
    Store::open(folder, &Options { log_bytes_max: 16 << 20, cache_bytes_max: 1 << 20 }).unwrap()
}

fn write(space: &str, key: &str, value: Option<Vec<u8>>) -> StateWrite {
    StateWrite { space: space.into(), key: key.into(), value: value.map(Bytes::from) }
}

fn commit(store: &Store, transaction: Transaction) -> Result<(), Refusal> {
    let (done, answered) = channel();
    store.submit(transaction, move |answer| done.send(answer.map(drop)).expect("somebody waits"));
    answered.recv().expect("the store answers")
}

fn put(store: &Store, state: Vec<StateWrite>) {
    commit(store, Transaction { state, ..Transaction::default() }).unwrap();
}

fn contents(store: &Store, space: &str) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut after: Option<Box<str>> = None;
    loop {
        let keys = store.state_keys(space, after.as_deref(), 50).unwrap();
        for key in &keys {
            all.insert(key.to_string(), store.state_get(space, key).unwrap().unwrap().to_vec());
        }
        match keys.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => return all,
        }
    }
}

#[test]
fn more_state_than_the_log_holds_is_there_after_each_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected = BTreeMap::new();
    for life in 0..4u32 {
        let store = open(folder.path());
        assert_eq!(contents(&store, SPACE), expected, "life {life}");
        for round in 0..300u32 {
            let mut state = Vec::new();
            for _ in 0..20 {
                let key = format!("key-{:03}", random.u32(..400));
                let value = (random.u8(..) > 40).then(|| vec![random.u8(..); random.usize(..4000)]);
                match &value {
                    Some(value) => drop(expected.insert(key.clone(), value.clone())),
                    None => drop(expected.remove(&key)),
                }
                state.push(write(SPACE, &key, value));
            }
            state.push(write("consumer/other", "round", Some(round.to_string().into_bytes())));
            put(&store, state);
        }
        assert_eq!(contents(&store, SPACE), expected, "life {life}");
        let bytes: usize = expected.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert_eq!(store.state_bytes(SPACE), bytes as u64);
        assert_eq!(contents(&store, "consumer/other")["round"], b"299");
        store.close();
        let report = Folder::open(folder.path()).unwrap().verify().unwrap();
        assert!(report.is_healthy(), "{:#?}", report.findings);
        let keys = report.files.iter().find_map(|file| match file.kind {
            FileKind::State { keys } => keys,
            _ => None,
        });
        assert!(keys > Some(100), "it must be in the file by now: {:#?}", report.files);
        // What the file has and the log says after that make it up.
        let mut dumped = BTreeMap::new();
        let mut take = |state: &StateRecorded<'_>| match (state.space, state.key, state.value) {
            (SPACE, Some(key), Some(value)) => drop(dumped.insert(key.to_owned(), value.to_vec())),
            (SPACE, Some(key), None) => drop(dumped.remove(key)),
            _ => {}
        };
        let mut is_given_up = false;
        let done = Folder::open(folder.path()).unwrap().dump(&DumpOptions::default(), |entry| {
            match &entry {
                Entry::Log { given_up, .. } => is_given_up = *given_up,
                Entry::State { state, .. } => take(state),
                Entry::Record { record: Recorded::State(state), .. } if !is_given_up => take(state),
                Entry::Finding(finding) => panic!("{finding}"),
                _ => {}
            }
            Ok::<(), Infallible>(())
        });
        done.unwrap().unwrap();
        assert_eq!(dumped, expected, "life {life}");
    }
    // What is in the file is not in the log any more.
    let file = folder.path().join("state.redb");
    std::fs::remove_file(&file).unwrap();
    let refused = Store::open(folder.path(), &Options::default()).unwrap_err();
    assert!(matches!(&refused, OpenError::Incomplete(why) if why.contains("state.redb")), "{refused}");
}

#[test]
fn a_space_is_dropped_as_a_whole_and_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put(&store, (0..500).map(|key| write(SPACE, &format!("{key}"), Some(vec![1; 100]))).collect());
    put(&store, vec![write("consumer/counts2", "k", Some(vec![2]))]);
    let (done, dropped) = channel();
    store.drop_state(SPACE, move |answer| done.send(answer).expect("somebody waits"));
    dropped.recv().unwrap().unwrap();
    assert_eq!((store.state_bytes(SPACE), contents(&store, SPACE).len()), (0, 0));
    put(&store, vec![write(SPACE, "new", Some(vec![3]))]);
    drop(store);
    let store = open(folder.path());
    assert_eq!(contents(&store, SPACE), BTreeMap::from([("new".to_owned(), vec![3])]));
    assert_eq!(contents(&store, "consumer/counts2").len(), 1);
}

#[test]
fn a_counter_is_exact_however_many_count_at_once() {
    const THREADS: u32 = 4;
    const EACH: u32 = 200;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let conflicts: u32 = std::thread::scope(|scope| {
        let count = || {
            let mut conflicts = 0;
            for _ in 0..EACH {
                loop {
                    let seen = store.state_get(SPACE, "n").unwrap();
                    let before =
                        seen.as_ref().map_or(0, |seen| std::str::from_utf8(seen).unwrap().parse::<u32>().unwrap());
                    let transaction = Transaction {
                        state: vec![write(SPACE, "n", Some((before + 1).to_string().into_bytes()))],
                        state_reads: vec![StateRead { space: SPACE.into(), key: "n".into(), seen }],
                        ..Transaction::default()
                    };
                    match commit(&store, transaction) {
                        Ok(()) => break,
                        Err(Refusal::StateChanged { .. }) => conflicts += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            conflicts
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(contents(&store, SPACE)["n"], (THREADS * EACH).to_string().into_bytes(), "{conflicts} conflicts");
}

#[test]
fn limits_of_keys_values_and_spaces_hold() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let put = |write| commit(&store, Transaction { state: vec![write], ..Transaction::default() });
    assert!(put(write(SPACE, &"k".repeat(512), Some(vec![1]))).is_ok());
    for key in [String::new(), "k".repeat(513)] {
        assert!(matches!(put(write(SPACE, &key, Some(vec![1]))), Err(Refusal::StateKey { .. })));
    }
    assert!(put(write(SPACE, "large", Some(vec![1; (256 << 10) - 400]))).is_ok());
    assert!(matches!(put(write(SPACE, "large", Some(vec![1; (1 << 20) + 1]))), Err(Refusal::TooLarge { .. })));
    store.limit_state(SPACE, 1 << 20);
    let mut refused = None;
    for at in 0..10 {
        refused = refused.or(put(write(SPACE, &format!("{at}"), Some(vec![1; 200 << 10]))).err());
    }
    let why = refused.expect("it is full").to_string();
    assert!(why.contains(SPACE) && why.contains("1048576"), "{why}");
    assert!(store.state_bytes(SPACE) <= 1 << 20);
    put(write(SPACE, "large", None)).unwrap();
    put(write(SPACE, "9", Some(vec![1; 100 << 10]))).unwrap();
}

#[test]
fn the_file_of_a_large_state_gets_small_again_when_the_state_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let file_bytes = || std::fs::metadata(folder.path().join("state.redb")).map_or(0, |file| file.len());
    // More than the log holds, so that it comes into the file.
    for round in 0..200u32 {
        let keys = (0..2).map(|key| write(SPACE, &format!("{round}-{key}"), Some(vec![7; 100_000])));
        put(&store, keys.collect());
    }
    put(&store, vec![write("consumer/small", "k", Some(vec![1]))]);
    let wait_for = |what: &str, done: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !done() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{what}: {} bytes", file_bytes());
            // Whatever is written turns the log's ring.
            put(&store, (0..2).map(|key| write("consumer/busy", &format!("{key}"), Some(vec![0; 100_000]))).collect());
        }
    };
    wait_for("it has grown", &|| file_bytes() > 20 << 20);
    let (done, dropped) = channel();
    store.drop_state(SPACE, move |answer| done.send(answer).expect("somebody waits"));
    dropped.recv().unwrap().unwrap();
    wait_for("it is small again", &|| file_bytes() < 4 << 20);
    assert_eq!(contents(&store, "consumer/small")["k"], [1]);
    drop(store);
    let report = Folder::open(folder.path()).unwrap().verify().unwrap();
    assert!(report.is_healthy(), "{:#?}", report.findings);
    let store = open(folder.path());
    assert_eq!((contents(&store, SPACE).len(), contents(&store, "consumer/busy").len()), (0, 2));
    assert_eq!(contents(&store, "consumer/small")["k"], [1]);
}
