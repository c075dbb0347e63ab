//! Orders come in, and go to all who have to do with them.

use linecook_sdk::{Message, Outcome, queues};

use crate::order::Order;

/// Who has to do with an order.
const PARTS: [&str; 3] = ["inventory", "payment", "shipping"];

/// Sends an order to all of them. It is one step: all of them get it, and the order that came in is done; or none does.
pub(crate) fn handle(message: &Message) -> Outcome {
    let order = Order::of(message)?;
    for part in PARTS {
        // With the order's number as the key, what is sent again of one order (a correction, say) does not overtake it.
        queues::json(&order)?.key(&order.order).send(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use linecook_sdk::testing;

    use super::*;
    use crate::order::tests::soup;

    #[test]
    fn an_order_goes_to_each_of_them_once() {
        let run = testing::granting(PARTS).run(|message| handle(&message), testing::json(&soup()));
        assert_eq!(run.outcome, Ok(()));
        assert_eq!(run.sends.iter().map(|sent| &*sent.queue).collect::<Vec<_>>(), PARTS);
        for sent in &run.sends {
            assert_eq!((sent.json::<serde_json::Value>(), sent.key.as_deref()), (soup(), Some("A-7")));
        }
    }

    #[test]
    fn if_one_of_them_cannot_be_told_nobody_is() {
        let run = testing::granting(["inventory", "payment"]).run(|message| handle(&message), testing::json(&soup()));
        assert!(run.outcome.is_err() && run.sends.is_empty());
        assert_eq!(run.dropped.len(), 2);
    }
}
