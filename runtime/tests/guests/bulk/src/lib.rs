//! Takes batches, and does for each message what it says. The body is a JSON object; `do` says what to do:
//!
//! | body | what happens |
//! | --- | --- |
//! | `{"do":"ok"}` | Acknowledged, with `{"input": id, "size": messages of the batch, "attempt": n}` sent to `report`. |
//! | `{"do":"sleep","ms":100}` | The same, after a while. |
//! | `{"do":"panic"}` | A panic. |
//! | `{"do":"loop"}` | Computes for ever. |
//! | `{"do":"retry"}` | As `ok`, but a failed attempt in the end. |
//! | `{"do":"dead-letter"}` | As `ok`, but dead-lettered in the end. |
//! | `{"do":"silence"}` | There is no answer for this message, nor for those after it. |
//! | `{"do":"sum"}` | `ok`, and `{"sum": messages of the batch}` is sent to `report` for the batch as a whole. |

use linecook_sdk::{Failure, Message, Outcome, batch, consumer, queues};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize, Clone, Copy)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Command {
    Ok,
    Sleep { ms: u64 },
    Panic,
    Loop,
    Retry,
    DeadLetter,
    Silence,
    Sum,
}

#[consumer]
fn bulk(messages: Vec<Message>) -> Result<Vec<Outcome>, Failure> {
    let size = messages.len();
    let commands = messages.iter().map(Message::json).collect::<Result<Vec<Command>, _>>()?;
    if commands.iter().any(|command| matches!(command, Command::Sum)) {
        queues::send("report", &json!({ "sum": size }))?;
    }
    let silence = commands.iter().position(|command| matches!(command, Command::Silence)).unwrap_or(size);
    let mut commands = commands.into_iter();
    let mut outcomes = batch::each(messages, |message| match commands.next() {
        Some(command) => perform(command, &message, size),
        None => Ok(()),
    });
    outcomes.truncate(silence);
    Ok(outcomes)
}

fn perform(command: Command, message: &Message, size: usize) -> Outcome {
    queues::send("report", &json!({ "input": message.id, "size": size, "attempt": message.attempt }))?;
    match command {
        Command::Ok | Command::Sum | Command::Silence => Ok(()),
        Command::Sleep { ms } => {
            std::thread::sleep(std::time::Duration::from_millis(ms));
            Ok(())
        }
        Command::Panic => panic!("on purpose"),
        Command::Loop => loop {
            std::hint::black_box(size);
        },
        Command::Retry => Err(Failure::retry("on purpose")),
        Command::DeadLetter => Err(Failure::dead_letter("on purpose")),
    }
}
