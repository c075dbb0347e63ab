//! Access-log lines in, a summary for each minute out.
//!
//! A message has one line of a web server's access log, or several, in the Common or the Combined Log Format. What was counted
//! stands in the consumer's state. As soon as there is a line of a later minute than the next one, a minute is over, and the
//! queue `summaries` gets what it came to:
//!
//! ```json
//! {"minute":"2026-11-25T18:20Z","requests":420,"bytes":1234567,"statuses":{"2xx":400,"4xx":18,"5xx":2}}
//! ```
//!
//! Counting, telling and the acknowledgement of the line are one step, so each line is counted once, however often it is tried.
//! A line that comes late makes a summary of its own for its minute: add them up.
//!
//! It is a consumer of batches: one call handles up to `max_batch_size` messages. All of them count on the same entry of the
//! state, so more than one delivery at a time (`max_concurrency` above 1) is right, but not faster.

mod line;
mod minutes;

use linecook_sdk::{Failure, Message, Outcome, batch, consumer, queues, state};

use crate::line::Line;
use crate::minutes::Minutes;

/// Where the open minutes are in the state.
const KEY: &str = "minutes";

/// The queue of the summaries.
const SUMMARIES: &str = "summaries";

#[consumer]
fn log_summary(messages: Vec<Message>) -> Vec<Outcome> {
    batch::each(messages, |message| count(&message))
}

/// Counts the lines of one message.
fn count(message: &Message) -> Outcome {
    // All of them are read before any is counted: a message counts as a whole.
    let mut lines = Vec::new();
    for (index, text) in message.text()?.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line = Line::parse(text);
        lines.push(line.map_err(|why| Failure::dead_letter(format_args!("line {}: {why}", index + 1)))?);
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut minutes: Minutes = state::get_json(KEY)?.unwrap_or_default();
    for line in &lines {
        minutes.count(line);
    }
    for summary in minutes.take_finished() {
        queues::send(SUMMARIES, &summary)?;
    }
    Ok(state::set_json(KEY, &minutes)?)
}

#[cfg(test)]
mod tests {
    use linecook_sdk::testing;
    use serde_json::{Value, json};

    use super::*;

    fn line(time: &str, status: u16, bytes: u64) -> String {
        format!("127.0.0.1 - - [25/Nov/2026:{time} +0000] \"GET / HTTP/1.1\" {status} {bytes}")
    }

    fn summaries(run: &testing::BatchRun) -> Vec<Value> {
        assert!(run.sends.iter().all(|sent| sent.queue == SUMMARIES && sent.with_ack_of.is_some()));
        run.sends.iter().map(testing::Sent::json).collect()
    }

    #[test]
    fn a_minute_is_told_once_the_one_after_the_next_begins() {
        let _state = testing::state();
        let run = testing::run_batch(
            log_summary,
            [line("18:20:01", 200, 10), line("18:20:59", 503, 5), line("18:21:00", 404, 1)].map(testing::message),
        );
        assert_eq!((run.outcomes, run.sends), (vec![Ok(()); 3], vec![]));
        // Over two batches: the state keeps what was counted. One message has more than one line, and one of them is late.
        let many = [line("18:21:30", 200, 2), String::new(), line("18:20:59", 304, 0)].join("\n");
        let run = testing::run_batch(log_summary, [testing::message(many), testing::message(line("18:22:00", 200, 1))]);
        assert_eq!(run.outcomes, [Ok(()), Ok(())]);
        let statuses = json!({ "2xx": 1, "3xx": 1, "5xx": 1 });
        let summary = json!({ "minute": "2026-11-25T18:20Z", "requests": 3, "bytes": 15, "statuses": statuses });
        assert_eq!(summaries(&run), [summary]);
        // After a quiet hour both that were open are told.
        let run = testing::run_batch(log_summary, [testing::message(line("19:30:00", 200, 1))]);
        let minutes: Vec<_> = summaries(&run).iter().map(|summary| summary["minute"].clone()).collect();
        assert_eq!(minutes, ["2026-11-25T18:21Z", "2026-11-25T18:22Z"]);
    }

    #[test]
    fn a_line_that_is_none_takes_only_its_own_message_along() {
        let state = testing::state();
        let bad = format!("{}\nnonsense", line("18:20:01", 200, 10));
        let run = testing::run_batch(log_summary, [testing::message(bad), testing::message(line("18:20:02", 200, 10))]);
        assert!(matches!(&run.outcomes[0], Err(Failure::DeadLetter { reason }) if reason.starts_with("line 2: ")));
        assert_eq!(run.outcomes[1], Ok(()));
        let minutes: Value = state.get_json(KEY).unwrap();
        assert!(minutes.to_string().contains("\"requests\":1"), "{minutes}");
    }

    #[test]
    fn what_cannot_be_told_is_not_counted() {
        let state = testing::state();
        let run = testing::run_batch(log_summary, [testing::message(line("18:20:01", 200, 10))]);
        assert_eq!(run.outcomes, [Ok(())]);
        let before = state.get(KEY);
        let run = testing::granting(["other"]).run_batch(log_summary, [testing::message(line("18:30:00", 200, 10))]);
        assert!(run.outcomes[0].is_err());
        assert_eq!(state.get(KEY), before);
        assert_eq!(testing::run_batch(log_summary, [testing::message("\n \n")]).outcomes, [Ok(())]);
    }
}
