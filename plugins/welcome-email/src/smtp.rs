//! Handing a mail to a server, by lettre's SMTP client over the sockets of WASI.
//!
//! In the clear, as to a relay in one's own network; a server on the internet wants TLS, which its client brings no
//! implementation for that compiles to WASI.

use lettre::message::Message;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::{Category, Severity};
use lettre::{SmtpTransport, Transport};
use linecook_sdk::Failure;

/// The port of a server that is named without one.
const PORT: u16 = 25;

/// A mail server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// A name or an address, without the brackets of IPv6.
    host: String,
    port: u16,
    /// User and password.
    login: Option<(String, String)>,
}

impl Server {
    /// Takes `mail.example:1025`, `127.0.0.1` or `[::1]:25`.
    ///
    /// # Errors
    ///
    /// A retry: it is the operator's mistake, and can be mended.
    pub(crate) fn parse(text: &str) -> Result<Server, Failure> {
        let (host, port) = match text.rsplit_once(':') {
            // A colon of the address itself.
            Some((host, _)) if host.starts_with('[') != host.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port > 0));
        match port {
            Some(port) if !host.is_empty() => Ok(Server { host: host.to_owned(), port, login: None }),
            _ => {
                Err(Failure::retry(format_args!("SMTP_SERVER is {text:?}, which is not a server like mail.example:25")))
            }
        }
    }

    /// Logs in first.
    pub(crate) fn login(mut self, user: String, password: String) -> Server {
        self.login = Some((user, password));
        self
    }

    /// Hands it over. When this returns, the server has taken the responsibility for it.
    ///
    /// # Errors
    ///
    /// A dead letter, if the server will never take this mail (55x: no such mailbox, say). Else a retry.
    pub(crate) fn send(&self, mail: &Message) -> Result<(), Failure> {
        let mut client = SmtpTransport::builder_dangerous(&self.host).port(self.port).timeout(None);
        if let Some(domain) = mail.envelope().from().map(|from| from.domain().to_owned()) {
            client = client.hello_name(ClientId::Domain(domain));
        }
        if let Some((user, password)) = self.login.clone() {
            client = client.credentials(Credentials::new(user, password));
        }
        match client.build().send(mail) {
            Ok(_) => Ok(()),
            Err(error) => {
                let is_final = error.status().is_some_and(|code| {
                    code.severity == Severity::PermanentNegativeCompletion && code.category == Category::MailSystem
                });
                let Failure::Retry { reason, .. } = Failure::from(error) else { unreachable!("any error is a retry") };
                let reason = format!("the mail server {}:{} did not take the mail: {reason}", self.host, self.port);
                Err(if is_final { Failure::dead_letter(reason) } else { Failure::retry(reason) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::mail;

    #[test]
    fn a_server_is_a_host_and_maybe_a_port() {
        for (text, host, port) in [
            ("mail.example:1025", "mail.example", 1025),
            ("mail.example", "mail.example", 25),
            ("127.0.0.1:2525", "127.0.0.1", 2525),
            ("[::1]:2525", "::1", 2525),
            ("[::1]", "::1", 25),
        ] {
            assert_eq!(Server::parse(text), Ok(Server { host: host.into(), port, login: None }), "{text}");
        }
        for text in ["", ":25", "mail.example:", "mail.example:smtp", "mail.example:0", "mail.example:65536", "[]:25"] {
            let Err(Failure::Retry { reason, .. }) = Server::parse(text) else { panic!("{text:?} must be refused") };
            assert!(reason.starts_with("SMTP_SERVER is "), "{reason}");
        }
    }

    /// A server that greets, gives these answers to the commands of one connection, and then tells which they were.
    fn scripted(answers: &'static [&'static str]) -> (Server, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let seen = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut seen = Vec::new();
            stream.get_mut().write_all(b"220 here\r\n").unwrap();
            for answer in answers {
                let mut line = String::new();
                if stream.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
                seen.push(line.trim_end().to_owned());
                stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).unwrap();
            }
            seen
        });
        (server, seen)
    }

    fn mail() -> Message {
        mail::welcome("hello@example.com", "new@example.com", "New", "id-1", UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_mailbox_that_does_not_exist_is_a_dead_letter_with_the_servers_words() {
        let (server, seen) = scripted(&["250 hi", "250 ok", "550 no such user", "221 bye"]);
        let Err(Failure::DeadLetter { reason }) = server.send(&mail()) else { panic!("must be a dead letter") };
        assert!(reason.contains("no such user") && reason.contains("127.0.0.1:"), "{reason}");
        let seen = seen.join().unwrap();
        assert_eq!(&seen[..3], ["EHLO example.com", "MAIL FROM:<hello@example.com>", "RCPT TO:<new@example.com>"]);
    }

    #[test]
    fn what_may_change_is_a_retry() {
        for answers in [
            &["250 hi", "250 ok", "451 try later", "221 bye"][..],
            &["250 hi", "530 log in first", "221 bye"],
            &["421 too busy"],
            &[],
        ] {
            let (server, _) = scripted(answers);
            assert!(matches!(server.send(&mail()), Err(Failure::Retry { .. })), "{answers:?}");
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let Err(Failure::Retry { reason, .. }) = Server::parse(&free.to_string()).unwrap().send(&mail()) else {
            panic!("must be a retry")
        };
        assert!(reason.contains(&free.to_string()) && reason.contains("refused"), "{reason}");
    }
}
