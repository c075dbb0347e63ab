//! A signup in, a welcome mail out.
//!
//! The body is `{"email": "…", "name": "…"}`. The mail is handed to the SMTP server that `SMTP_SERVER` names, or, without one,
//! written to `/outbox/<message id>.eml`, where a mail server's pickup would find it. A message to `audit` says so. A signup
//! without a valid address is dead-lettered, and so is one whose mailbox the server says does not exist.
//!
//! | setting | what it is |
//! | --- | --- |
//! | `FROM` (environment) | who the mails are from |
//! | `SMTP_SERVER` (environment), or `smtp_server` (config) | `host:port`; it must be in `grants.tcp`, too |
//! | `SMTP_USER` (environment), `SMTP_PASSWORD` (secret) | logs in, if both are there |
//!
//! A signup that is handled twice makes the same mail, down to the last byte: name, `Date` and `Message-ID` are made from the
//! message. In the outbox it is one file; a server may get it twice, and knows it by its `Message-ID`.

mod mail;
mod smtp;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use linecook_sdk::{Failure, Message, Outcome, config, consumer, queues};
use serde::{Deserialize, Serialize};

use crate::smtp::Server;

/// The folder that `queue.toml` grants.
const FOLDER: &str = "/outbox";

/// Who the mails are from, unless `queue.toml` grants the variable `FROM`.
const FROM: &str = "Linecook <hello@example.com>";

#[derive(Deserialize)]
struct Signup {
    email: String,
    #[serde(default)]
    name: String,
}

/// What `audit` is told.
#[derive(Serialize)]
struct Audit<'a> {
    event: &'static str,
    /// The id of the signup's message.
    id: &'a str,
    email: &'a str,
}

/// Where the mails go.
enum Way<'a> {
    Server(Server),
    /// A folder.
    Outbox(&'a Path),
}

#[consumer]
fn welcome_email(message: Message) -> Outcome {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let from = variable("FROM").unwrap_or_else(|| FROM.into());
    let way = way(variable, Path::new(FOLDER))?;
    welcome_by(message, &from, &way)
}

/// Where the mails go, as the settings say.
fn way<'a>(variable: impl Fn(&'static str) -> Option<String>, outbox: &'a Path) -> Result<Way<'a>, Failure> {
    let Some(server) = variable("SMTP_SERVER").or_else(|| config::get("smtp_server")) else {
        return Ok(Way::Outbox(outbox));
    };
    let server = Server::parse(&server)?;
    Ok(Way::Server(match (variable("SMTP_USER"), variable("SMTP_PASSWORD")) {
        (Some(user), Some(password)) => server.login(user, password),
        _ => server,
    }))
}

fn welcome_by(message: Message, from: &str, way: &Way<'_>) -> Outcome {
    let signup: Signup = message.json()?;
    let mail = mail::welcome(from, &signup.email, &signup.name, &message.id, message.enqueued_at)?;
    match way {
        Way::Server(server) => server.send(&mail)?,
        Way::Outbox(outbox) => write_whole(outbox, &format!("{}.eml", message.id), &mail.formatted())?,
    }
    queues::send("audit", &Audit { event: "welcome-email", id: &message.id, email: &signup.email })?;
    Ok(())
}

