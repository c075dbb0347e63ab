//! Every route: that the documentation names it, and that it is closed to those who may not use it. The table here names all
//! of them by hand: whoever adds a route says here who may use it.

use std::collections::BTreeSet;

use linecook::auth::TokenHash;
use serde_json::Value;

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::Site;

/// Method, path as it is documented, a request for it, and a scope that is enough. No scope: it is open.
/// `any`: every token will do, which gets what its scopes let it see.
const ROUTES: &[(&str, &str, &str, &str)] = &[
    ("GET", "/queues", "/queues", "any"),
    ("GET", "/queues/{queue}", "/queues/orders", "consume:orders"),
    ("DELETE", "/queues/{queue}", "/queues/orders", "admin:orders"),
    ("GET", "/queues/{queue}/messages", "/queues/orders/messages", "consume:orders"),
    ("POST", "/queues/{queue}/messages", "/queues/orders/messages", "send:orders"),
    ("DELETE", "/queues/{queue}/messages", "/queues/orders/messages", "admin:orders"),
    ("POST", "/queues/{queue}/messages/batch", "/queues/orders/messages/batch", "send:orders"),
    ("POST", "/queues/{queue}/claim", "/queues/orders/claim", "consume:orders"),
    ("POST", "/queues/{queue}/claim/event", "/queues/orders/claim/event", "consume:orders"),
    ("POST", "/queues/{queue}/redrive", "/queues/orders/redrive", "admin:orders"),
    ("POST", "/queues/{queue}/replay", "/queues/orders/replay", "admin:orders"),
    ("POST", "/subjects/{subject}/messages", "/subjects/a.b/messages", "send:a.*"),
    ("POST", "/subjects/{subject}/messages/batch", "/subjects/a.b/messages/batch", "send:a.*"),
    ("POST", "/deliveries", "/deliveries", "any"),
    ("POST", "/deliveries/{lease}/ack", "/deliveries/LEASE/ack", "consume:orders"),
    ("POST", "/deliveries/{lease}/retry", "/deliveries/LEASE/retry", "consume:orders"),
    ("POST", "/deliveries/{lease}/extend", "/deliveries/LEASE/extend", "consume:orders"),
    ("POST", "/deliveries/{lease}/dead-letter", "/deliveries/LEASE/dead-letter", "consume:orders"),
    ("GET", "/consumers", "/consumers", "any"),
    ("POST", "/consumers/{name}/pause", "/consumers/cook/pause", "admin:jobs"),
    ("POST", "/consumers/{name}/resume", "/consumers/cook/resume", "admin:jobs"),
    ("DELETE", "/consumers/{name}/state", "/consumers/gone/state", "admin"),
    ("GET", "/producers", "/producers", "any"),
    ("GET", "/healthz", "/healthz", ""),
    ("GET", "/readyz", "/readyz", ""),
    ("GET", "/metrics", "/metrics", "admin"),
    ("GET", "/openapi.json", "/openapi.json", "any"),
];

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// A runtime with the tokens: the text of one is the scope that it is good for.
fn site(scopes: &BTreeSet<&str>) -> Site {
    let token = |index: usize, text: &str, scope: &str, more: &str| {
        format!("[runtime.auth.tokens.t{index}]\nsha256 = \"{}\"\nscopes = [{scope:?}]\n{more}\n", TokenHash::of(text))
    };
    let tokens = scopes.iter().enumerate().map(|(index, scope)| token(index, scope, scope, ""));
    let tokens: String = tokens.collect();
    let expired = token(1000, "expired", "admin", "expires = \"2026-01-01T00:00:00Z\"");
    Site::new(&format!(
        "{tokens}{expired}[queues.orders]\nsubscribe = [\"a.*\"]\n[queues.jobs]\n[queues.other]\n\
         [consumers.cook]\nqueue = \"jobs\"\ncomponent = \"absent.wasm\"\n"
    ))
}

#[test]
fn the_documentation_names_exactly_the_routes_that_there_are() {
    let site = Site::new("[queues.orders]\nsubscribe = [\"a.*\"]\n[queues.jobs]");
    let _runtime = site.start();
    let document = site.get("/openapi.json");
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let named: BTreeSet<_> = ROUTES.iter().map(|route| (route.0.to_owned(), route.1.to_owned())).collect();
    assert_eq!(documented, named, "the table of this test names all routes");
    // What is documented is answered, and nothing else.
    for path in ROUTES.iter().map(|route| route.1).collect::<BTreeSet<_>>() {
        let request = ROUTES.iter().find(|route| route.1 == path).unwrap().2;
        for method in METHODS {
            let answer = site.request(method, request, &[], b"").unwrap();
            let exists = documented.contains(&(method.to_owned(), path.to_owned()));
            assert_eq!(answer.status != 405, exists, "{method} {path}: {}", answer.body);
            assert_ne!(answer.status, 500, "{method} {path}");
        }
    }
}

