//! The message that a consumer is handed.

use std::time::SystemTime;

use serde::Deserialize;

use crate::Failure;

/// A message, as it is handed to a consumer.
///
/// The fields can be moved out: `let image = message.body;` copies nothing. In tests, [`testing`](crate::testing)
/// makes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Names the message for ever: 26 characters, never reused, the same in every attempt. Pass it on as the
    /// idempotency key of calls to the outside, and name files after it.
    pub id: String,
    /// The queue that it was claimed from.
    pub queue: String,
    /// The payload.
    pub body: Vec<u8>,
    /// The payload's media type, if the sender named one.
    pub content_type: Option<String>,
    /// The ordering key: messages of one queue with the same key are handled one at a time, in order.
    pub key: Option<String>,
    /// Names and values that travel with the body, in the sender's order. See [`Message::attribute`].
    pub attributes: Vec<(String, String)>,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// When it was first sent. The same in every attempt, so what is made from it can be made again.
    pub enqueued_at: SystemTime,
}

impl Message {
    /// Reads the body as JSON. The content type does not matter.
    ///
    /// # Errors
    ///
    /// A dead letter that says what is wrong and where: another attempt would find the same body.
    ///
    /// ```
    /// use linecook_sdk::{Message, Outcome};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Signup<'a> {
    ///     email: &'a str, // borrowed from the body
    /// }
    ///
    /// fn handle(message: Message) -> Outcome {
    ///     let signup: Signup = message.json()?;
    ///     println!("{} signed up", signup.email);
    ///     Ok(())
    /// }
    /// ```
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::dead_letter(format_args!("the body is not the JSON that is expected: {error}")))
    }

    /// The body as text.
    ///
    /// # Errors
    ///
    /// A dead letter, if it is not UTF-8.
    ///
    /// ```
    /// # use linecook_sdk::testing;
    /// assert_eq!(testing::message("soup").build().text().unwrap(), "soup");
    /// assert!(testing::message(b"\xff").build().text().is_err());
    /// ```
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body)
            .map_err(|error| Failure::dead_letter(format_args!("the body is not text: {error}")))
    }

    /// The value of the first attribute of this name. Names are told apart by their case.
    ///
    /// ```
    /// # use linecook_sdk::testing;
    /// let message = testing::message("").attribute("source", "web").build();
    /// assert_eq!(message.attribute("source"), Some("web"));
    /// assert_eq!(message.attribute("Source"), None);
    /// ```
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(each, _)| each == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Failure, testing};

    #[test]
    fn a_body_that_is_not_what_is_expected_is_a_dead_letter_that_says_where() {
        let message = testing::message(r#"{"n": "x"}"#).build();
        let Err(Failure::DeadLetter { reason }) = message.json::<std::collections::BTreeMap<String, u32>>() else {
            panic!("a wrong body must be a dead letter")
        };
        assert!(reason.starts_with("the body is not the JSON that is expected: invalid type: string"), "{reason}");
        assert!(reason.ends_with("line 1 column 9"), "{reason}");

        let Err(Failure::DeadLetter { reason }) = testing::message(b"\xff").build().text().map(str::to_owned) else {
            panic!("bytes that are no text must be a dead letter")
        };
        assert_eq!(reason, "the body is not text: invalid utf-8 sequence of 1 bytes from index 0");
    }

    #[test]
    fn the_first_attribute_of_a_name_counts() {
        let message = testing::message("").attribute("a", "1").attribute("a", "2").attribute("b", "").build();
        assert_eq!(message.attribute("a"), Some("1"));
        assert_eq!(message.attribute("b"), Some(""));
        assert_eq!(message.attribute("A"), None);
    }
}
