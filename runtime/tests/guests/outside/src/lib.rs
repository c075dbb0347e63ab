//! Calls what is outside the sandbox, as the message says. The body is a JSON object; `do` says what to do. What came of
//! it, also an error, goes to the queue `report`, with the id of the message as the key.
//!
//! | body | what is reported |
//! | --- | --- |
//! | `{"do":"http","url":"http://…"}` | `{"status":200,"body":"…"}` or `{"error":"…"}`; with `"method"`, `"body"`; with `"follow":true` redirects are followed |
//! | `{"do":"hold","url":"http://…","count":3}` | `{"results":["ok",…]}`: so many responses held at once |
//! | `{"do":"connect","to":"localhost:25","send":"…"}` | `{"received":"…"}` or `{"error":"…"}` |
//! | `{"do":"bind","to":"0.0.0.0:0"}`, `{"do":"udp"}`, `{"do":"look-up","name":"…"}` | `{"ok":…}` or `{"error":"…"}` |
//! | `{"do":"sockets","count":9}` | `{"made":9}`: sockets held at once, without connecting them |
//! | `{"do":"config","key":"…"}` | `{"value":…,"all":{…}}` |
//! | `{"do":"log","level":"warn","context":"c","text":"…"}` | nothing |
//! | `{"do":"random","bytes":9,"insecure":false}` | `{"bytes":9}` |
//! | `{"do":"fail-with","variable":"…"}` | nothing: fails with its value as the reason, after printing it |

use std::collections::BTreeMap;

use linecook_sdk::{Failure, Message, Outcome, consumer, queues};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Response;

mod http;
mod sockets;

#[allow(unsafe_code, missing_docs, reason = "generated")]
mod host {
    wit_bindgen::generate!({
        inline: "
            package test:outside;
            world outside {
                import wasi:config/store@0.2.0-rc.1;
                import wasi:logging/logging@0.1.0-draft;
            }
        ",
        path: "../../../../sdk/wit",
        world: "test:outside/outside",
        generate_all,
    });
}

use host::wasi::config::store;
use host::wasi::logging::logging::{Level, log};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Command {
    Http {
        url: String,
        #[serde(default)]
        method: Option<String>,
        #[serde(default)]
        body: Option<String>,
        #[serde(default)]
        follow: bool,
    },
    Hold {
        url: String,
        count: usize,
    },
    Connect {
        to: String,
        send: String,
    },
    Bind {
        to: String,
    },
    Udp,
    LookUp {
        name: String,
    },
    Sockets {
        count: usize,
    },
    Config {
        key: String,
    },
    Log {
        level: String,
        context: String,
        text: String,
    },
    Random {
        bytes: u64,
        #[serde(default)]
        insecure: bool,
    },
    FailWith {
        variable: String,
    },
}

#[consumer]
fn outside(message: Message) -> Outcome {
    let report = match message.json()? {
        Command::Http { url, method, body, follow } => call(&url, method, body, follow),
        Command::Hold { url, count } => {
            let held: Vec<_> = (0..count).map(|_| http::send("GET", &url, None)).collect();
            let results: Vec<_> =
                held.iter().map(|held| held.as_ref().map_or_else(Clone::clone, |_| "ok".into())).collect();
            json!({ "results": results })
        }
        Command::Connect { to, send } => match sockets::exchange(&to, &send) {
            Ok(received) => json!({ "received": received }),
            Err(error) => json!({ "error": error.to_string() }),
        },
        Command::Bind { to } => result(sockets::listen(&to).map(|()| "listening".to_owned())),
        Command::Udp => result(sockets::udp().map(|()| "bound".to_owned())),
        Command::LookUp { name } => result(sockets::look_up(&name).map(|found| found.to_string())),
        Command::Sockets { count } => {
            use wasip2::sockets::network::IpAddressFamily::Ipv4;
            use wasip2::sockets::tcp_create_socket::create_tcp_socket;
            let held: Vec<_> = (0..count).map_while(|_| create_tcp_socket(Ipv4).ok()).collect();
            json!({ "made": held.len() })
        }
        Command::Config { key } => {
            let all: BTreeMap<_, _> =
                store::get_all().map_err(|error| Failure::retry(format!("{error:?}")))?.into_iter().collect();
            let value = store::get(&key).map_err(|error| Failure::retry(format!("{error:?}")))?;
            json!({ "value": value, "all": all })
        }
        Command::Log { level, context, text } => {
            let level = match level.as_str() {
                "trace" => Level::Trace,
                "debug" => Level::Debug,
                "warn" => Level::Warn,
                "error" => Level::Error,
                "critical" => Level::Critical,
                _ => Level::Info,
            };
            log(level, &context, &text);
            return Ok(());
        }
        Command::Random { bytes, insecure: false } => {
            json!({ "bytes": wasip2::random::random::get_random_bytes(bytes).len() })
        }
        Command::Random { bytes, insecure: true } => {
            json!({ "bytes": wasip2::random::insecure::get_insecure_random_bytes(bytes).len() })
        }
        Command::FailWith { variable } => {
            let value = std::env::var(variable).map_err(Failure::dead_letter)?;
            println!("out: {value}");
            eprintln!("err: {value}");
            log(Level::Warn, &value, &format!("log: {value}"));
            return Err(Failure::retry(format!("reason: {value}")));
        }
    };
    Ok(queues::json(&report)?.key(message.id).send("report")?)
}

fn result(result: std::io::Result<String>) -> Value {
    match result {
        Ok(what) => json!({ "ok": what }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn call(url: &str, method: Option<String>, body: Option<String>, follow: bool) -> Value {
    let mut url = url.to_owned();
    let method = method.unwrap_or_else(|| "GET".to_owned());
    for _ in 0..5 {
        let answered = http::send(&method, &url, body.as_deref()).and_then(Response::read);
        match answered {
            Ok(answer) if follow && (300..400).contains(&answer.status) => url = answer.location.unwrap_or_default(),
            Ok(answer) => return json!({ "status": answer.status, "body": answer.body, "location": answer.location }),
            Err(error) => return json!({ "error": error, "url": url }),
        }
    }
    json!({ "error": "too many redirects" })
}
