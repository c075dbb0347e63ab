//! An order fans out to inventory, payment and shipping.
//!
//! One component, four consumers: `role` in `[consumers.NAME.config]` says which one this is. Each has grants of its own, so that
//! only payment reaches the payment server, only shipping the folder of labels, and only inventory the stock.
//!
//! | role | what it does with an order |
//! | --- | --- |
//! | `intake` | checks it, and sends it to the queues `inventory`, `payment` and `shipping`: to all of them or to none |
//! | `inventory` | takes its items from the stock, which it keeps in its state; all of them or none |
//! | `payment` | charges it at the server that `payment_url` names |
//! | `shipping` | writes its label |
//!
//! What came of it, each tells the queue `order-events`: `{"order":"A-7","event":"reserved"}`.

mod intake;
mod inventory;
mod order;
mod payment;
mod shipping;

use std::path::Path;

use linecook_sdk::{Failure, Message, Outcome, config, consumer};

/// The folder that `queue.toml` grants for labels.
const LABELS: &str = "/labels";

#[consumer]
fn orders(message: Message) -> Outcome {
    match config::require("role")?.as_str() {
        "intake" => intake::handle(&message),
        "inventory" => inventory::handle(&message),
        "payment" => payment::handle(&message, &config::require("payment_url")?),
        "shipping" => shipping::handle(&message, Path::new(LABELS)),
        // The operator's mistake, and can be mended.
        other => Err(Failure::retry(format_args!(
            "there is no role {other:?}; in [consumers.NAME.config], it is intake, inventory, payment or shipping"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use linecook_sdk::testing;

    use super::*;

    #[test]
    fn the_role_decides_and_a_wrong_one_is_told() {
        let order = || testing::json(&order::tests::soup());
        let run = testing::config([("role", "intake")]).run(orders, order());
        assert_eq!((run.outcome, run.sends.len()), (Ok(()), 3));
        let run = testing::config([("role", "cook")]).run(orders, order());
        let Err(Failure::Retry { reason, .. }) = run.outcome else { panic!("must be a retry: {run:?}") };
        assert!(reason.starts_with("there is no role \"cook\""), "{reason}");
        let Err(Failure::Retry { reason, .. }) = testing::run(orders, order()).outcome else {
            panic!("must be a retry")
        };
        assert!(reason.contains("no value for \"role\""), "{reason}");
    }
}
