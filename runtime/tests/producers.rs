//! Producers in front of a broker in memory, with a clock that the test sets: sets of them that replace each other,
//! queues that are full, schedules over time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linecook::broker::{Broker, BrokerError, Pending};
use linecook::config::{self, ProducerConfig};
use linecook::delivery::{Message, QueueName};
use linecook::producers::Producers;
use linecook::producers::clock::Clock;
use linecook::status::Board;
use linecook::status::producers::{ProducerState, ProducerStatus};
use tempfile::TempDir;
use tokio::sync::Notify;

#[path = "support/fake_broker.rs"]
#[allow(dead_code, reason = "shared by several test crates")]
mod fake_broker;

use fake_broker::FakeBroker;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR_MS: u64 = 1_767_225_600_000;
const LONG: Duration = Duration::from_secs(60);

#[derive(Default)]
struct FakeClock {
    now_ms: AtomicU64,
    set: Notify,
}

impl FakeClock {
    fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
        self.set.notify_waiters();
    }
}

impl Clock for FakeClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn sleep(&self, _: Duration) -> Pending<'_, ()> {
        Box::pin(async {
            // Shortly, in case the clock was set just before.
            _ = tokio::time::timeout(Duration::from_millis(20), self.set.notified()).await;
        })
    }
}

struct Kitchen {
    folder: TempDir,
    broker: Arc<FakeBroker>,
    board: Arc<Board>,
    clock: Arc<FakeClock>,
    producers: Producers,
}

impl Kitchen {
    fn new() -> Kitchen {
        let broker = Arc::new(FakeBroker::new(&["events", "others"]));
        Kitchen::with(broker, tempfile::tempdir().unwrap(), NEW_YEAR_MS)
    }

    fn with(broker: Arc<FakeBroker>, folder: TempDir, now_ms: u64) -> Kitchen {
        let (board, clock) = (Arc::new(Board::default()), Arc::new(FakeClock::default()));
        clock.set(now_ms);
        let producers = Producers::new(broker.clone(), Arc::default(), board.clone(), clock.clone());
        Kitchen { folder, broker, board, clock, producers }
    }

    /// A new process: only what is on record is known.
    async fn restart(self, now_ms: u64) -> Kitchen {
        self.producers.stop().await;
        Kitchen::with(self.broker, self.folder, now_ms)
    }

    fn configs(&self, tables: &str) -> BTreeMap<String, ProducerConfig> {
        let text = format!("[queues.events]\n[queues.others]\n{tables}");
        config::parse(&text, &self.folder.path().join("queue.toml")).unwrap().producers
    }

    async fn apply(&self, tables: &str) {
        self.producers.apply(&self.configs(tables)).await;
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.folder.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn status(&self, name: &str) -> ProducerStatus {
        self.board.producers().all().into_iter().find(|one| one.name == name).expect("it is on the board")
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Kitchen) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = || (self.board.producers().all(), bodies(&self.broker.messages("events")));
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("not {what}: {:?}", seen()));
    }

    async fn wait_for(&self, queue: &str, expected: &[&str]) {
        self.eventually(&format!("{expected:?}"), |kitchen| bodies(&kitchen.broker.messages(queue)) == expected).await;
    }
}

fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

fn attribute<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.attributes.iter().find(|(other, _)| **other == *name).map(|(_, value)| &**value)
}

fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

const TAIL: &str = "[producers.log]\nkind = \"tail\"\nqueue = \"events\"\nfiles = \"*.log\"\n";

#[test]
fn a_producer_that_is_changed_goes_on_where_it_was() {
    run(async {
        let kitchen = Kitchen::new();
        kitchen.append("a.log", "one\ntwo\n");
        kitchen.apply(TAIL).await;
        kitchen.wait_for("events", &["one", "two"]).await;
        let sent_at = kitchen.status("log").last_sent_at;

        // The same again, beside another: it is not disturbed.
        let cron = "[producers.tick]\nkind = \"cron\"\nqueue = \"others\"\nschedule = \"0 0 1 1 *\"\n";
        kitchen.apply(&format!("{TAIL}{cron}")).await;
        assert_eq!((kitchen.status("log").sent, kitchen.status("log").last_sent_at), (2, sent_at));
        assert_eq!(kitchen.status("tick").kind, "cron");

        // Changed: what is new goes to the other queue, and nothing again.
        kitchen.append("a.log", "three\n");
        kitchen.wait_for("events", &["one", "two", "three"]).await;
        kitchen.apply(&TAIL.replace("events", "others")).await;
        kitchen.append("a.log", "four\n");
        kitchen.wait_for("others", &["four"]).await;
        assert_eq!(kitchen.board.producers().all().len(), 1, "the other one was taken out");

        // Taken out: nothing is sent. Back again: it goes on where it was.
        kitchen.apply("").await;
        kitchen.append("a.log", "five\n");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(kitchen.broker.messages("others").len(), 1);
        kitchen.apply(&TAIL.replace("events", "others")).await;
        kitchen.wait_for("others", &["four", "five"]).await;
        kitchen.producers.stop().await;
        kitchen.append("a.log", "six\n");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(kitchen.broker.messages("others").len(), 2);
    });
}

