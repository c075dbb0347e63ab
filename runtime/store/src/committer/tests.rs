//! Whatever ends the committer: who waits is answered, and later callers are refused at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::SystemClock;
use crate::disk::{Disk, DiskError, File, FolderLock, SimulatedDisk, SimulatedFaults, Words};
use crate::open::Layout;
use crate::simulation::LAYOUT;
use crate::transaction::{Receipt, Refusal};
use crate::wal::Preparation;
use crate::{Action, NewMessage, QueueLimits, QueueName, Store, Transaction};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where the disk panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trap {
    Create,
    Sync,
    StoreWord,
}

/// A disk with a method that panics for files whose names begin so.
#[derive(Clone)]
struct TrappedDisk {
    disk: SimulatedDisk,
    trap: Arc<Mutex<Option<(Trap, &'static str)>>>,
}

impl TrappedDisk {
    fn set(&self, trap: Trap, prefix: &'static str) {
        *self.trap.lock().unwrap() = Some((trap, prefix));
    }

    fn check(&self, trap: Trap, name: &str) {
        let set = *self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!set.is_some_and(|(at, prefix)| at == trap && name.starts_with(prefix)), "a trap for {name}");
    }

    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(Trapped { name: name.to_owned(), what: file, disk: self.clone() })
    }
}

struct Trapped<T: ?Sized> {
    name: String,
    what: Arc<T>,
    disk: TrappedDisk,
}

