//! What an order is, and what is told of it.

use std::collections::BTreeMap;

use linecook_sdk::queues::{self, SendError};
use linecook_sdk::{Failure, Message};
use serde::{Deserialize, Serialize};

/// The queue that is told what came of an order.
pub(crate) const EVENTS: &str = "order-events";

/// More items than this are no order.
const ITEMS_MAX: usize = 100;

/// The body of a message: `{"order":"A-7","items":[{"sku":"soup","quantity":2}],"cents":1300,"ship_to":"Ann, 1 Main St"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// Its number: letters, digits and `-`.
    pub(crate) order: String,
    pub(crate) items: Vec<Item>,
    /// The price of all of it.
    pub(crate) cents: u64,
    /// The label's text.
    pub(crate) ship_to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) quantity: u64,
}

/// What came of an order, in one of its parts.
#[derive(Serialize)]
struct Event<'a> {
    order: &'a str,
    event: &'a str,
    #[serde(flatten)]
    detail: BTreeMap<&'a str, &'a str>,
}

impl Order {
    /// The order in a message.
    ///
    /// # Errors
    ///
    /// A dead letter that says what is wrong with it.
    pub(crate) fn of(message: &Message) -> Result<Order, Failure> {
        let order: Order = message.json()?;
        let refuse = |what: &str| Err(Failure::dead_letter(format_args!("the order {:?} {what}", order.order)));
        // It names a file and a key.
        let is_number = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=64).contains(&order.order.len()) || !order.order.bytes().all(is_number) {
            return refuse("has a number that is not 1 to 64 letters, digits and `-`");
        }
        if !(1..=ITEMS_MAX).contains(&order.items.len()) {
            return refuse("has no items, or more than 100");
        }
        if order.items.iter().any(|item| !is_sku(&item.sku) || item.quantity == 0) {
            return refuse("has an item without a quantity, or whose `sku` is not 1 to 64 letters, digits and `-`");
        }
        if order.cents == 0 {
            return refuse("costs nothing");
        }
        if order.ship_to.trim().is_empty() {
            return refuse("does not say where to ship it");
        }
        Ok(order)
    }

    /// Tells what came of it, with the acknowledgement of the message that is being handled.
    pub(crate) fn tell(&self, event: &str, detail: &[(&str, &str)]) -> Result<(), SendError> {
        let event = Event { order: &self.order, event, detail: detail.iter().copied().collect() };
        queues::json(&event)?.key(&self.order).send(EVENTS)
    }
}

/// Whether a thing can be called so.
pub(crate) fn is_sku(sku: &str) -> bool {
    (1..=64).contains(&sku.len()) && sku.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
pub(crate) mod tests {
    use linecook_sdk::testing;
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn soup() -> Value {
        json!({
            "order": "A-7",
            "items": [{ "sku": "soup", "quantity": 2 }, { "sku": "bread", "quantity": 1 }],
            "cents": 1300,
            "ship_to": "Ann, 1 Main St",
        })
    }

    /// The body of the only event.
    #[track_caller]
    pub(crate) fn event(run: &testing::Run) -> Value {
        assert_eq!((&run.outcome, run.sends.len(), &*run.sends[0].queue), (&Ok(()), 1, EVENTS), "{run:?}");
        assert_eq!(run.sends[0].key.as_deref(), Some("A-7"));
        run.sends[0].json()
    }

    #[test]
    fn an_order_that_makes_no_sense_is_a_dead_letter_that_says_why() {
        let with = |key: &str, value: Value| {
            let mut order = soup();
            order[key] = value;
            Order::of(&testing::json(&order).build())
        };
        assert_eq!(with("cents", json!(1)).unwrap().items[0], Item { sku: "soup".into(), quantity: 2 });
        for (key, value, says) in [
            ("order", json!(""), "has a number that is not"),
            ("order", json!("../../etc/passwd"), "has a number that is not"),
            ("order", json!("x".repeat(65)), "has a number that is not"),
            ("order", json!(7), "not the JSON that is expected"),
            ("items", json!([]), "has no items"),
            ("items", json!(vec![json!({ "sku": "soup", "quantity": 1 }); 101]), "more than 100"),
            ("items", json!([{ "sku": "soup", "quantity": 0 }]), "without a quantity"),
            ("items", json!([{ "sku": "", "quantity": 1 }]), "without a quantity"),
            ("items", json!([{ "sku": "soup", "quantity": -1 }]), "not the JSON that is expected"),
            ("cents", json!(0), "costs nothing"),
            ("ship_to", json!(" "), "where to ship it"),
            ("ship-to", json!("Ann"), "unknown field"),
        ] {
            match with(key, value.clone()) {
                Err(Failure::DeadLetter { reason }) => assert!(reason.contains(says), "{key} {value}: {reason}"),
                other => panic!("{key} {value} must be a dead letter: {other:?}"),
            }
        }
    }
}