#[test]
fn a_queue_that_is_full_makes_producers_wait_and_nothing_is_skipped() {
    run(async {
        let kitchen = Kitchen::new();
        let full = BrokerError::QueueFull { queue: QueueName::new("events").unwrap(), bytes_max: 7 };
        kitchen.broker.refuse(Some(full));
        kitchen.append("a.log", "one\ntwo\n");
        kitchen.apply(TAIL).await;
        kitchen.eventually("waiting", |kitchen| kitchen.status("log").state == ProducerState::Waiting).await;
        assert_eq!(kitchen.status("log").last_error.as_deref(), Some("queue events is full (7 bytes)"));
        kitchen.append("a.log", "three\n");
        kitchen.broker.refuse(None);
        kitchen.wait_for("events", &["one", "two", "three"]).await;
        assert_eq!(kitchen.status("log").state, ProducerState::Running);

        // One that waits can be stopped.
        kitchen.broker.refuse(Some(BrokerError::StoreFull("no room".to_owned())));
        kitchen.append("a.log", "four\n");
        kitchen.eventually("waiting", |kitchen| kitchen.status("log").state == ProducerState::Waiting).await;
        tokio::time::timeout(LONG, kitchen.producers.stop()).await.unwrap();
        kitchen.broker.refuse(None);
        let kitchen = kitchen.restart(NEW_YEAR_MS).await;
        kitchen.apply(TAIL).await;
        kitchen.wait_for("events", &["one", "two", "three", "four"]).await;
        kitchen.producers.stop().await;
    });
}

fn cron(schedule: &str, catch_up: &str) -> String {
    format!(
        "[producers.tick]\nkind = \"cron\"\nqueue = \"events\"\nschedule = {schedule:?}\ncatch_up = {catch_up:?}\n\
         body = '{{\"tick\":true}}'\ncontent_type = \"application/json\"\nkey = \"k\"\nattributes = {{ a = \"b\" }}\n"
    )
}

fn times(kitchen: &Kitchen) -> Vec<String> {
    let messages = kitchen.broker.messages("events");
    messages.iter().map(|message| attribute(message, "scheduled-at").unwrap()[11..19].to_owned()).collect()
}

