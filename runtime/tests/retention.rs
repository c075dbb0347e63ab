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
