//! The body that is parsed, here and by `json-batch`.

use linecook_sdk::{Failure, Outcome};
use serde::Deserialize;

/// What a shop sends.
#[derive(Deserialize)]
pub(crate) struct Order<'a> {
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
    pub(crate) fn check(&self) -> Outcome {
        let total: u64 = self.items.iter().map(|item| u64::from(item.count) * item.cents).sum();
        let named = !self.customer.is_empty() && self.items.iter().all(|item| !item.sku.is_empty());
        if self.id == 0 || !named || !self.paid || total != self.total_cents {
            return Err(Failure::dead_letter("not an order"));
        }
        Ok(())
    }
}
