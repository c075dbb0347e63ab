//! Charging an order at a server over HTTP.

use std::time::Duration;

use linecook_sdk::{Message, Outcome, http};
use serde::Deserialize;
use serde_json::json;

use crate::order::Order;

/// A server that takes longer is asked again later.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the server answers.
#[derive(Deserialize)]
struct Charge {
    reference: String,
}

/// Charges an order. The server is asked again for the same order if anything goes wrong on the way, so it gets the order's
/// number as the idempotency key. It declines by 402.
pub(crate) fn handle(message: &Message, url: &str) -> Outcome {
    let order = Order::of(message)?;
    let response = http::post(url)
        .header("idempotency-key", &order.order)
        .json(&json!({ "order": order.order, "cents": order.cents }))
        .timeout(TIMEOUT)
        .send()?;
    if response.status == 402 {
        return Ok(order.tell("declined", &[])?);
    }
    let charge: Charge = response.error_for_status()?.json()?;
    Ok(order.tell("paid", &[("reference", &charge.reference)])?)
}

#[cfg(test)]
mod tests {
    use linecook_sdk::Failure;
    use linecook_sdk::testing::{self, Answer, Run, Web};

    use super::*;
    use crate::order::tests::{event, soup};

    const URL: &str = "https://pay.example/charges";

    fn pay(web: &Web) -> Run {
        testing::http(web).run(|message| handle(&message, URL), testing::json(&soup()))
    }

    #[test]
    fn a_charge_is_asked_for_once_and_told() {
        let web = testing::web().on("POST", URL, testing::answer(201).json(&json!({ "reference": "ch-1" })));
        assert_eq!(event(&pay(&web)), json!({ "order": "A-7", "event": "paid", "reference": "ch-1" }));
        let requests = web.requests();
        assert_eq!((requests.len(), requests[0].header("Idempotency-Key")), (1, Some("A-7")));
        assert_eq!(requests[0].json::<serde_json::Value>(), json!({ "order": "A-7", "cents": 1300 }));
    }

    #[test]
    fn what_is_declined_is_done_with() {
        let web = testing::web().on("POST", URL, testing::answer(402).body("no money"));
        assert_eq!(event(&pay(&web)), json!({ "order": "A-7", "event": "declined" }));
    }

    #[test]
    fn what_goes_wrong_is_tried_again_and_nothing_is_told() {
        for answer in [
            testing::answer(503),
            testing::answer(201).body("{}"),
            Answer::timeout(),
            Answer::not_granted(),
            Answer::failed("the connection was refused"),
        ] {
            let run = pay(&testing::web().on("POST", URL, answer.clone()));
            assert!(matches!(run.outcome, Err(Failure::Retry { .. })), "{answer:?}: {run:?}");
            assert!(run.sends.is_empty() && run.dropped.is_empty());
        }
        // A server that is not granted is an error that says what to grant.
        let web = testing::web().on("POST", URL, Answer::not_granted());
        let Err(Failure::Retry { reason, .. }) = pay(&web).outcome else { panic!("must be a retry") };
        assert!(reason.contains("add \"https://pay.example\" to `http`"), "{reason}");
    }
}
