//! Parses the JSON of its message and acknowledges: the least that most consumers do.

use linecook_sdk::{Failure, Message, Outcome, consumer};
use serde::Deserialize;

/// What a shop sends.
#[derive(Deserialize)]
struct Order<'a> {
    id: u64,
    customer: &'a str,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    total_cents: u64,
    paid: bool,
}

#[derive(Deserialize)]
struct Item<'a> {
    sku: &'a str,
    count: u32,
    cents: u64,
}

impl Order<'_> {
    /// Every field counts, so that none is parsed for nothing.
    fn check(&self) -> Outcome {
        let total: u64 = self.items.iter().map(|item| u64::from(item.count) * item.cents).sum();
        let named = !self.customer.is_empty() && self.items.iter().all(|item| !item.sku.is_empty());
        if self.id == 0 || !named || !self.paid || total != self.total_cents {
            return Err(Failure::dead_letter("not an order"));
        }
        Ok(())
    }
}

#[consumer]
fn json(message: Message) -> Outcome {
    let order: Order<'_> = message.json()?;
    order.check()
}
