//! The end of a command that failed, for people: a heading, the causes, and a hint of what to do.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use super::terminal;
use crate::config::ConfigErrors;

/// Why a command failed. It is printed once, by `main`, and never logged as well.
#[derive(Debug)]
pub struct Failed(Kind);

#[derive(Debug)]
enum Kind {
    Told {
        heading: String,
        cause: Option<Box<dyn Error + Send + Sync>>,
        hint: Option<String>,
    },
    /// Whoever read our stdout has gone. They have what they wanted (`linecook peek | head`).
    ReaderGone,
    /// A `queue.toml` that can't be used: it has its own way to be shown.
    Config(ConfigErrors),
    /// It was printed already, for a program to read.
    AlreadyTold,
}

/// What was a heading before the failure got a [`Failed::context`].
#[derive(Debug)]
struct Reason {
    text: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Reason {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|error| error as &(dyn Error + 'static))
    }
}

impl From<ConfigErrors> for Failed {
    fn from(errors: ConfigErrors) -> Failed {
        Failed(Kind::Config(errors))
    }
}

impl Failed {
    /// A failure that has happened while doing what `heading` says: a lower-case sentence without a full stop, such as
    /// "can't reach the runtime at 127.0.0.1:7878".
    pub fn new(heading: impl Into<String>) -> Failed {
        Failed(Kind::Told { heading: heading.into(), cause: None, hint: None })
    }

    /// Adds what it came from. The whole chain of sources is printed.
    pub fn because(mut self, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failed {
        if let Kind::Told { cause, .. } = &mut self.0 {
            *cause = Some(error.into());
        }
        self
    }

    /// Adds what to do about it.
    pub fn hint(mut self, text: impl Into<String>) -> Failed {
        if let Kind::Told { hint, .. } = &mut self.0 {
            *hint = Some(text.into());
        }
        self
    }

    /// Adds how far the command had got: that becomes the heading, and what was the heading becomes its first cause.
    pub fn context(self, heading: impl Into<String>) -> Failed {
        let Failed(Kind::Told { heading: reason, cause, hint }) = self else { return self };
        let cause: Box<dyn Error + Send + Sync> = Box::new(Reason { text: reason, cause });
        Failed(Kind::Told { heading: heading.into(), cause: Some(cause), hint })
    }

    /// The command has printed what went wrong itself, as JSON on stdout. Only the exit code is left to say.
    pub fn already_told() -> Failed {
        Failed(Kind::AlreadyTold)
    }

    /// Writing to stdout failed. If that is because its reader has gone, the command ends quietly and well.
    pub fn stdout(error: io::Error) -> Failed {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failed(Kind::ReaderGone),
            _ => Failed::new("can't write to stdout").because(error),
        }
    }

    /// Says it on stderr, and gives the exit code.
    pub fn report(self) -> ExitCode {
        if let Kind::ReaderGone = self.0 {
            return ExitCode::SUCCESS;
        }
        // A stderr that is closed is no reason to panic: the exit code still tells.
        _ = io::stderr().write_all(self.render(terminal::colours(&io::stderr())).as_bytes());
        ExitCode::FAILURE
    }

    /// The text for stderr; empty if there is nothing to say.
    pub fn render(&self, colours: bool) -> String {
        let (heading, cause, hint) = match &self.0 {
            Kind::Told { heading, cause, hint } => (heading, cause, hint),
            Kind::Config(errors) => return errors.render(colours),
            Kind::ReaderGone | Kind::AlreadyTold => return String::new(),
        };
        let (red, cyan, bold, reset) =
            if colours { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m") } else { ("", "", "", "") };
        let mut text = format!("{red}error{reset}{bold}: {heading}{reset}\n");
        let mut next: Option<&dyn Error> = cause.as_deref().map(|error| error as &dyn Error);
        while let Some(error) = next {
            text.push_str(&format!("  because: {error}\n"));
            next = error.source();
        }
        if let Some(hint) = hint {
            text.push_str(&format!("{cyan}hint{reset}: {hint}\n"));
        }
        text
    }
}