impl Disk for TrappedDisk {
    fn lock(&self, name: &str) -> Result<Box<dyn FolderLock>, DiskError> {
        self.disk.lock(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>, DiskError> {
        self.check(Trap::Create, name);
        Ok(self.file(name, self.disk.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> Result<(), DiskError> {
        self.disk.sync_folder()
    }

    fn map_words(&self, name: &str, words: usize) -> Result<Arc<dyn Words>, DiskError> {
        let what = self.disk.map_words(name, words)?;
        Ok(Arc::new(Trapped { name: name.to_owned(), what, disk: self.clone() }))
    }
}

impl File for Trapped<dyn File> {
    fn len(&self) -> Result<u64, DiskError> {
        self.what.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.what.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), DiskError> {
        self.what.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.disk.check(Trap::Sync, &self.name);
        self.what.sync()
    }
}

impl Words for Trapped<dyn Words> {
    fn len(&self) -> usize {
        self.what.len()
    }

    fn load(&self, index: usize) -> u64 {
        self.what.load(index)
    }

    fn store(&self, index: usize, value: u64) {
        self.disk.check(Trap::StoreWord, &self.name);
        self.what.store(index, value);
    }
}

fn queue() -> QueueName {
    QueueName::new("orders").unwrap()
}

fn open() -> (TrappedDisk, Arc<Store>) {
    let disk = TrappedDisk { disk: SimulatedDisk::new(1), trap: Arc::default() };
    let layout = Layout { preparation: Preparation::Thread, ..LAYOUT };
    let store = Store::open_on(Arc::new(disk.clone()), &layout, Arc::new(SystemClock::new()), 1).unwrap();
    store.declare(&queue(), QueueLimits::default());
    (disk, Arc::new(store))
}

fn submit(store: &Store, transaction: Transaction) -> Receiver<Result<Receipt, Refusal>> {
    let (done, answered) = channel();
    store.submit(transaction, move |answer| drop(done.send(answer)));
    answered
}

fn send(store: &Store) -> Receiver<Result<Receipt, Refusal>> {
    let message = NewMessage { body: vec![b'x'; 300].into(), ..NewMessage::default() };
    submit(store, Transaction { sends: [(queue(), message)].into(), ..Transaction::default() })
}

fn answer(answered: &Receiver<Result<Receipt, Refusal>>) -> Result<Receipt, Refusal> {
    answered.recv_timeout(PATIENCE).expect("whoever waits is answered")
}

/// Sends until that is refused.
fn send_until_stopped(store: &Store) {
    let begun = Instant::now();
    loop {
        match answer(&send(store)) {
            Ok(_) => {}
            Err(Refusal::Stopped(_)) => return,
            Err(other) => panic!("{other}"),
        }
        assert!(begun.elapsed() < PATIENCE, "it goes on");
    }
}

/// What everybody sees of a store that has stopped, with the reason.
fn check_stopped(store: &Arc<Store>, why: &str) {
    let failure = store.failure().expect("it has stopped");
    assert!(failure.contains(why), "{failure}");
    let stopped = Refusal::Stopped(failure);
    assert_eq!(answer(&send(store)).unwrap_err(), stopped);
    assert_eq!(store.claim(&queue(), 1, 1000).unwrap_err(), stopped);
    let (done, answered) = channel();
    let told = done.clone();
    store.purge(&queue(), move |purged| told.send(purged.map(drop)).unwrap());
    assert_eq!(answered.recv_timeout(PATIENCE).expect("a purge is answered").unwrap_err(), stopped);
    store.drop_state("space", move |dropped| done.send(dropped).unwrap());
    assert_eq!(answered.recv_timeout(PATIENCE).expect("a drop is answered").unwrap_err(), stopped);
    store.queues();
    let (closed, is_closed) = channel();
    let closing = store.clone();
    std::thread::spawn(move || {
        closing.close();
        closed.send(()).unwrap();
    });
    is_closed.recv_timeout(PATIENCE).expect("it can be closed");
    assert_eq!(answer(&send(store)).unwrap_err(), stopped, "it still says why");
}

#[test]
fn after_a_failed_sync_whoever_waits_is_answered_and_later_callers_are_refused() {
    let (disk, store) = open();
    answer(&send(&store)).unwrap();
    disk.disk.set_faults(SimulatedFaults { fail_sync_at: Some(0), ..SimulatedFaults::default() });
    send_until_stopped(&store);
    check_stopped(&store, "could not sync simulated/wal-");
}

#[test]
fn after_a_panic_of_the_committer_whoever_waits_is_answered_and_later_callers_are_refused() {
    let (disk, store) = open();
    answer(&send(&store)).unwrap();
    disk.set(Trap::Sync, "wal-");
    send_until_stopped(&store);
    check_stopped(&store, "the committer has panicked: a trap for wal-");
}

/// Makes the committer wait until it is sent word.
fn hold_up(store: &Store) -> Sender<()> {
    let (free, held_up) = channel();
    let (reached, is_held_up) = channel();
    store.submit(Transaction::default(), move |_| {
        reached.send(()).unwrap();
        held_up.recv().unwrap();
    });
    is_held_up.recv_timeout(PATIENCE).unwrap();
    free
}

/// All of them are left while the committer is held up, so that they wait when it ends.
#[test]
fn everything_that_waits_when_the_committer_panics_is_answered() {
    let (disk, store) = open();
    let free = hold_up(&store);
    let answered = Arc::new(AtomicU64::new(0));
    let count = || {
        let answered = answered.clone();
        move || {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let sends: Vec<_> = (0..10).map(|_| send(&store)).collect();
    let all = count();
    store.submit_all(vec![Transaction::default(); 3], move |answers| {
        assert_eq!(answers.len(), 3);
        all();
    });
    let acks = count();
    store.acknowledge(&[], move |_| acks());
    let purged = count();
    store.purge(&queue(), move |answer| {
        answer.unwrap_err();
        purged();
    });
    let (dropped, is_dropped) = channel();
    let done = count();
    store.drop_state("space", move |answer| {
        answer.unwrap_err();
        done();
        dropped.send(()).unwrap();
    });
    disk.set(Trap::Sync, "wal-");
    free.send(()).unwrap();
    for one in &sends {
        assert!(matches!(answer(one), Err(Refusal::Stopped(_))));
    }
    is_dropped.recv_timeout(PATIENCE).expect("whoever waits is answered");
    assert_eq!(answered.load(Ordering::Relaxed), 4);
    check_stopped(&store, "the committer has panicked: a trap for wal-");
}

#[test]
fn a_callback_that_panics_stops_the_store_and_the_others_are_answered() {
    let (_, store) = open();
    let free = hold_up(&store);
    let before = send(&store);
    store.submit(Transaction::default(), |_| panic!("a caller's fault"));
    let after = send(&store);
    free.send(()).unwrap();
    assert!(answer(&before).is_ok());
    assert!(matches!(answer(&after), Err(Refusal::Stopped(_))));
    check_stopped(&store, "the committer has panicked: a caller's fault");
}

/// The state's lock is poisoned by it.
#[test]
fn a_panic_under_the_lock_stops_the_store_whoever_had_it() {
    let (disk, store) = open();
    answer(&send(&store)).unwrap();
    let claimed = store.claim(&queue(), 1, 60_000).unwrap().remove(0);
    disk.set(Trap::StoreWord, "attempts");
    let ack = Transaction { settle: Some((claimed.lease, Action::Ack)), ..Transaction::default() };
    assert!(matches!(answer(&submit(&store, ack)), Err(Refusal::Stopped(_))));
    check_stopped(&store, "the committer has panicked: a trap for attempts");

    let (_, store) = open();
    answer(&send(&store)).unwrap();
    let shared = store.shared.clone();
    let another = std::thread::spawn(move || {
        let _state = shared.state();
        panic!("in the middle of a change");
    });
    another.join().unwrap_err();
    send_until_stopped(&store);
    check_stopped(&store, "the committer has panicked: a thread has panicked while it changed the queues");
}

#[test]
fn a_panic_beside_the_committer_stops_the_store() {
    for (prefix, why) in [
        ("segment-", "could not keep the segments: the thread that does it has panicked: a trap for segment-"),
        ("wal-", "could not make a log file: the thread that does it has panicked"),
    ] {
        let (disk, store) = open();
        answer(&send(&store)).unwrap();
        disk.set(Trap::Create, prefix);
        send_until_stopped(&store);
        check_stopped(&store, why);
    }
}
