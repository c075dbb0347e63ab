//! Pausing a consumer, through the real binary.

use serde_json::json;

#[path = "support/guests.rs"]
#[allow(unreachable_pub, reason = "shared with benchmarks")]
mod guests;
#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

#[test]
fn a_paused_consumer_takes_nothing_until_it_is_resumed_also_after_a_restart() {
    for batch in [1, 10] {
        let component = guests::component(if batch == 1 { "noop" } else { "noop-batch" });
        let site = Site::new(&format!(
            "[queues.jobs]\n[queues.others]\n[consumers.cook]\nqueue = \"jobs\"\ncomponent = {component:?}\n\
             max_batch_size = {batch}\nmax_batch_timeout = \"10ms\"\n\
             [consumers.other]\nqueue = \"others\"\ncomponent = {component:?}\nmax_batch_size = {batch}\n\
             max_batch_timeout = \"10ms\"\n"
        ));
        let runtime = site.start();
        site.send("jobs", "before");
        site.wait_empty("jobs");
        assert_eq!(site.run_well(&["pause", "cook"]), "paused cook\n");
        assert!(site.run_well(&["status"]).contains("paused"));
        // The puller hears of it on its own thread.
        let acked = || site.consumer("cook")["acked"].as_u64().unwrap();
        eventually("a consumer that takes nothing", || {
            let before = acked();
            site.send("jobs", "x");
            site.send("others", "x");
            site.wait_empty("others");
            when(acked() == before && site.count("jobs") > 0, "it takes messages")
        });
        let (waiting, before) = (site.count("jobs"), acked());
        site.send("jobs", "y");
        site.send("others", "y");
        site.wait_empty("others");
        assert_eq!((site.count("jobs"), acked()), (waiting + 1, before));

        runtime.kill();
        let _runtime = site.start();
        assert_eq!(site.consumer("cook")["paused"], true);
        site.send("others", "z");
        site.wait_empty("others");
        assert_eq!(site.count("jobs"), waiting + 1);
        let answer = site.post("/consumers/cook/resume", "");
        assert_eq!((answer.status, &answer.body), (200, &json!({ "name": "cook", "paused": false })));
        site.wait_empty("jobs");
        assert_eq!(site.post("/consumers/cok/pause", "").status, 404);
    }
}
