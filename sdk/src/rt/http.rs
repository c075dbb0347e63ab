//! Requests over the host's `wasi:http/outgoing-handler`.

use std::time::Duration;

use ::http::header::CONTENT_LENGTH;
use wasip2::clocks::monotonic_clock::{self, Instant};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::poll::{self, Pollable};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

use crate::http::{Call, HttpError, Response};

/// As much as is asked for at once of a response's body.
const READ_BYTES: u64 = 64 << 10;

/// Sends a request, and reads what is answered.
pub(crate) fn exchange(call: Call) -> Result<Response, HttpError> {
    let deadline = call.timeout.map(|timeout| monotonic_clock::now().saturating_add(nanoseconds(timeout)));
    let exchange = Exchange { call: &call, deadline };
    let (outgoing, request) = exchange.request()?;
    let options = exchange.options();
    let future = outgoing_handler::handle(request, options).map_err(|code| exchange.error(code))?;
    if let Some(outgoing) = outgoing {
        let stream = outgoing.write().map_err(|()| exchange.failed("its body can't be written"))?;
        exchange.write(&stream)?;
        drop(stream);
        OutgoingBody::finish(outgoing, None).map_err(|code| exchange.error(code))?;
    }
    exchange.read(exchange.head(&future)?)
}

struct Exchange<'a> {
    call: &'a Call,
    deadline: Option<Instant>,
}

