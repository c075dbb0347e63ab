//! Webhooks of the real binary: requests signed as GitHub and Stripe sign them become messages, others do not.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Answer, Site};

const TABLES: &str = r#"
[queues.events]
[queues.small]
max_bytes = "2KiB"

[producers.github]
kind = "webhook"
queue = "events"
path = "/hooks/github"
signature = "github"
secret_env = ["GITHUB_SECRET_NEW", "GITHUB_SECRET"]
headers = ["X-GitHub-Event"]
attributes = { provider = "github" }

[producers.stripe]
kind = "webhook"
queue = "events"
path = "/hooks/stripe"
signature = "stripe"
secret_env = "STRIPE_SECRET"
tolerance = "1m"

[queues.payments]
subscribe = ["provider.*"]
[queues.audit]
subscribe = [">"]

[producers.fan-out]
kind = "webhook"
subject = "provider.stripe"
path = "/hooks/fan-out"
signature = "stripe"
secret_env = "STRIPE_SECRET"

[producers.open]
kind = "webhook"
queue = "small"
path = "/hooks/open"
signature = "none"
"#;

const SECRETS: [(&str, &str); 3] = [
    ("GITHUB_SECRET", "It's a Secret to Everybody"),
    ("GITHUB_SECRET_NEW", "what comes after it"),
    ("STRIPE_SECRET", "webhook_secret"),
];
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

