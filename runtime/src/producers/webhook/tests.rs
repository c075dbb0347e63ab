use std::time::Duration;

use super::*;
use crate::broker::Pending;
use crate::delivery::QueueName;
use crate::status::Board;

struct At(u64);

impl Clock for At {
    fn now_ms(&self) -> u64 {
        self.0 * 1000
    }

    fn sleep(&self, _: Duration) -> Pending<'_, ()> {
        unreachable!()
    }
}

/// From GitHub's documentation, "Testing the webhook payload validation".
const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const GITHUB_BODY: &[u8] = b"Hello, World!";
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

/// From the tests of Stripe's library for .NET (`event_test_signature.json`, `EventUtilityTest.cs`).
const STRIPE_SECRET: &str = "webhook_secret";
const STRIPE_SIGNATURE: &str = "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,\
                                v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef";
const STRIPE_SIGNED_S: u64 = 1_533_204_620;
const STRIPE_BODY: &str = r#"{
  "id": "evt_123",
  "object": "event",
  "account": "acct_123",
  "api_version": "2017-05-25",
  "created": 1533204620,
  "data": {
    "object": {
      "id": "cus_123",
      "object": "customer",
      "created": 123456789,
      "email": "test@stripe.com",
      "livemode": false,
      "metadata": {}
    }
  },
  "livemode": false,
  "pending_webhooks": 1,
  "request": {
    "id": "req_123",
    "idempotency_key": "idempotency-key-123"
  },
  "type": "customer.created"
}
"#;

fn github() -> Verifier {
    Verifier::new(&SignatureStyle::Github { secret_env: vec!["X".into()] }, &[GITHUB_SECRET], Arc::new(At(0)))
}

fn stripe(now_s: u64) -> Verifier {
    let style = SignatureStyle::Stripe { secret_env: vec!["X".into()], tolerance: Duration::from_secs(300) };
    Verifier::new(&style, &[STRIPE_SECRET], Arc::new(At(now_s)))
}

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

#[test]
fn the_published_signature_of_github_is_right_and_others_are_not() {
    let verify = |signature: &str, body: &[u8]| github().verify(&headers(&[("x-hub-signature-256", signature)]), body);
    assert_eq!(verify(GITHUB_SIGNATURE, GITHUB_BODY), Ok(()));
    assert_eq!(verify(&GITHUB_SIGNATURE.replace("757107ea", "757107EA"), GITHUB_BODY), Ok(()));
    let wrong = Err(SignatureError::Wrong("x-hub-signature-256"));
    assert_eq!(verify(GITHUB_SIGNATURE, b"Hello, World?"), wrong);
    assert_eq!(verify(GITHUB_SIGNATURE, b""), wrong);
    assert_eq!(verify(&GITHUB_SIGNATURE.replace("e17", "e18"), GITHUB_BODY), wrong);
    let malformed = Err(SignatureError::Malformed("x-hub-signature-256"));
    for text in ["", "sha256=", "sha1=757107", &GITHUB_SIGNATURE[..70], &GITHUB_SIGNATURE.replace('7', "g")] {
        assert_eq!(verify(text, GITHUB_BODY), malformed, "{text}");
    }
    let missing = github().verify(&HeaderMap::new(), GITHUB_BODY);
    assert_eq!(missing, Err(SignatureError::Missing("x-hub-signature-256")));
    let mut twice = headers(&[("x-hub-signature-256", GITHUB_SIGNATURE)]);
    twice.append("x-hub-signature-256", GITHUB_SIGNATURE.parse().unwrap());
    assert_eq!(github().verify(&twice, GITHUB_BODY), malformed);
}

#[test]
fn the_published_signature_of_stripe_is_right_within_its_tolerance() {
    let verify = |signature: &str, now_s: u64| {
        stripe(now_s).verify(&headers(&[("stripe-signature", signature)]), STRIPE_BODY.as_bytes())
    };
    for now_s in [STRIPE_SIGNED_S - 300, STRIPE_SIGNED_S, STRIPE_SIGNED_S + 300] {
        assert_eq!(verify(STRIPE_SIGNATURE, now_s), Ok(()));
    }
    for now_s in [STRIPE_SIGNED_S - 301, STRIPE_SIGNED_S + 301] {
        assert_eq!(verify(STRIPE_SIGNATURE, now_s), Err(SignatureError::Time));
    }
    let other = format!("v1={}", "0".repeat(64));
    let (time, signatures) = STRIPE_SIGNATURE.split_once(',').unwrap();
    assert_eq!(verify(&format!("{time},{other},{signatures}"), STRIPE_SIGNED_S), Ok(()), "one of several is enough");
    assert_eq!(verify(&format!("{STRIPE_SIGNATURE},v1=short"), STRIPE_SIGNED_S), Ok(()));

    let wrong = Err(SignatureError::Wrong("stripe-signature"));
    assert_eq!(verify(&format!("{time},{other}"), STRIPE_SIGNED_S), wrong);
    assert_eq!(verify(&STRIPE_SIGNATURE.replace("1533204620", "1533204621"), STRIPE_SIGNED_S), wrong);
    let malformed = Err(SignatureError::Malformed("stripe-signature"));
    for text in ["", "t=1533204620", signatures, "t=x,v1=y", "t=1,t=2", &format!("t=-1,{other}"), "v1"] {
        assert_eq!(verify(text, STRIPE_SIGNED_S), malformed, "{text}");
    }
    // The scheme for tests is not the one that counts.
    assert_eq!(verify(&STRIPE_SIGNATURE.replace("v1=", "v2="), STRIPE_SIGNED_S), malformed);
}