/// Writes a file that is there whole or not at all, and stays there: the acknowledgement follows.
fn write_whole(folder: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = folder.join(name);
    let unfinished = folder.join(format!(".{name}.tmp"));
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error: io::Error| io::Error::new(error.kind(), format!("writing {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use linecook_sdk::{Failure, testing};
    use serde_json::json;

    const SIGNUP: &str = r#"{"email":"new@example.com","name":"New"}"#;

    #[test]
    fn a_signup_becomes_a_mail_and_an_audit_message() {
        let outbox = tempfile::tempdir().unwrap();
        let message = testing::message(SIGNUP).id("id-1");
        let run = testing::granting(["audit"]).run(|m| welcome_by(m, FROM, &Way::Outbox(outbox.path())), message);

        assert_eq!(run.outcome, Ok(()));
        assert_eq!(run.sends.len(), 1);
        assert_eq!(
            run.sends[0].json::<serde_json::Value>(),
            json!({ "event": "welcome-email", "id": "id-1", "email": "new@example.com" })
        );
        let mail = fs::read_to_string(outbox.path().join("id-1.eml")).unwrap();
        assert!(mail.contains("\r\nTo: New <new@example.com>\r\n"), "{mail}");
        assert_eq!(fs::read_dir(outbox.path()).unwrap().count(), 1, "the temporary file must be gone");
    }

    #[test]
    fn handling_a_signup_again_leaves_the_same_mail() {
        let outbox = tempfile::tempdir().unwrap();
        let handle = |attempt| {
            let message = testing::message(SIGNUP).id("a").attempt(attempt);
            testing::run(|m| welcome_by(m, FROM, &Way::Outbox(outbox.path())), message).outcome.unwrap();
            fs::read(outbox.path().join("a.eml")).unwrap()
        };
        assert_eq!(handle(1), handle(2));
        assert_eq!(fs::read_dir(outbox.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_body_that_is_no_signup_is_a_dead_letter_and_leaves_nothing() {
        let outbox = tempfile::tempdir().unwrap();
        for body in ["", "hello", "[]", "{}", r#"{"email":7}"#, r#"{"email":"nobody"}"#] {
            let run = testing::run(|m| welcome_by(m, FROM, &Way::Outbox(outbox.path())), testing::message(body));
            assert!(matches!(run.outcome, Err(Failure::DeadLetter { .. })), "{body}: {run:?}");
            assert!(run.sends.is_empty() && run.dropped.is_empty());
        }
        assert_eq!(fs::read_dir(outbox.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_is_taken_from_the_environment_or_the_configuration() {
        let outbox = Path::new("/outbox");
        let chosen = |environment: &'static [(&str, &str)], config: &'static [(&str, &str)]| {
            let variable =
                |name| environment.iter().find(|(each, _)| *each == name).map(|(_, value)| (*value).to_owned());
            let mut chosen = None;
            let choose = |_| {
                chosen = match way(variable, outbox)? {
                    Way::Server(server) => Some(server),
                    Way::Outbox(_) => None,
                };
                Ok(())
            };
            testing::config(config.iter().copied()).run(choose, testing::message("")).outcome.map(|()| chosen)
        };
        let server = Server::parse("mail.example:1025").unwrap();
        assert_eq!(chosen(&[], &[]), Ok(None));
        assert_eq!(chosen(&[("SMTP_SERVER", "mail.example:1025")], &[]), Ok(Some(server.clone())));
        assert_eq!(chosen(&[], &[("smtp_server", "mail.example:1025")]), Ok(Some(server.clone())));
        assert_eq!(chosen(&[("SMTP_SERVER", "mail.example:1025"), ("SMTP_USER", "me")], &[]), Ok(Some(server.clone())));
        let login = &[("SMTP_SERVER", "mail.example:1025"), ("SMTP_USER", "me"), ("SMTP_PASSWORD", "pw")];
        assert_eq!(chosen(login, &[]), Ok(Some(server.login("me".into(), "pw".into()))));
        assert!(chosen(&[("SMTP_SERVER", "mail.example:x")], &[]).is_err());
    }

    #[test]
    fn an_outbox_that_cannot_be_written_is_a_retry_that_names_the_file() {
        let outbox = tempfile::tempdir().unwrap();
        let absent = outbox.path().join("absent");
        let run = testing::run(|m| welcome_by(m, FROM, &Way::Outbox(&absent)), testing::message(SIGNUP).id("a"));
        let Err(Failure::Retry { reason, .. }) = run.outcome else { panic!("must be a retry: {run:?}") };
        assert!(reason.contains("absent/a.eml: No such file"), "{reason}");
    }
}