fn post(site: &Site, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    site.request("POST", path, headers, body).unwrap()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stripe_signature(at_s: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(b"webhook_secret").unwrap();
    mac.update(format!("{at_s}.{body}").as_bytes());
    format!("t={at_s},v1={}", hexadecimal(&mac.finalize().into_bytes()))
}

fn producer(site: &Site, name: &str) -> Value {
    let answer = site.get("/producers");
    answer["producers"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

#[test]
fn signed_requests_become_messages_once_and_others_are_refused() {
    let site = Site::new(TABLES);
    let mut runtime = site.spawn_with(&SECRETS);
    site.wait_ready(&mut runtime);

    // GitHub's published example, sent twice, as GitHub does it when an answer was lost.
    let headers = [
        ("X-Hub-Signature-256", GITHUB_SIGNATURE),
        ("X-GitHub-Delivery", "72d3162e"),
        ("X-GitHub-Event", "push"),
        ("Content-Type", "text/plain"),
        ("Authorization", "not kept"),
    ];
    let first = post(&site, "/hooks/github", &headers, b"Hello, World!");
    assert_eq!(first.status, 202, "{}", first.body);
    let again = post(&site, "/hooks/github", &headers, b"Hello, World!");
    assert_eq!((again.status, &again.body["id"]), (200, &first.body["id"]));
    let messages = site.messages("events");
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!((&messages[0]["body"], &messages[0]["content_type"]), (&"Hello, World!".into(), &"text/plain".into()));
    let attributes = serde_json::json!({ "provider": "github", "x-github-event": "push" });
    assert_eq!(messages[0]["attributes"], attributes);

    // Another body, another secret, none at all.
    for (headers, body) in [
        (&headers[..], &b"Hello, World?"[..]),
        (&[("X-Hub-Signature-256", &*GITHUB_SIGNATURE.replace("e17", "e18"))][..], b"Hello, World!"),
        (&[][..], b"Hello, World!"),
    ] {
        let answer = post(&site, "/hooks/github", headers, body);
        assert_eq!((answer.status, &answer.body["type"]), (401, &"urn:linecook:problem:signature".into()));
    }

    // Stripe, now and a while ago.
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let event = r#"{"id":"evt_123","type":"customer.created"}"#;
    let headers = [("Stripe-Signature", &*stripe_signature(now_s, event)), ("Content-Type", "application/json")];
    let first = post(&site, "/hooks/stripe", &headers, event.as_bytes());
    assert_eq!(first.status, 202, "{}", first.body);
    let again = post(&site, "/hooks/stripe", &headers, event.as_bytes());
    assert_eq!((again.status, &again.body["id"]), (200, &first.body["id"]));
    let old = stripe_signature(now_s - 120, event);
    assert_eq!(post(&site, "/hooks/stripe", &[("Stripe-Signature", &old)], event.as_bytes()).status, 401);
    assert_eq!(site.count("events"), 2);

    // Into all queues that subscribe, and again into none. The name of a proxy does not matter.
    let mut headers = headers.to_vec();
    headers.push(("Host", "hooks.example"));
    let all = post(&site, "/hooks/fan-out", &headers, event.as_bytes());
    assert_eq!(all.status, 202, "{}", all.body);
    for queue in ["payments", "audit"] {
        let messages = site.messages(queue);
        assert_eq!((messages.len(), &messages[0]["id"]), (1, &all.body["ids"][queue]));
        assert_eq!(messages[0]["attributes"]["linecook-subject"], "provider.stripe");
    }
    let again = post(&site, "/hooks/fan-out", &headers, event.as_bytes());
    assert_eq!((again.status, &again.body), (200, &all.body));
    let fan_out = producer(&site, "fan-out");
    assert_eq!((&fan_out["sent"], &fan_out["duplicates"]), (&1.into(), &1.into()));
    assert_eq!((&fan_out["queue"], &fan_out["subject"]), (&Value::Null, &"provider.stripe".into()));
    // Where anybody may send anything, a web page may not.
    assert_eq!(post(&site, "/hooks/open", &[("Host", "hooks.example")], b"x").status, 403);

    // What is around it.
    let answer = site.request("GET", "/hooks/github", &[], b"").unwrap();
    assert_eq!(answer.status, 405, "{}", answer.body);
    assert_eq!(post(&site, "/hooks/nothing", &[], b"").status, 404);
    let large = vec![b'x'; (1 << 20) + 1];
    assert_eq!(post(&site, "/hooks/open", &[], &large).status, 413);
    assert_eq!(post(&site, "/hooks/open", &[], &[b'x'; 1500]).status, 202);
    let full = post(&site, "/hooks/open", &[], &[b'x'; 1500]);
    assert_eq!((full.status, &full.body["type"]), (507, &"urn:linecook:problem:queue-full".into()));

    let github = producer(&site, "github");
    assert_eq!((&github["sent"], &github["duplicates"], &github["refused"]), (&1.into(), &1.into(), &3.into()));
    assert_eq!(producer(&site, "open")["state"], "waiting");
    let table = site.run_well(&["status"]);
    assert!(table.contains("PRODUCER") && table.contains("stripe") && table.contains("is full"), "{table}");
    let ended = runtime.stop();
    for (_, secret) in SECRETS {
        assert!(!ended.stderr.contains(secret), "a secret is in the log");
    }
}

#[test]
fn the_signature_stands_in_for_a_token() {
    let token = format!("[runtime.auth.tokens.a]\nsha256 = \"{}\"\nscopes = [\"send:events\"]\n", "0".repeat(64));
    let site = Site::new(&format!("{TABLES}{token}"));
    let mut runtime = site.spawn_with(&SECRETS);
    site.wait_ready(&mut runtime);
    let github = [("X-Hub-Signature-256", GITHUB_SIGNATURE)];
    assert_eq!(post(&site, "/hooks/github", &github, b"Hello, World!").status, 202);
    assert_eq!(post(&site, "/hooks/github", &github, b"Hello").status, 401);
    assert_eq!(post(&site, "/queues/events/messages", &github, b"Hello, World!").status, 401);
    assert_eq!(site.request("GET", "/producers", &[], b"").unwrap().status, 401);
    runtime.stop();
}

#[test]
fn without_its_secret_a_webhook_is_refused_at_the_start() {
    let site = Site::new(TABLES);
    let mut command = site.command(&["run"]);
    let output = command.env_remove("GITHUB_SECRET").env_remove("STRIPE_SECRET").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("the secret `GITHUB_SECRET` is not set in the environment"), "{stderr}");
}
