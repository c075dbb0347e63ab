//! The stock, in the consumer's state: a number for each thing.

use std::collections::BTreeMap;

use linecook_sdk::{Failure, Message, Outcome, state};
use serde::Deserialize;

use crate::order::{Item, Order, is_sku};

/// The other message that the queue takes: `{"restock":{"sku":"soup","quantity":10}}`.
#[derive(Deserialize)]
struct Restock {
    restock: Item,
}

/// Takes the items of an order from the stock, all of them or none. What is left is on record in one step with the
/// acknowledgement, so that an order is taken once, however often it is tried.
///
/// Two orders that take the same thing at once don't both get the last one: the state that the second has read is out of date
/// when it is to be acknowledged, and the runtime hands it out again.
pub(crate) fn handle(message: &Message) -> Outcome {
    if let Ok(Restock { restock }) = message.json() {
        return add(&restock);
    }
    let order = Order::of(message)?;
    let mut wanted = BTreeMap::<&str, u64>::new();
    for item in &order.items {
        let sum = wanted.entry(&item.sku).or_default();
        *sum = sum.saturating_add(item.quantity);
    }
    let mut left = Vec::new();
    for (sku, quantity) in wanted {
        match stock(sku)?.checked_sub(quantity) {
            Some(rest) => left.push((sku, rest)),
            None => return Ok(order.tell("out-of-stock", &[("sku", sku)])?),
        }
    }
    for (sku, rest) in left {
        state::set_json(&key(sku), &rest)?;
    }
    Ok(order.tell("reserved", &[])?)
}

fn add(item: &Item) -> Outcome {
    if !is_sku(&item.sku) {
        return Err(Failure::dead_letter(format_args!("{:?} is no `sku`: 1 to 64 letters, digits and `-`", item.sku)));
    }
    state::increment(&key(&item.sku), item.quantity)?;
    Ok(())
}

fn stock(sku: &str) -> Result<u64, state::StateError> {
    Ok(state::get_json(&key(sku))?.unwrap_or(0))
}

fn key(sku: &str) -> String {
    format!("stock/{sku}")
}

#[cfg(test)]
mod tests {
    use linecook_sdk::testing::{self, Run, State};
    use serde_json::{Value, json};

    use super::*;
    use crate::order::tests::{event, soup};

    fn send(body: &Value) -> Run {
        testing::run(|message| handle(&message), testing::json(body))
    }

    fn left(state: &State, sku: &str) -> Option<u64> {
        state.get_json(&key(sku))
    }

    #[test]
    fn an_order_takes_all_of_its_items_or_none() {
        let state = testing::state();
        for (sku, quantity) in [("soup", 3), ("soup", 2), ("bread", 1)] {
            let run = send(&json!({ "restock": { "sku": sku, "quantity": quantity } }));
            assert_eq!((run.outcome, run.sends), (Ok(()), vec![]));
        }
        assert_eq!(event(&send(&soup())), json!({ "order": "A-7", "event": "reserved" }));
        assert_eq!((left(&state, "soup"), left(&state, "bread")), (Some(3), Some(0)));
        // There is soup, but no bread.
        assert_eq!(event(&send(&soup())), json!({ "order": "A-7", "event": "out-of-stock", "sku": "bread" }));
        assert_eq!((left(&state, "soup"), left(&state, "bread")), (Some(3), Some(0)));
    }

    #[test]
    fn the_same_thing_twice_is_counted_twice() {
        let state = testing::state();
        state.set_json(key("soup"), &3);
        let mut order = soup();
        order["items"] = json!([{ "sku": "soup", "quantity": 2 }, { "sku": "soup", "quantity": 2 }]);
        assert_eq!(event(&send(&order))["event"], "out-of-stock");
        order["items"] = json!([{ "sku": "soup", "quantity": u64::MAX }, { "sku": "soup", "quantity": 2 }]);
        assert_eq!(event(&send(&order))["event"], "out-of-stock");
        assert_eq!(left(&state, "soup"), Some(3));
    }

    #[test]
    fn an_order_whose_end_cannot_be_told_takes_nothing() {
        let state = testing::state();
        state.set_json(key("soup"), &2);
        state.set_json(key("bread"), &1);
        let run = testing::granting(["audit"]).run(|message| handle(&message), testing::json(&soup()));
        assert!(run.outcome.is_err());
        assert_eq!((left(&state, "soup"), left(&state, "bread")), (Some(2), Some(1)));
    }

    #[test]
    fn what_is_no_order_and_no_restock_is_a_dead_letter() {
        let _state = testing::state();
        for body in
            [json!({}), json!({ "restock": { "sku": "a/b", "quantity": 1 } }), json!({ "restock": 1 }), json!(7)]
        {
            let run = send(&body);
            assert!(matches!(run.outcome, Err(Failure::DeadLetter { .. })), "{body}: {run:?}");
        }
    }
}
