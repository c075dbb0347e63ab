//! The mail: RFC 5322, with the encodings of MIME where something is not ASCII. No files, no sockets, no queues.

use std::time::SystemTime;

use lettre::Address;
use lettre::message::{Mailbox, Message, SinglePart};
use linecook_sdk::Failure;

/// A longer name is cut off: nobody's greeting needs it.
const NAME_CHARACTERS_MAX: usize = 80;

/// The mail, with who it is from and to. The same arguments make the same bytes ([`Message::formatted`]).
///
/// # Errors
///
/// A dead letter, if `email` is no address that any mail server takes. A retry, if `from` is none: that is the
/// operator's mistake, and can be mended.
pub(crate) fn welcome(
    from: &str,
    email: &str,
    name: &str,
    message_id: &str,
    date: SystemTime,
) -> Result<Message, Failure> {
    let from: Mailbox = from.parse().map_err(|error| {
        Failure::retry(format_args!("the environment variable FROM is no address ({from:?}): {error}"))
    })?;
    let address = address(email)?;
    let name = one_line(name);
    let greeting = if name.is_empty() { "Hello,".to_owned() } else { format!("Hello {name},") };
    let text = format!("{greeting}\r\n\r\nwelcome! Your account is ready.");

    let message_id = format!("<{message_id}@{}>", from.email.domain());
    Ok(Message::builder()
        .from(from)
        .to(Mailbox::new(Some(name).filter(|name| !name.is_empty()), address))
        .subject("Welcome!")
        .date(date)
        .message_id(Some(message_id))
        .singlepart(SinglePart::plain(text))?)
}

/// An address of plain ASCII: others need mail servers that speak SMTPUTF8 all along the way.
fn address(email: &str) -> Result<Address, Failure> {
    let refuse =
        |why: &dyn std::fmt::Display| Failure::dead_letter(format_args!("{email:?} is no mail address: {why}"));
    if !email.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse(&"only printable ASCII characters are allowed"));
    }
    email.parse().map_err(|error: lettre::address::AddressError| refuse(&error))
}

/// A name without anything that could end a line, or hide in one.
fn one_line(name: &str) -> String {
    let printable: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = printable.split_whitespace().collect();
    words.join(" ").chars().take(NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn mail(email: &str, name: &str) -> String {
        let date = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        String::from_utf8(welcome("hello@example.com", email, name, "id-1", date).unwrap().formatted()).unwrap()
    }

    /// The header's value, unfolded.
    fn header(mail: &str, name: &str) -> String {
        let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        let values: Vec<&str> = head.split("\r\n").filter_map(|line| line.strip_prefix(&format!("{name}: "))).collect();
        assert_eq!(values.len(), 1, "one {name}, in:\n{mail}");
        values[0].to_owned()
    }

    #[test]
    fn the_whole_mail() {
        let expected = "From: hello@example.com\r\n\
            To: New <new@example.com>\r\n\
            Subject: Welcome!\r\n\
            Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
            Message-ID: <id-1@example.com>\r\n\
            MIME-Version: 1.0\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: 7bit\r\n\
            \r\n\
            Hello New,\r\n\
            \r\n\
            welcome! Your account is ready.\r\n";
        assert_eq!(mail("new@example.com", "New"), expected);
    }

    #[test]
    fn names_are_quoted_or_encoded_and_the_address_stays_plain() {
        assert_eq!(header(&mail("a@b.example", ""), "To"), "a@b.example");
        assert_eq!(header(&mail("a@b.example", "Jo Smith"), "To"), "\"Jo Smith\" <a@b.example>");
        // A comma would begin the next address.
        assert_eq!(header(&mail("a@b.example", "Smith, Jo"), "To"), "=?utf-8?b?U21pdGgsIEpv?= <a@b.example>");
        let encoded = mail("a@b.example", "Zoë Müller");
        assert_eq!(header(&encoded, "To"), "=?utf-8?b?Wm/DqyBNw7xsbGVy?= <a@b.example>");
        assert!(encoded.is_ascii());
        assert_eq!(header(&encoded, "Content-Transfer-Encoding"), "quoted-printable");
        assert!(encoded.contains("Hello Zo=C3=AB M=C3=BCller,\r\n"), "{encoded}");
    }

    #[test]
    fn no_name_makes_a_header_of_its_own() {
        for name in [
            "A\r\nBcc: everyone@example.com",
            "A\nBcc: everyone@example.com",
            "A\rBcc: everyone@example.com",
            "A\u{2028}Bcc: everyone@example.com\u{85}",
            "é\r\nBcc: everyone@example.com",
            "\"\r\nBcc: everyone@example.com",
            "a> <everyone@example.com",
        ] {
            let mail = mail("a@b.example", name);
            let lines = || mail.split("\r\n");
            assert!(lines().all(|line| !line.starts_with("Bcc")), "{name:?}:\n{mail}");
            assert!(lines().all(|line| !line.contains(['\r', '\n'])), "{name:?}:\n{mail}");
            assert!(header(&mail, "To").ends_with(" <a@b.example>"), "{name:?}:\n{mail}");
        }
    }

    #[test]
    fn a_long_name_is_cut_off_and_its_lines_are_folded() {
        let mail = mail("a@b.example", &"ü".repeat(10_000));
        assert!(mail.split("\r\n").all(|line| line.len() <= 998), "{mail}");
        assert!(mail.len() < 2_000, "{}", mail.len());
        assert!(header(&mail, "To").ends_with("<a@b.example>"), "{mail}");
    }

    #[test]
    fn an_invalid_address_is_a_dead_letter_that_names_it() {
        let date = UNIX_EPOCH;
        for email in [
            "",
            "nobody",
            "@example.com",
            "a@",
            "a@b@c.example",
            "a b@c.example",
            "a@b.example\r\nBcc: c@d.example",
            "a@b.example, c@d.example",
            "A <a@b.example>",
            "ä@b.example",
            "a@bücher.example",
        ] {
            match welcome("hello@example.com", email, "", "id-1", date) {
                Err(Failure::DeadLetter { reason }) => assert!(reason.contains("is no mail address"), "{reason}"),
                other => panic!("{email:?} must be a dead letter: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_sender_is_a_retry_that_says_where_to_look() {
        let Err(Failure::Retry { reason, .. }) = welcome("nobody", "a@b.example", "", "id-1", UNIX_EPOCH) else {
            panic!("must be a retry")
        };
        assert!(reason.starts_with("the environment variable FROM is no address (\"nobody\")"), "{reason}");
    }

    #[test]
    fn a_sender_may_have_a_name() {
        let mail = welcome("The Shop <shop@example.com>", "a@b.example", "", "id-1", UNIX_EPOCH).unwrap();
        let mail = String::from_utf8(mail.formatted()).unwrap();
        assert_eq!(header(&mail, "From"), "\"The Shop\" <shop@example.com>");
        assert_eq!(header(&mail, "Message-ID"), "<id-1@example.com>");
    }
}
