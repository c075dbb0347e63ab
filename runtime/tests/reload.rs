//! Hot reload under load: good and bad builds take turns while messages flow. None is lost, and none is handed to a bad
//! build.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;
#[path = "support/senders.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod senders;

use runtime::{Site, eventually, when};
use senders::Senders;

/// A consumer whose component is replaced again and again.
struct Reloaded {
    site: Arc<Site>,
    original: Vec<u8>,
    /// The builds that were taken into use, by hash.
    good: Vec<String>,
}

impl Reloaded {
    fn path(&self) -> std::path::PathBuf {
        self.site.path("consumer.wasm")
    }

    /// A build that behaves as all others, and is another one.
    fn another(&self) -> Vec<u8> {
        guests::with_custom_section(&self.original, "build", &[self.good.len() as u8])
    }

    /// As a careful build does it: the whole file at once.
    fn replace(&self, content: &[u8]) {
        fs::write(self.site.path("consumer.new"), content).unwrap();
        fs::rename(self.site.path("consumer.new"), self.path()).unwrap();
    }

    /// The build with this content must be taken into use, as the next generation.
    #[track_caller]
    fn is_taken(&mut self, content: &[u8]) {
        self.good.push(hash(content));
        eventually("the new build in force", || {
            let now = self.site.consumer("behave");
            when(now["module_hash"] == self.good[self.good.len() - 1].as_str() && now["reload_error"].is_null(), now)
        });
        self.is_in_force();
    }

    /// The newest build must be refused for this reason, and the one before stay in force.
    #[track_caller]
    fn is_refused(&self, reason: &str) {
        eventually("a reason why the build is refused", || {
            let now = self.site.consumer("behave");
            when(now["reload_error"].as_str().is_some_and(|error| error.contains(reason)), now)
        });
        self.is_in_force();
    }

    /// The last good build runs, and messages flow through it.
    #[track_caller]
    fn is_in_force(&self) {
        let before = self.site.consumer("behave");
        assert_eq!(before["state"], "running", "{before}");
        assert_eq!(before["generation"], self.good.len(), "{before}");
        assert_eq!(before["module_hash"], self.good[self.good.len() - 1].as_str(), "{before}");
        eventually("messages that flow", || {
            let now = self.site.consumer("behave");
            when(now["acked"].as_u64() > before["acked"].as_u64().map(|acked| acked + 5), now)
        });
    }
}

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Core modules and components begin alike, but for their layer.
fn is_component(wasm: &[u8]) -> bool {
    wasm[6] == 1
}

#[test]
fn builds_are_swapped_under_load_and_nothing_is_lost() {
    let seed = senders::seed();
    let original = fs::read(guests::component("behave")).unwrap();
    let site = Arc::new(Site::new(
        "[queues.work]\n[queues.audit]\n[queues.seen]\n\n[consumers.behave]\nqueue = \"work\"\n\
         component = \"consumer.wasm\"\ngrants.send = [\"audit\"]",
    ));
    fs::write(site.path("consumer.wasm"), &original).unwrap();
    let runtime = site.start();
    let senders = Senders::start(&site, "work", 2, Duration::from_millis(10), seed, |random| match random.u8(..20) {
        0 => json!({ "do": "dead-letter" }),
        _ => json!({ "do": "send", "to": "audit" }),
    });
    let mut consumer = Reloaded { site: site.clone(), original: original.clone(), good: Vec::new() };
    consumer.is_taken(&original);

    // 1: good, by rename.
    let build = consumer.another();
    consumer.replace(&build);
    consumer.is_taken(&build);

    // 2: no WebAssembly.
    fs::write(consumer.path(), "<html>404</html>").unwrap();
    consumer.is_refused("this is not WebAssembly");

    // 3: good, written in place.
    let build = consumer.another();
    fs::write(consumer.path(), &build).unwrap();
    consumer.is_taken(&build);

    // 4: a core module.
    consumer.replace(&wat::parse_str("(module)").unwrap());
    consumer.is_refused("not a component");

    // 5: a component without the handler.
    consumer.replace(&wat::parse_str("(component)").unwrap());
    consumer.is_refused("does not export");

    // 6: half of a file, as long as it takes to be noticed; then the whole.
    let build = consumer.another();
    let mut file = File::create(consumer.path()).unwrap();
    file.write_all(&build[..build.len() / 2]).unwrap();
    consumer.is_refused(if guests::WASIP1 { "it can't be made one" } else { "can't be compiled" });
    file.write_all(&build[build.len() / 2..]).unwrap();
    consumer.is_taken(&build);

    // 7: a slow writer.
    let build = consumer.another();
    let mut file = File::create(consumer.path()).unwrap();
    for part in build.chunks(build.len() / 20) {
        file.write_all(part).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    consumer.is_taken(&build);

    // 8: a component that imports what is not there.
    consumer.replace(&wat::parse_str("(component (import \"acme:things/stuff@1.0.0\" (instance)))").unwrap());
    consumer.is_refused("acme:things/stuff@1.0.0");

    // 9: deleted, and after a while made again.
    fs::remove_file(consumer.path()).unwrap();
    consumer.is_in_force();
    let build = consumer.another();
    fs::write(consumer.path(), &build).unwrap();
    consumer.is_taken(&build);

    // 10: an old build again.
    consumer.replace(&original);
    consumer.is_taken(&original);

    // 11: built for the other target (a core module instead of a component, or the other way round), and back.
    let other = fs::read(guests::for_the_other_target("behave")).unwrap();
    assert_ne!(is_component(&other), is_component(&original));
    consumer.replace(&other);
    consumer.is_taken(&other);
    let build = consumer.another();
    consumer.replace(&build);
    consumer.is_taken(&build);

    let sent = senders.finish();
    site.wait_empty("work");
    assert_eq!(sent.doubtful, 0);
    let confirmed: HashSet<_> = sent.confirmed.into_iter().collect();
    let mut handled = HashSet::new();
    for message in site.take_all("audit", "seen") {
        let audit: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
        let input = audit["input"].as_str().unwrap().to_owned();
        assert!(handled.insert(input), "{} took effect twice", audit["input"]);
    }
    // Nobody failed but those that were meant to, at their first attempt, in a good build.
    let good: BTreeSet<_> = consumer.good.iter().cloned().collect();
    let dead = site.take_all("work.dead", "seen");
    // A worker hears of what it has settled a moment after everybody can see it.
    eventually("the right counts", || {
        let now = site.consumer("behave");
        when((&now["failed"], &now["dead_lettered"]) == (&json!(dead.len()), &json!(dead.len())), now)
    });
    let given_up = dead.len();
    let mut builds = BTreeSet::new();
    for letter in dead {
        let facts = &letter["attributes"];
        assert_eq!((&facts["linecook-attempts"], &facts["linecook-reason"]), (&json!("1"), &json!("on purpose")));
        builds.insert(facts["linecook-module-hash"].as_str().unwrap().to_owned());
        handled.insert(letter["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(handled, confirmed, "the messages that were handled are those that were confirmed");
    assert!(builds.is_subset(&good), "{builds:?} are not all among {good:?}");
    println!(
        "{} messages through {} good builds, dead letters of {}",
        handled.len(),
        consumer.good.len(),
        builds.len()
    );

    // Every line of the log about a delivery names the build.
    let ended = runtime.stop();
    let lines: Vec<_> = ended.stderr.lines().filter(|line| line.contains("given up")).collect();
    assert_eq!(lines.len(), given_up);
    for line in lines {
        assert!(good.iter().any(|hash| line.contains(&hash[..12])), "{line}");
    }
}