#[test]
fn every_route_is_closed_to_those_who_may_not_use_it() {
    // A scope for everything but what the route needs, if it needs one.
    let wrong = |scope: &str| -> Vec<&'static str> {
        match scope.split_once(':').map_or(scope, |(action, _)| action) {
            "send" => vec!["consume", "send:other", "admin:other"],
            "consume" => vec!["send", "consume:other", "admin:other"],
            _ => vec!["send", "consume", "admin:other"],
        }
    };
    let mut scopes: BTreeSet<&str> =
        ROUTES.iter().map(|route| route.3).filter(|scope| !matches!(*scope, "" | "any")).collect();
    scopes.extend(["send", "consume", "send:other", "consume:other", "admin:other", "admin"]);
    let site = site(&scopes);
    let mut runtime = site.spawn();
    site.wait_ready(&mut runtime);
    let request = |method: &str, path: &str, token: Option<&str>| {
        let value = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = value.as_deref().map(|value| ("authorization", value)).into_iter().collect();
        site.request(method, path, &headers, b"").unwrap()
    };
    for (method, _, path, scope) in ROUTES {
        let mut path = (*path).to_owned();
        if path.contains("LEASE") {
            let send = request("POST", "/queues/orders/messages", Some("send"));
            assert_eq!(send.status, 202, "{}", send.body);
            let claimed = request("POST", "/queues/orders/claim", Some("consume"));
            path = path.replace("LEASE", claimed.body["messages"][0]["lease"].as_str().unwrap());
        }
        if scope.is_empty() {
            assert_eq!(request(method, &path, None).status, 200, "{method} {path} is open");
            continue;
        }
        for token in [None, Some("wrong"), Some("expired"), Some("")] {
            let answer = request(method, &path, token);
            assert_eq!(answer.status, 401, "{method} {path} with {token:?}: {}", answer.body);
            assert_eq!(answer.body["type"], "urn:linecook:problem:unauthorized");
        }
        if *scope == "any" {
            let answer = request(method, &path, Some("send:other"));
            assert!(!matches!(answer.status, 401 | 403), "{method} {path}: {}", answer.body);
            continue;
        }
        for token in wrong(scope) {
            let answer = request(method, &path, Some(token));
            // To see that a queue is there, a scope for anything to do with it is enough.
            let sees = *method == "GET" && path == "/queues/orders" && token == "send";
            assert_eq!(answer.status == 403, !sees, "{method} {path} with {token}: {}", answer.body);
        }
        let answer = request(method, &path, Some(scope));
        assert!(!matches!(answer.status, 401 | 403), "{method} {path} with {scope}: {}", answer.body);
    }
    // Lists show what the token may see.
    let names = |path: &str, list: &str, token: &str| -> Vec<Value> {
        request("GET", path, Some(token)).body[list].as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
    };
    assert_eq!(names("/queues", "queues", "send:other"), ["other"]);
    assert_eq!(names("/consumers", "consumers", "send:other"), Vec::<Value>::new());
    assert_eq!(names("/consumers", "consumers", "admin:jobs"), ["cook"]);
    // A batch of answers is checked one by one, and a redrive by where it goes.
    request("POST", "/queues/orders/messages", Some("send"));
    let claimed = request("POST", "/queues/orders/claim", Some("consume"));
    let answers = format!("[{{\"lease\":{},\"outcome\":\"ack\"}}]", claimed.body["messages"][0]["lease"]);
    let headers = [("authorization", "Bearer consume:other")];
    let refused = site.request("POST", "/deliveries", &headers, answers.as_bytes()).unwrap();
    assert_eq!(refused.body["results"][0]["status"], 403, "{}", refused.body);
    let headers = [("authorization", "Bearer admin:orders")];
    let refused = site.request("POST", "/queues/orders/redrive", &headers, b"{\"to\":\"other\"}").unwrap();
    assert_eq!(refused.status, 403, "{}", refused.body);
}

#[test]
fn a_refusal_says_how_to_ask() {
    let site = site(&["send:orders"].into());
    let _runtime = site.start();
    let head = |token: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(site.address()).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.to_ascii_lowercase()
    };
    assert!(head("").contains("www-authenticate: bearer realm=\"linecook\"\r\n"));
    assert!(head("authorization: Bearer x\r\n").contains("error=\"invalid_token\""));
    assert!(head("authorization: Basic x\r\n").contains("error=\"invalid_request\""));
    assert!(head("authorization: bearer send:orders\r\n").contains("error=\"insufficient_scope\""));

    // The command line takes its token from the environment or a file.
    let status = site.run(&["send", "orders", "x"]);
    let told = String::from_utf8(status.stderr).unwrap();
    assert!(status.status.code() == Some(1) && told.contains("LINECOOK_TOKEN"), "{told}");
    let output = site.command(&["send", "orders", "x"]).env("LINECOOK_TOKEN", "send:orders").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(site.path("token"), "send:orders\n").unwrap();
    site.run_well(&["--token-file", "token", "send", "orders", "y"]);
}

#[test]
fn a_new_token_works_once_its_lines_are_in_the_file() {
    let anywhere = Site::new("");
    let new = ["token", "new", "--quiet", "--name", "ci", "--scope", "send:orders.*", "--expires", "90d"];
    let output = anywhere.run(&new);
    let (token, lines) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(token.starts_with("linecook_") && !lines.contains(token.trim()), "{lines}");
    let site = Site::new(&format!("{lines}[queues.\"orders.new\"]\n[queues.other]"));
    let _runtime = site.start();
    let send = |queue: &str| {
        let output = site.command(&["send", queue, "x"]).env("LINECOOK_TOKEN", token.trim()).output().unwrap();
        output.status.code()
    };
    assert_eq!((send("orders.new"), send("other")), (Some(0), Some(1)));
}
