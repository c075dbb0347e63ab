//! `wasi:http/outgoing-handler`, called by hand.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

/// A response whose head is there.
pub(crate) struct Response(IncomingResponse);

/// A response that was read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
}

/// Sends a request and waits for the head of the response. The error is the name of its code.
pub(crate) fn send(method: &str, url: &str, body: Option<&str>) -> Result<Response, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = match method {
        "GET" => Method::Get,
        "POST" => Method::Post,
        other => Method::Other(other.to_owned()),
    };
    request.set_method(&method).map_err(|()| "method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "path")?;
    let outgoing = request.body().map_err(|()| "body")?;
    let future = outgoing_handler::handle(request, None).map_err(|code| format!("{code:?}"))?;
    if let Some(body) = body {
        let stream = outgoing.write().map_err(|()| "body stream")?;
        for chunk in body.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(chunk).map_err(|error| format!("{error:?}"))?;
        }
    }
    OutgoingBody::finish(outgoing, None).map_err(|code| format!("{code:?}"))?;
    future.subscribe().block();
    let response = future.get().expect("it is ready").expect("it is taken once");
    response.map(Response).map_err(|code| format!("{code:?}"))
}

impl Response {
    /// Reads it to its end.
    pub(crate) fn read(self) -> Result<Answer, String> {
        let status = self.0.status();
        let location = self.0.headers().get("location").into_iter().next();
        let location = location.map(|value| String::from_utf8_lossy(&value).into_owned());
        let incoming = self.0.consume().map_err(|()| "body")?;
        let stream = incoming.stream().map_err(|()| "body stream")?;
        let mut body = Vec::new();
        loop {
            match stream.blocking_read(64 << 10) {
                Ok(bytes) => body.extend(bytes),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
            }
        }
        Ok(Answer { status, location, body: String::from_utf8_lossy(&body).into_owned() })
    }
}
