//! Folders that older versions wrote, and that every later version must open: `tests/format-1`.
//!
//! `cargo test --release -p linecook-store write_the_folder -- --ignored` writes the folder of the present format anew. That
//! is for a format that was never released; once it was, its folder stays as it is, and a new format gets one beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::ManualClock;
use crate::disk::{Disk, RealDisk};
use crate::engine::Engine;
use crate::inspect::{FileKind, Folder};
use crate::open::{self, Layout, Opened};
use crate::record::Records;
use crate::wal::file::{self, FileHeader};
use crate::wal::{Preparation, frame};
use crate::{
    Action, AttributeEdit, Delivery, HistoryMessage, HistoryRange, NewMessage, QueueLimits, QueueName, StateWrite,
    Store, Transaction,
};

const QUEUES: [&str; 7] = ["orders", "orders.dead", "keyed", "delayed", "once", "purged", "kept"];

/// The evening of 25 November 2025.
const BEGIN_MS: u64 = 1_764_100_000_000;
/// Far enough for every test to run before it.
const DUE_IN_MS: u64 = 200 * 365 * 24 * 3600 * 1000;
const FOREVER_MS: u64 = u64::MAX;

/// As small as it goes, so that a few messages come to all kinds of files.
const SMALL: Layout = Layout {
    file_bytes: 6 << 10,
    files_max: 8,
    cache_bytes_max: 0,
    attempt_slots: 16,
    chunk_bytes: 600,
    small_segment_bytes: 0,
    gap_max: 1 << 16,
    picked_max: 4,
    dedup_runs_max: 4,
    state_bytes_min: u64::MAX,
    handles_max: 2,
    checkpoint_bytes: 2048,
    preparation: Preparation::Inline,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-1")
}