impl Exchange<'_> {
    fn request(&self) -> Result<(Option<OutgoingBody>, OutgoingRequest), HttpError> {
        let call = self.call;
        let bytes = |bytes: &[u8]| bytes.to_vec();
        let mut headers: Vec<_> =
            call.headers.iter().map(|(name, value)| (name.as_str().to_owned(), bytes(value.as_bytes()))).collect();
        let has_body = !call.body.is_empty();
        let counts = has_body || matches!(&*call.method, "POST" | "PUT" | "PATCH");
        // Without it the body is sent in chunks, which some servers don't take.
        if counts && !call.headers.iter().any(|(name, _)| *name == CONTENT_LENGTH) {
            headers.push((CONTENT_LENGTH.as_str().to_owned(), call.body.len().to_string().into_bytes()));
        }
        let fields = Fields::from_list(&headers)
            .map_err(|error| self.invalid(&format!("the host does not take its headers: {error}")))?;
        let request = OutgoingRequest::new(fields);
        let scheme = if call.target.https { Scheme::Https } else { Scheme::Http };
        let method = match &*call.method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "CONNECT" => Method::Connect,
            "OPTIONS" => Method::Options,
            "TRACE" => Method::Trace,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        };
        request.set_method(&method).map_err(|()| self.invalid("the host does not take its method"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| self.invalid("the host does not take its scheme"))?;
        request
            .set_authority(Some(&call.target.authority))
            .map_err(|()| self.invalid("the host does not take its host"))?;
        request
            .set_path_with_query(Some(&call.target.path_with_query))
            .map_err(|()| self.invalid("the host does not take its path"))?;
        if !has_body {
            return Ok((None, request));
        }
        let body = request.body().map_err(|()| self.failed("it has no body to write to"))?;
        Ok((Some(body), request))
    }

    /// The host's own timeouts, so that it does not go on after ours.
    fn options(&self) -> Option<RequestOptions> {
        let timeout = nanoseconds(self.call.timeout?);
        let options = RequestOptions::new();
        // A host that has none of them is no reason not to call: ours holds by itself.
        let _ = options.set_connect_timeout(Some(timeout));
        let _ = options.set_first_byte_timeout(Some(timeout));
        let _ = options.set_between_bytes_timeout(Some(timeout));
        Some(options)
    }

    fn write(&self, stream: &OutputStream) -> Result<(), HttpError> {
        let mut left = &*self.call.body;
        while !left.is_empty() {
            match stream.check_write() {
                Ok(0) => self.wait(&stream.subscribe())?,
                Ok(room) => {
                    let (now, later) = left.split_at(left.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                    match stream.write(now) {
                        Ok(()) => left = later,
                        Err(StreamError::Closed) => return Ok(()),
                        Err(StreamError::LastOperationFailed(error)) => {
                            return Err(self.failed(&error.to_debug_string()));
                        }
                    }
                }
                // The server does not want more. What it has to say is in the response.
                Err(StreamError::Closed) => return Ok(()),
                Err(StreamError::LastOperationFailed(error)) => return Err(self.failed(&error.to_debug_string())),
            }
        }
        stream.flush().or_else(|error| match error {
            StreamError::Closed => Ok(()),
            StreamError::LastOperationFailed(error) => Err(self.failed(&error.to_debug_string())),
        })
    }

    fn head(&self, future: &FutureIncomingResponse) -> Result<IncomingResponse, HttpError> {
        loop {
            match future.get() {
                Some(Ok(Ok(response))) => return Ok(response),
                Some(Ok(Err(code))) => return Err(self.error(code)),
                Some(Err(())) => return Err(self.failed("the response was taken already")),
                None => self.wait(&future.subscribe())?,
            }
        }
    }

    fn read(&self, response: IncomingResponse) -> Result<Response, HttpError> {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        let headers = response.headers().entries().into_iter();
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), text(value))).collect();
        let status = response.status();
        let incoming = response.consume().map_err(|()| self.failed("its response has no body to read"))?;
        let stream = incoming.stream().map_err(|()| self.failed("its response has no body to read"))?;
        let body = self.read_body(&stream)?;
        drop(stream);
        drop(IncomingBody::finish(incoming));
        Ok(Response { status, headers, body, request: self.call.label.clone() })
    }

    fn read_body(&self, stream: &InputStream) -> Result<Vec<u8>, HttpError> {
        let bytes_max = self.call.response_bytes_max;
        let mut body = Vec::new();
        loop {
            match stream.read(READ_BYTES) {
                Ok(bytes) if bytes.is_empty() => self.wait(&stream.subscribe())?,
                Ok(bytes) if body.len() + bytes.len() > bytes_max => {
                    return Err(HttpError::TooLarge { request: self.call.label.clone(), bytes_max });
                }
                Ok(bytes) if body.is_empty() => body = bytes,
                Ok(bytes) => body.extend_from_slice(&bytes),
                Err(StreamError::Closed) => return Ok(body),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(match wasip2::http::types::http_error_code(&error) {
                        Some(code) => self.error(code),
                        None => self.failed(&error.to_debug_string()),
                    });
                }
            }
        }
    }

    /// Waits until there is something to do, or the time is over.
    fn wait(&self, ready: &Pollable) -> Result<(), HttpError> {
        let Some(deadline) = self.deadline else {
            ready.block();
            return Ok(());
        };
        poll::poll(&[ready, &monotonic_clock::subscribe_instant(deadline)]);
        // Whatever is ready by now does not count any more: a server that trickles would never be late.
        if monotonic_clock::now() >= deadline { Err(self.timeout(self.call.timeout)) } else { Ok(()) }
    }

    fn timeout(&self, after: Option<Duration>) -> HttpError {
        HttpError::Timeout { request: self.call.label.clone(), after }
    }

    fn invalid(&self, detail: &str) -> HttpError {
        HttpError::Invalid { request: self.call.label.clone(), detail: detail.to_owned() }
    }

    fn failed(&self, detail: &str) -> HttpError {
        HttpError::Failed { request: self.call.label.clone(), detail: detail.to_owned() }
    }

    fn error(&self, code: ErrorCode) -> HttpError {
        let request = self.call.label.clone();
        match code {
            ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
                HttpError::NotGranted { request, grant: self.call.target.grant() }
            }
            // The host's timeouts are ours, if the request has one: which of them came first says nothing.
            ErrorCode::DnsTimeout
            | ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::HttpResponseTimeout => self.timeout(self.call.timeout),
            ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => self.failed("the host's name does not resolve"),
            ErrorCode::ConnectionRefused => self.failed("the connection was refused"),
            ErrorCode::ConnectionTerminated => self.failed("the connection broke"),
            ErrorCode::ConnectionLimitReached => self.failed("the delivery has too many connections at once"),
            ErrorCode::TlsCertificateError => self.failed("the server's certificate is not trusted"),
            ErrorCode::TlsProtocolError => self.failed("the server does not speak TLS as it should"),
            ErrorCode::HttpProtocolError => self.failed("the server does not speak HTTP as it should"),
            ErrorCode::InternalError(Some(detail)) => self.failed(&detail),
            other => self.failed(&format!("{other:?}")),
        }
    }
}

/// A longer time than there are nanoseconds for is as good as for ever.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
