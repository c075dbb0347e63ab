//! Calls servers with the HTTP client of the SDK, and reads its values. The body is a JSON object. An error of the SDK is the
//! reason of a dead letter; else what was got goes to the queue `report`.
//!
//! | body | what is reported |
//! | --- | --- |
//! | `{"method":"GET","url":"…"}`, with `"headers"`, `"body"`, `"json"`, `"timeout_ms"`, `"response_bytes_max"` | `{"status":200,"headers":{…},"body":"…"}` |
//! | `{"config":"key"}` | `{"value":…,"all":{…}}`; with `"must":true` it must be there |

use std::collections::BTreeMap;
use std::time::Duration;

use linecook_sdk::{Failure, Message, Outcome, config, consumer, http, queues};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Command {
    Config {
        config: String,
        #[serde(default)]
        must: bool,
    },
    Call(Call),
}

#[derive(Deserialize)]
struct Call {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    /// So many bytes as the body.
    body_bytes: Option<usize>,
    json: Option<Value>,
    timeout_ms: Option<u64>,
    response_bytes_max: Option<usize>,
}

#[consumer]
fn client(message: Message) -> Outcome {
    let report = match message.json()? {
        Command::Config { config: key, must: true } => {
            json!({ "value": config::require(&key).map_err(Failure::dead_letter)? })
        }
        Command::Config { config: key, must: false } => json!({ "value": config::get(&key), "all": config::get_all() }),
        Command::Call(call) => answer(call).map_err(Failure::dead_letter)?,
    };
    Ok(queues::send("report", &report)?)
}

fn answer(call: Call) -> Result<Value, http::HttpError> {
    let mut request = http::request(&call.method, call.url);
    for (name, value) in call.headers {
        request = request.header(&name, value);
    }
    if let Some(body) = call.body {
        request = request.body(body);
    }
    if let Some(bytes) = call.body_bytes {
        request = request.body(vec![b'x'; bytes]);
    }
    if let Some(json) = call.json {
        request = request.json(&json);
    }
    if let Some(timeout) = call.timeout_ms {
        request = request.timeout(Duration::from_millis(timeout));
    }
    if let Some(bytes) = call.response_bytes_max {
        request = request.response_bytes_max(bytes);
    }
    let response = request.send()?.error_for_status()?;
    let headers: BTreeMap<_, _> = response.headers.iter().cloned().collect();
    let body = if response.body.len() > 100_000 { json!(response.body.len()) } else { json!(response.text()?) };
    Ok(json!({ "status": response.status, "headers": headers, "body": body }))
}
