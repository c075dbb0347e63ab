//! Retention, through the real binary: what waits too long becomes a dead letter, and comes back by a redrive.

use serde_json::json;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::Site;

#[test]
fn what_waits_too_long_becomes_a_dead_letter() {
    let site = Site::new("[queues.reports]\nretention = \"1s\"\n[queues.patient]");
    let runtime = site.start();
    let id = site.send("reports", "old news");
    site.send("patient", "can wait");
    // The dead-letter queue is made when it is first needed.
    site.wait_empty("reports");
    let dead = site.wait_messages("reports.dead", 1).remove(0);
    assert_eq!((&dead["id"], &dead["body"]), (&json!(id), &json!("old news")));
    let facts = &dead["attributes"];
    assert_eq!(facts["linecook-reason"], "expired");
    assert_eq!(facts["linecook-source-queue"], "reports");
    assert_eq!(facts["linecook-attempts"], "0");
    assert_eq!((site.count("reports"), site.count("patient")), (0, 1));
    runtime.stop();
}

#[test]
fn what_is_redriven_waits_anew() {
    let site = Site::new("[queues.reports]\nretention = \"1s\"\n[queues.patient]");
    let runtime = site.start();
    let id = site.send("reports", "old news");
    site.wait_empty("reports");
    let dead = site.wait_messages("reports.dead", 1).remove(0);
    let redriven = site.post("/queues/reports.dead/redrive", "{\"to\":\"patient\"}");
    assert_eq!(redriven.body["moved"], 1);
    let back = site.messages("patient").remove(0);
    assert_eq!((&back["id"], &back["attributes"]), (&json!(id), &json!({})));
    // A dead letter is as old as its message, and a message that came back as old as its coming back.
    let [of_dead, of_back] = [&dead, &back].map(|message| message["enqueued_at"].as_str().unwrap());
    assert!(of_dead < of_back, "{of_dead} {of_back}");
    runtime.kill();
    let _runtime = site.start();
    assert_eq!(site.messages("patient"), [back]);
}
