//! The label of an order's parcel.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use linecook_sdk::{Message, Outcome};

use crate::order::Order;

/// Writes the label of an order to `<number>.txt`: where, and what is in it. Done again, it is the same file.
pub(crate) fn handle(message: &Message, folder: &Path) -> Outcome {
    let order = Order::of(message)?;
    let mut label = format!("Order {}\n{}\n\n", order.order, order.ship_to.trim());
    for item in &order.items {
        label.push_str(&format!("{} x {}\n", item.quantity, item.sku));
    }
    write_whole(folder, &format!("{}.txt", order.order), &label)?;
    Ok(order.tell("label-written", &[])?)
}

/// Writes a file that is there whole or not at all, and stays there: the acknowledgement follows.
fn write_whole(folder: &Path, name: &str, content: &str) -> io::Result<()> {
    let (path, unfinished) = (folder.join(name), folder.join(format!(".{name}.tmp")));
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error: io::Error| io::Error::new(error.kind(), format!("writing {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use linecook_sdk::{Failure, testing};
    use serde_json::json;

    use super::*;
    use crate::order::tests::{event, soup};

    #[test]
    fn a_label_is_written_and_told() {
        let folder = tempfile::tempdir().unwrap();
        for attempt in 1..3 {
            let message = testing::json(&soup()).attempt(attempt);
            let run = testing::run(|message| handle(&message, folder.path()), message);
            assert_eq!(event(&run), json!({ "order": "A-7", "event": "label-written" }));
        }
        let label = fs::read_to_string(folder.path().join("A-7.txt")).unwrap();
        assert_eq!(label, "Order A-7\nAnn, 1 Main St\n\n2 x soup\n1 x bread\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_retry_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        let run = testing::run(|message| handle(&message, &absent), testing::json(&soup()));
        let Err(Failure::Retry { reason, .. }) = run.outcome else { panic!("must be a retry: {run:?}") };
        assert!(reason.contains("absent/A-7.txt: No such file"), "{reason}");
    }
}
