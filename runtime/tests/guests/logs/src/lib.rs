//! Logs by the crates `log` and `tracing`, in levels from bad to worse, and then gives up.

use linecook_sdk::{Failure, Message, Outcome, consumer};

#[consumer]
fn logs(message: Message) -> Outcome {
    log::debug!("log has a detail");
    log::info!("log is informed of {} bytes", message.body.len());
    log::error!(target: "kitchen::oven", "log is alarmed");
    tracing::debug!("tracing has a detail");
    tracing::warn!(table = 7, dish = "soup", "tracing is worried");
    Err(Failure::dead_letter("on purpose"))
}