fn contents_file() -> PathBuf {
    folder().with_extension("contents")
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

/// The engine without its thread, so that the same steps always write the same bytes.
struct Writer {
    engine: Engine,
    face: Store,
    clock: Arc<ManualClock>,
}

impl Writer {
    fn open(folder: &Path, layout: &Layout) -> Writer {
        let clock = Arc::new(ManualClock::new(BEGIN_MS));
        let disk = Arc::new(RealDisk::open(folder).unwrap());
        let Opened { engine, lock } = open::open(disk, layout, clock.clone(), 1).unwrap();
        let face = Store::without_committer(engine.shared.clone(), lock);
        for queue in QUEUES {
            let dedup_window_ms = if queue == "once" { FOREVER_MS } else { 0 };
            let history_ms = if queue == "kept" { FOREVER_MS } else { 0 };
            face.declare(&name(queue), QueueLimits { dedup_window_ms, history_ms, ..QueueLimits::default() });
        }
        Writer { engine, face, clock }
    }

    fn commit(&mut self, transaction: Transaction) -> crate::Receipt {
        let mut answers = Vec::new();
        self.engine.commit(&mut vec![transaction.into()], &mut answers);
        answers.pop().unwrap().unwrap()
    }

    fn send(&mut self, queue: &str, message: NewMessage) -> crate::Receipt {
        self.clock.advance(1);
        self.commit(Transaction { sends: [(name(queue), message)].into(), ..Transaction::default() })
    }

    fn claim(&self, queue: &str) -> Delivery {
        let delivery = self.face.claim(&name(queue), 1, 60_000).unwrap().remove(0);
        assert!(self.face.begin(delivery.lease));
        delivery
    }

    fn settle(&mut self, delivery: &Delivery, action: Action) {
        self.commit(Transaction { settle: Some((delivery.lease, action)), ..Transaction::default() });
    }

    /// Lets everything happen that is done between groups.
    fn keep(&mut self) {
        for _ in 0..100 {
            self.clock.advance(300);
            while self.engine.maintain() {}
        }
    }

    /// Does what the committed folder is the result of.
    fn write(&mut self) {
        for round in 0..6 {
            for at in 0..12 {
                let body = format!("order {round}.{at}: {}", "x".repeat(40 * (at % 4)));
                self.send("orders", text(&body));
                let key = format!("key-{at}");
                self.send(
                    "keyed",
                    NewMessage { key: Some(key.as_str().into()), ..text(&format!("{key} {round}.{at}")) },
                );
            }
            let attributes = vec![("kind".into(), "reminder".into()), ("größe".into(), "✓".into())];
            let delayed = NewMessage { delay_ms: DUE_IN_MS + round, attributes, ..text("later") };
            self.send("delayed", delayed);
            let once = NewMessage { idempotency_key: Some(format!("once-{round}").into()), ..binary(round as u8) };
            self.send("once", once);

            for _ in 0..4 {
                let delivery = self.claim("orders");
                self.settle(&delivery, Action::Ack);
            }
            let delivery = self.claim("orders");
            let facts = vec![("linecook-reason".into(), format!("it failed in round {round}").into())];
            let moved = Action::Move { queue: name("orders.dead"), attributes: AttributeEdit::Set(facts) };
            self.settle(&delivery, moved);
            // Its key is held back from here on.
            let delivery = self.claim("keyed");
            self.settle(&delivery, Action::Retry { delay_ms: DUE_IN_MS });
            if round == 1 {
                let delivery = self.claim("keyed");
                self.settle(&delivery, Action::Ack);
                let delivery = self.claim("orders");
                self.settle(&delivery, Action::Snooze { delay_ms: DUE_IN_MS });
            }
            let counter = StateWrite {
                space: "consumer/audit".into(),
                key: "rounds".into(),
                value: Some(Bytes::from(round.to_string())),
            };
            let of_round = StateWrite { key: format!("round-{round}").into(), ..counter.clone() };
            let before =
                StateWrite { key: format!("round-{}", round.wrapping_sub(1)).into(), value: None, ..counter.clone() };
            let state =
                vec![counter, of_round.clone(), before, StateWrite { space: "consumer/gone".into(), ..of_round }];
            self.commit(Transaction { state, ..Transaction::default() });
            self.acknowledge_kept(round);
            if round < 5 {
                self.keep();
            }
        }
        self.send("once", NewMessage { idempotency_key: Some("once-last".into()), ..text("in the log") });
        self.engine.drop_state("consumer/gone").unwrap();
        self.send("purged", text("gone"));
        let (number, below) = {
            let queues = &self.engine.shared.state().queues;
            let number = queues.known(&name("purged")).unwrap();
            (number, queues.next_position(number))
        };
        assert_eq!(self.engine.purge_step(number, below, 10).unwrap(), (1, false));
        // This attempt is running when the process ends.
        self.claim("orders");
    }

    /// Comes into the history from the same log file, and from an earlier one.
    fn acknowledge_kept(&mut self, round: u64) {
        for at in 0..4 {
            self.send("kept", text(&format!("kept {round}.{at}")));
        }
        // Most of the time some wait longer than their log file; in the end nearly all are taken.
        for _ in 0..if round == 5 { 8 } else { 3 } {
            let delivery = self.claim("kept");
            self.settle(&delivery, Action::Ack);
        }
        if round == 5 {
            let number = self.engine.shared.state().queues.known(&name("kept")).unwrap();
            self.engine.forget(&[(number, 2)]).unwrap();
        }
    }
}

fn text(body: &str) -> NewMessage {
    NewMessage {
        body: Bytes::copy_from_slice(body.as_bytes()),
        content_type: Some("text/plain".into()),
        ..NewMessage::default()
    }
}

fn binary(byte: u8) -> NewMessage {
    NewMessage { body: Bytes::from(vec![byte, 0xff, 0, 0x80]), ..NewMessage::default() }
}

/// Every message with all that is kept of it, a line each.
fn contents(face: &Store) -> String {
    let mut lines = String::new();
    for queue in QUEUES {
        for one in face.peek(&name(queue), usize::MAX).unwrap() {
            let crate::Peeked { message, state, attempts, due_at_ms } = one;
            writeln!(
                lines,
                "{queue} {} {state:?} attempts {attempts} due {due_at_ms:?} sent {} key {:?} type {:?} {:?} {}",
                message.id,
                message.enqueued_at_ms,
                message.key,
                message.content_type,
                message.attributes,
                message.body.escape_ascii()
            )
            .unwrap();
        }
    }
    for space in ["consumer/audit", "consumer/gone"] {
        for key in face.state_keys(space, None, 100).unwrap() {
            let value = face.state_get(space, &key).unwrap().unwrap();
            writeln!(lines, "state {space} {key:?} {}", value.escape_ascii()).unwrap();
        }
    }
    let range = HistoryRange { from_ms: 0, to_ms: u64::MAX, after: None, limit: usize::MAX, bytes_max: usize::MAX };
    for one in face.history(&name("kept"), &range).unwrap().messages {
        let HistoryMessage { position, message, acked_at_ms } = one;
        let body = message.body.escape_ascii();
        writeln!(lines, "history of kept: {position} {} acknowledged {acked_at_ms} {body}", message.id).unwrap();
    }
    lines
}

/// A copy that may be changed.
fn copy() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn the_folder_of_format_1_opens_with_all_that_is_in_it() {
    let expected = fs::read_to_string(contents_file()).unwrap();
    // The layout is not a part of the format.
    let large = Layout { file_bytes: 1 << 20, files_max: 6, chunk_bytes: 32 << 10, attempt_slots: 64, ..SMALL };
    for layout in [SMALL, large] {
        let copy = copy();
        let mut writer = Writer::open(copy.path(), &layout);
        assert_eq!(contents(&writer.face), expected);
        for (queue, messages) in [
            ("orders", 42),
            ("orders.dead", 6),
            ("keyed", 71),
            ("delayed", 6),
            ("once", 7),
            ("kept", 1),
            ("history", 21),
        ] {
            let counted = expected.lines().filter(|line| line.split(' ').next() == Some(queue)).count();
            assert_eq!(counted, messages, "{queue}");
        }
        // The attempt that was running counts.
        // One key was written in each round, and one stays of those that were written once.
        let state: Vec<&str> = expected.lines().filter(|line| line.starts_with("state ")).collect();
        assert_eq!(state, ["state consumer/audit \"round-5\" 5", "state consumer/audit \"rounds\" 5"]);
        let running = |line: &&str| line.starts_with("orders ") && line.contains(" Ready attempts 1 ");
        assert_eq!(expected.lines().filter(running).count(), 1);

        // A key is remembered, whether in the log or in a run, and what is new goes on after what was there.
        for (key, at) in [("once-0", 0), ("once-5", 5), ("once-last", 6)] {
            let again = NewMessage { idempotency_key: Some(key.into()), ..text("again") };
            let first = writer.face.peek(&name("once"), 100).unwrap()[at].message.id;
            assert_eq!(writer.send("once", again)[0].id, first, "{key}");
        }
        let new = writer.send("orders", text("new"))[0].id;
        assert!(!expected.contains(&new.to_string()));
        let orders = writer.face.peek(&name("orders"), 100).unwrap();
        assert_eq!(orders.last().unwrap().message.id, new);
    }
}

#[test]
fn the_folder_of_format_1_has_every_kind_of_file_and_is_healthy() {
    let report = Folder::open(&folder()).unwrap().verify().unwrap();
    assert!(report.is_healthy(), "{:#?}", report.findings);
    let count = |is: fn(&FileKind) -> bool| report.files.iter().filter(|file| is(&file.kind)).count();
    assert!(count(|kind| matches!(kind, FileKind::Segment { live: 1.., .. })) >= 5, "{:#?}", report.files);
    assert!(count(|kind| matches!(kind, FileKind::Run { .. })) >= 1, "{:#?}", report.files);
    assert!(count(|kind| matches!(kind, FileKind::History { messages: 1.., .. })) >= 2, "{:#?}", report.files);
    assert!(count(|kind| matches!(kind, FileKind::Log { records: 10.., .. })) >= 1, "{:#?}", report.files);
    assert_eq!(count(|kind| matches!(kind, FileKind::Checkpoint { generation: 1.. })), 2, "{:#?}", report.files);
    assert_eq!(count(|kind| matches!(kind, FileKind::State { keys: Some(1..) })), 1, "{:#?}", report.files);
    assert_eq!(count(|kind| matches!(kind, FileKind::Confirmed { lsn: Some(_) })), 1, "{:#?}", report.files);
    assert_eq!(count(|kind| matches!(kind, FileKind::Attempts { running: 1 })), 1, "{:#?}", report.files);
    let bytes: u64 = report.files.iter().map(|file| file.bytes).sum();
    assert!(bytes < 200 << 10, "{bytes} bytes are too many to keep");
}

#[test]
#[ignore = "writes the committed folder of the present format, and the corpus of the fuzz targets, anew"]
fn write_the_folder() {
    let _ = fs::remove_dir_all(folder());
    let mut writer = Writer::open(&folder(), &SMALL);
    writer.write();
    drop(writer);
    fs::remove_file(folder().join("lock")).unwrap();
    let copy = copy();
    let writer = Writer::open(copy.path(), &SMALL);
    fs::write(contents_file(), contents(&writer.face)).unwrap();
    drop(writer);
    write_records();
}

#[test]
#[ignore = "writes the other fuzz targets' corpus anew"]
fn write_the_inputs() {
    write_inputs();
}

/// What the fuzz targets get beside the folder: small stores in each of which there is one kind of message.
fn write_inputs() {
    const MESSAGES: usize = 9;
    const ROUNDS: u8 = 4;
    let layout = Layout { file_bytes: 2 << 10, ..SMALL };
    let message = |what: &str, at: usize| match what {
        "delayed" => NewMessage { delay_ms: DUE_IN_MS + 7 * at as u64, ..text("later") },
        "keyed" => NewMessage { key: Some(format!("key-{}", at % 2).into()), ..text("in order") },
        "once" => NewMessage { idempotency_key: Some(format!("once-{at}").into()), ..text("once") },
        "empty" => NewMessage::default(),
        "attributes" => NewMessage { attributes: vec![("größe".into(), "✓".repeat(at).into())], ..text("") },
        _ => text(&"kept ".repeat(at)),
    };
    type Is = fn(&str) -> bool;
    let is_segment: Is = |name| crate::cold::segment::id(name).is_some();
    let kinds: [(&str, Is); 7] = [
        ("frame", |name| file::slot(name).is_some()),
        ("chunk", is_segment),
        ("segment", is_segment),
        ("checkpoint", |name| name == "checkpoint-1"),
        ("history", |name| crate::history::file::id(name).is_some()),
        ("run", |name| crate::dedup::run::id(name).is_some()),
        ("state", |name| name == crate::kv::file::NAME),
    ];
    let other: [(&str, Is); 2] =
        [("attempts", |name| name == "attempts.map"), ("confirmed", |name| name == "confirmed.map")];
    for (target, _) in kinds.iter().chain(&other) {
        let _ = fs::remove_dir_all(crate::fuzz::corpus_folder(target));
        fs::create_dir_all(crate::fuzz::corpus_folder(target)).unwrap();
    }
    for what in ["delayed", "keyed", "once", "empty", "attributes", "kept"] {
        let store = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(store.path(), &layout);
        let queue = if ["once", "kept"].contains(&what) { what } else { "orders" };
        for round in 0..ROUNDS {
            let mut messages = (0..MESSAGES).map(|at| message(what, at + MESSAGES * usize::from(round)));
            messages.by_ref().for_each(|message| drop(writer.send(queue, message)));
            if what != "delayed" {
                let delivery = writer.claim(queue);
                writer.settle(&delivery, Action::Ack);
            }
            if what == "attributes" {
                let value = Some(Bytes::from(vec![round]));
                let write = StateWrite { space: "consumer/audit".into(), key: "rounds".into(), value };
                writer.commit(Transaction { state: vec![write], ..Transaction::default() });
            }
            writer.keep();
        }
        if what == "keyed" {
            writer.claim(queue);
        }
        drop(writer);
        let disk = RealDisk::open_read_only(store.path()).unwrap();
        let names = disk.list().unwrap();
        for (target, is) in kinds.iter().chain(&other) {
            // Chunks are of other segments than segments are.
            let mut found = names.iter().filter(|name| is(name));
            let found = if *target == "chunk" { found.next_back() } else { found.next() };
            let Some(name) = found else { continue };
            // Running attempts and what was confirmed are alike in all of them.
            if other.iter().any(|(other, _)| other == target) && what != "keyed" {
                continue;
            }
            let to = crate::fuzz::corpus_folder(target).join(format!("{name}~{what}"));
            fs::copy(store.path().join(name), to).unwrap();
        }
    }
    let folder = crate::fuzz::corpus_folder("folder");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    // What a fresh folder has.
    for (name, words) in [("attempts.map", 48), ("confirmed.map", crate::wal::confirmed::WORDS)] {
        fs::write(folder.join(format!("{name}~blank")), vec![0; 8 * words]).unwrap();
    }
}

/// One record of each kind, and with each field, for the fuzz target.
fn write_records() {
    let corpus = crate::fuzz::corpus_folder("record");
    let _ = fs::remove_dir_all(&corpus);
    fs::create_dir_all(&corpus).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let disk = RealDisk::open_read_only(&folder()).unwrap();
    for name in disk.list().unwrap().into_iter().filter(|name| file::slot(name).is_some()) {
        let Some(header) = FileHeader::read(&name, &*Disk::open(&disk, &name).unwrap()).unwrap() else { continue };
        let bytes = fs::read(folder().join(&name)).unwrap();
        let mut at = file::HEADER_BYTES;
        while let Some(found) = header.seal().read(&bytes, at) {
            for spanned in Records::new(found.payload) {
                let spanned = spanned.unwrap();
                let record = &found.payload[spanned.offset as usize..][..spanned.len as usize];
                // The flags of a put stand after its checksum, what happens to state after the kind.
                let flags = match record[0] {
                    3 => record[5],
                    8 => record[1],
                    _ => 0,
                };
                if seen.insert((record[0], flags)) {
                    fs::write(corpus.join(format!("{}-{flags}.record", record[0])), record).unwrap();
                }
            }
            at += frame::frame_bytes(found.payload.len());
        }
    }
}