#[test]
fn a_schedule_runs_once_at_each_of_its_times() {
    const MINUTE: u64 = 60_000;
    run(async {
        let kitchen = Kitchen::new();
        kitchen.apply(&cron("*/10 * * * *", "all")).await;
        kitchen.eventually("started", |kitchen| kitchen.status("tick").next_run_at.is_some()).await;
        assert_eq!(kitchen.status("tick").next_run_at.as_deref(), Some("2026-01-01T00:10:00.000Z"));
        for minute in 1..=25 {
            kitchen.clock.set(NEW_YEAR_MS + minute * MINUTE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        kitchen.eventually("two runs", |kitchen| kitchen.broker.messages("events").len() == 2).await;
        let message = kitchen.broker.messages("events").remove(0);
        assert_eq!(
            (&message.body[..], message.content_type.as_deref()),
            (&b"{\"tick\":true}"[..], Some("application/json"))
        );
        assert_eq!((message.key.as_deref(), attribute(&message, "a")), (Some("k"), Some("b")));
        assert_eq!(attribute(&message, "scheduled-at"), Some("2026-01-01T00:10:00.000Z"));

        // Down for half an hour, then up at a time of the schedule.
        let kitchen = kitchen.restart(NEW_YEAR_MS + 60 * MINUTE).await;
        kitchen.apply(&cron("*/10 * * * *", "all")).await;
        let all = ["00:10:00", "00:20:00", "00:30:00", "00:40:00", "00:50:00", "01:00:00"];
        kitchen.eventually("all made up for", |kitchen| times(kitchen) == all).await;

        // The clock is set back for a moment: nothing again.
        kitchen.clock.set(NEW_YEAR_MS + 35 * MINUTE);
        tokio::time::sleep(Duration::from_millis(100)).await;
        kitchen.clock.set(NEW_YEAR_MS + 69 * MINUTE);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(times(&kitchen), all);

        // Another schedule, which has a time that was sent and times that were not its own.
        kitchen.apply(&cron("*/20 * * * *", "all")).await;
        let again = kitchen.restart(NEW_YEAR_MS + 69 * MINUTE).await;
        again.apply(&cron("* * * * *", "all")).await;
        again.eventually("started", |kitchen| kitchen.status("tick").next_run_at.is_some()).await;
        again.clock.set(NEW_YEAR_MS + 71 * MINUTE);
        again.eventually("two more", |kitchen| times(kitchen).len() == 8).await;
        assert_eq!(times(&again)[6..], ["01:10:00", "01:11:00"]);
        assert_eq!(again.status("tick").missed, 0);

        // What is not made up for is counted.
        let kitchen = again.restart(NEW_YEAR_MS + 81 * MINUTE + 500).await;
        kitchen.apply(&cron("* * * * *", "one")).await;
        kitchen.eventually("the last one", |kitchen| times(kitchen).len() == 9).await;
        assert_eq!((times(&kitchen)[8].as_str(), kitchen.status("tick").missed), ("01:21:00", 9));

        // A clock that is set back for hours was wrong before.
        kitchen.clock.set(NEW_YEAR_MS - 24 * 60 * MINUTE);
        tokio::time::sleep(Duration::from_millis(100)).await;
        kitchen.clock.set(NEW_YEAR_MS - 24 * 60 * MINUTE + MINUTE);
        kitchen.eventually("a run of the right time", |kitchen| times(kitchen).len() == 10).await;
        kitchen.producers.stop().await;
    });
}

#[test]
fn what_was_missed_may_be_left_out() {
    const MINUTE: u64 = 60_000;
    run(async {
        let kitchen = Kitchen::new();
        kitchen.apply(&cron("*/10 * * * *", "none")).await;
        kitchen.eventually("started", |kitchen| kitchen.status("tick").next_run_at.is_some()).await;
        kitchen.clock.set(NEW_YEAR_MS + 10 * MINUTE);
        kitchen.eventually("a run", |kitchen| times(kitchen) == ["00:10:00"]).await;
        // Down over four runs, then up between two.
        let kitchen = kitchen.restart(NEW_YEAR_MS + 55 * MINUTE).await;
        kitchen.apply(&cron("*/10 * * * *", "none")).await;
        kitchen.eventually("started", |kitchen| kitchen.status("tick").missed == 4).await;
        // Left out is left out: not even a restart under another `catch_up` brings it back.
        let kitchen = kitchen.restart(NEW_YEAR_MS + 56 * MINUTE).await;
        kitchen.apply(&cron("*/10 * * * *", "all")).await;
        kitchen.eventually("started", |kitchen| kitchen.status("tick").next_run_at.is_some()).await;
        kitchen.clock.set(NEW_YEAR_MS + 60 * MINUTE);
        kitchen.eventually("the next run", |kitchen| times(kitchen).len() == 2).await;
        assert_eq!((times(&kitchen)[1].as_str(), kitchen.status("tick").missed), ("01:00:00", 0));
        kitchen.producers.stop().await;
    });
}

#[test]
fn a_schedule_that_has_not_run_yet_is_on_record() {
    // So that what is missed until the next start is known.
    run(async {
        let kitchen = Kitchen::new();
        kitchen.apply(&cron("0 0 1 1 *", "one")).await;
        let state = || kitchen.broker.state("producer/tick", "position").unwrap();
        kitchen.eventually("a position", |_| state().is_some()).await;
        let position: serde_json::Value = serde_json::from_slice(&state().unwrap()).unwrap();
        assert_eq!(position["done_ms"], NEW_YEAR_MS);
        assert_eq!(position["schedule"], "0 0 1 1 *");
        kitchen.producers.stop().await;
    });
}

#[test]
fn files_that_appear_are_sent_and_moved() {
    run(async {
        let kitchen = Kitchen::new();
        let inbox = kitchen.folder.path().join("inbox");
        let tables = "[producers.inbox]\nkind = \"watch\"\nqueue = \"events\"\nfolder = \"inbox\"\nsettle = \"30ms\"\n\
                      after = \"move\"\nmove_to = \"done\"\n";
        kitchen.apply(tables).await;
        kitchen.eventually("waiting", |kitchen| kitchen.status("inbox").state == ProducerState::Waiting).await;
        assert!(kitchen.status("inbox").last_error.unwrap().contains("can't look into"));
        fs::create_dir(&inbox).unwrap();
        fs::write(inbox.join("a.txt"), "content").unwrap();
        kitchen.wait_for("events", &["content"]).await;
        let done = kitchen.folder.path().join("done/a.txt");
        kitchen.eventually("moved", |_| Path::exists(&done)).await;
        let message = kitchen.broker.messages("events").remove(0);
        assert_eq!(attribute(&message, "file-name"), Some("a.txt"));
        assert_eq!(attribute(&message, "file-size"), Some("7"));
        assert!(attribute(&message, "file-modified-at").unwrap().ends_with('Z'));
        let keys = || kitchen.broker.state_keys("producer/inbox", None, 10).unwrap();
        kitchen.eventually("forgotten", |_| keys().is_empty()).await;

        // The same name again does not overwrite what was moved.
        fs::write(inbox.join("a.txt"), "another").unwrap();
        kitchen.wait_for("events", &["content", "another"]).await;
        kitchen.eventually("moved", |_| kitchen.folder.path().join("done/a.txt.1").exists()).await;
        assert_eq!(fs::read_to_string(done).unwrap(), "content");
        kitchen.producers.stop().await;
    });
}
