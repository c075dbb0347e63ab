//! What a command may assume about the terminal: whether colours are welcome, and that stdout may go away.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use super::{CommandResult, Failed};

/// Whether colours are welcome on this stream: it is a terminal, and `NO_COLOR` (<https://no-color.org>) is not set.
pub fn colours(stream: &impl IsTerminal) -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints to stdout, with a line end after it. Use this instead of `println!`, which panics if the reader has gone.
pub fn print(text: impl Display) -> CommandResult {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Failed::stdout)
}