#[test]
fn while_a_secret_is_being_replaced_both_are_good() {
    let of_github = SignatureStyle::Github { secret_env: vec!["NEW".into(), "OLD".into()] };
    for (secrets, good) in [
        (&["new", GITHUB_SECRET][..], true),
        (&[GITHUB_SECRET, "new"], true),
        (&["new", "newer"], false),
        // Not one that is put together of two.
        (&["It's a Secret", " to Everybody"], false),
    ] {
        let verifier = Verifier::new(&of_github, secrets, Arc::new(At(0)));
        let verified = verifier.verify(&headers(&[("x-hub-signature-256", GITHUB_SIGNATURE)]), GITHUB_BODY);
        assert_eq!(verified.is_ok(), good, "{secrets:?}");
    }
    let of_stripe = SignatureStyle::Stripe { secret_env: vec!["NEW".into()], tolerance: Duration::from_secs(300) };
    let other = format!(",v1={}", "0".repeat(64));
    for (secrets, good) in [(["new", STRIPE_SECRET], true), ([STRIPE_SECRET, "new"], true), (["new", "newer"], false)] {
        let verifier = Verifier::new(&of_stripe, &secrets, Arc::new(At(STRIPE_SIGNED_S)));
        for signature in [STRIPE_SIGNATURE.to_owned(), format!("{STRIPE_SIGNATURE}{other}")] {
            let verified = verifier.verify(&headers(&[("stripe-signature", &signature)]), STRIPE_BODY.as_bytes());
            assert_eq!(verified.is_ok(), good, "{secrets:?} {signature}");
        }
    }
}

fn webhook(signature: SignatureStyle, secret: &str, clock: At) -> Webhook {
    let id = match &signature {
        SignatureStyle::Github { .. } => DeliveryId::Header(GITHUB_DELIVERY.to_owned()),
        SignatureStyle::Stripe { .. } => DeliveryId::EventId,
        SignatureStyle::None => DeliveryId::Nowhere,
    };
    let target = Target::Queue(QueueName::new("events").unwrap());
    Webhook {
        name: "hook".into(),
        target: target.clone(),
        content_type: None,
        key: None,
        attributes: vec![("from".into(), "config".into())],
        verifier: Verifier::new(&signature, &[secret], Arc::new(clock)),
        signed: signature != SignatureStyle::None,
        id,
        headers: vec!["x-github-event".into(), "from".into()],
        entry: Board::default().producers().enter("hook", "webhook", target),
    }
}

#[test]
fn a_request_becomes_a_message_with_the_headers_that_are_kept() {
    let hook = webhook(SignatureStyle::Github { secret_env: vec!["X".into()] }, GITHUB_SECRET, At(0));
    let headers = headers(&[
        ("x-hub-signature-256", GITHUB_SIGNATURE),
        ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("x-github-event", "push"),
        ("from", "request"),
        ("authorization", "Bearer secret"),
        ("content-type", "application/json"),
    ]);
    let message = hook.message(&headers, GITHUB_BODY.into()).unwrap();
    assert_eq!(message.body, GITHUB_BODY);
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.idempotency_key.as_deref(), Some("webhook/hook/72d3162e-cc78-11e3-81ab-4c9367dc0958"));
    let attributes: Vec<_> = message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(attributes, [("from", "config"), ("x-github-event", "push")]);
}

#[test]
fn a_stripe_event_is_known_by_its_id() {
    let style = SignatureStyle::Stripe { secret_env: vec!["X".into()], tolerance: Duration::from_secs(300) };
    let hook = webhook(style, STRIPE_SECRET, At(STRIPE_SIGNED_S));
    let headers = headers(&[("stripe-signature", STRIPE_SIGNATURE)]);
    let message = hook.message(&headers, STRIPE_BODY.into()).unwrap();
    assert_eq!(message.idempotency_key.as_deref(), Some("webhook/hook/evt_123"));
}

#[test]
fn a_header_that_cannot_be_kept_is_refused() {
    let hook = webhook(SignatureStyle::None, "", At(0));
    let long = "x".repeat(ATTRIBUTE_VALUE_BYTES_MAX + 1);
    let refused = hook.message(&headers(&[("x-github-event", &long)]), Bytes::new()).unwrap_err();
    assert_eq!(refused.to_string(), "the header x-github-event is too long to be kept");
}

#[test]
fn neither_key_nor_secret_is_shown() {
    assert_eq!(format!("{:?} {:?}", github(), stripe(0)), "Verifier(github) Verifier(stripe)");
}
