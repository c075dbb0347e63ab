//! How a handler answers when a message is not handled.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// What a consumer returns: `Ok(())` acknowledges the message.
pub type Outcome = Result<(), Failure>;

/// Why a message was not handled, and what shall become of it.
///
/// Every [`std::error::Error`] becomes a [`Failure::Retry`] by `?`. The errors of other kinds of libraries (a boxed
/// error, an `anyhow::Error`) become one by `map_err(Failure::retry)`.
///
/// ```
/// use linecook_sdk::{Failure, Message, Outcome};
/// use std::time::Duration;
///
/// fn handle(message: Message) -> Outcome {
///     let seconds: u64 = message.text()?.parse().map_err(Failure::dead_letter)?;
///     if seconds > 60 {
///         return Err(Failure::snooze(Duration::from_secs(seconds)));
///     }
///     let template = std::fs::read_to_string("/templates/mail.txt")?; // a retry, if it can't be read
///     if template.is_empty() {
///         return Err(Failure::retry("the template is being written").after(Duration::from_secs(5)));
///     }
///     Ok(())
/// }
/// ```
// It is deliberately not a `std::error::Error`: only so can every such error be converted by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The attempt failed; try again.
    Retry {
        /// For people. It is logged, and kept with the dead letter should this have been the last attempt.
        reason: String,
        /// Time until the next attempt (in whole milliseconds); without it, the consumer's backoff.
        after: Option<Duration>,
    },
    /// Not now: the message comes back, and no attempt is used up.
    Snooze {
        /// Time until it comes back (in whole milliseconds).
        after: Duration,
    },
    /// It can never succeed: the message goes to the dead-letter queue at once.
    DeadLetter {
        /// For people. It is kept with the dead letter.
        reason: String,
    },
}

impl Failure {
    /// The attempt failed; try again after the consumer's backoff, or after a delay of one's own:
    ///
    /// ```
    /// # use linecook_sdk::Failure;
    /// # use std::time::Duration;
    /// Failure::retry("the mail server is restarting").after(Duration::from_secs(20));
    /// ```
    pub fn retry(reason: impl fmt::Display) -> Failure {
        Failure::Retry { reason: reason.to_string(), after: None }
    }

    /// Not now: hand the message out again after `after`. It does not count as an attempt, so a message can be snoozed
    /// for as long as its queue keeps it.
    ///
    /// ```
    /// # use linecook_sdk::{Failure, Message, Outcome};
    /// # use std::time::Duration;
    /// fn at_night_only(_message: Message) -> Outcome {
    ///     Err(Failure::snooze(Duration::from_secs(3600)))
    /// }
    /// ```
    pub fn snooze(after: Duration) -> Failure {
        Failure::Snooze { after }
    }

    /// It can never succeed: the message goes to the dead-letter queue, with the reason, without another attempt.
    ///
    /// ```
    /// # use linecook_sdk::{Failure, Message, Outcome};
    /// fn handle(message: Message) -> Outcome {
    ///     let amount: u64 = message.text()?.parse().map_err(Failure::dead_letter)?;
    ///     println!("{amount}");
    ///     Ok(())
    /// }
    /// ```
    pub fn dead_letter(reason: impl fmt::Display) -> Failure {
        Failure::DeadLetter { reason: reason.to_string() }
    }

    /// Sets the time until the message comes back. A dead letter does not come back and stays as it is.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Failure {
        match &mut self {
            Failure::Retry { after, .. } => *after = Some(delay),
            Failure::Snooze { after } => *after = delay,
            Failure::DeadLetter { .. } => {}
        }
        self
    }
}

impl<E: Error> From<E> for Failure {
    /// A retry whose reason is the error's text and, unless that has it already, what caused it.
    fn from(error: E) -> Failure {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors repeat their source's text in their own.
            if !reason.contains(&text) {
                reason.push_str(": ");
                reason.push_str(&text);
            }
            source = cause.source();
        }
        Failure::Retry { reason, after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    fn reason(error: Layer) -> String {
        let Failure::Retry { reason, after: None } = error.into() else { panic!("an error is a plain retry") };
        reason
    }

    #[test]
    fn an_error_is_a_retry_with_its_whole_story_told_once() {
        let refused = || Some(Box::new(Layer("connection refused", None)));
        assert_eq!(reason(Layer("sending the mail", refused())), "sending the mail: connection refused");
        assert_eq!(reason(Layer("sending: connection refused", refused())), "sending: connection refused");
        let middle = Layer("talking to mail.example", refused());
        assert_eq!(
            reason(Layer("sending the mail", Some(Box::new(middle)))),
            "sending the mail: talking to mail.example: connection refused"
        );
    }

    #[test]
    fn the_question_mark_converts_errors_and_passes_failures_on() {
        fn parse(text: &str) -> Outcome {
            text.parse::<u8>()?;
            Ok(())
        }
        fn outer(text: &str) -> Outcome {
            parse(text)?;
            Err(Failure::dead_letter("too small"))?
        }
        assert_eq!(outer("300"), Err(Failure::retry("number too large to fit in target type")));
        assert_eq!(outer("3"), Err(Failure::dead_letter("too small")));
    }

    #[test]
    fn a_delay_suits_what_comes_back() {
        let second = Duration::from_secs(1);
        assert_eq!(Failure::retry("busy").after(second), Failure::Retry { reason: "busy".into(), after: Some(second) });
        assert_eq!(Failure::snooze(Duration::ZERO).after(second), Failure::Snooze { after: second });
        assert_eq!(Failure::dead_letter("no").after(second), Failure::dead_letter("no"));
    }
}
