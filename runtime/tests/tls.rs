//! TLS on the listener: the command line trusts the certificate of the file, and a new one is taken into use when its files
//! change.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

#[path = "support/linecook.rs"]
#[allow(unreachable_pub, reason = "shared by several test crates")]
mod runtime;

use runtime::{Site, eventually, when};

const NAME: &str = "queues.example";

/// Writes a new certificate for the name, and gives it.
fn renew(site: &Site) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    fs::write(site.path("key.pem"), signing_key.serialize_pem()).unwrap();
    fs::write(site.path("cert.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

/// The answer to a request, if the runtime shows this certificate.
fn get(site: &Site, trusted: &CertificateDer<'static>) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TcpStream::connect(site.address()).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config.into(), name).unwrap(), stream);
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    Ok(answer)
}

#[test]
fn a_renewed_certificate_is_taken_into_use() {
    let site = Site::with_runtime(
        &format!("log_max_bytes = \"64MiB\"\ntls = {{ cert = \"cert.pem\", key = \"key.pem\", name = \"{NAME}\" }}"),
        "[queues.orders]",
    );
    let first = renew(&site);
    let runtime = site.spawn();
    eventually("an answer over TLS", || {
        let answer = get(&site, &first)?;
        when(answer.starts_with("HTTP/1.1 200"), answer)
    });
    site.run_well(&["send", "orders", "x"]);
    assert!(site.run_well(&["status"]).contains("orders"));
    // In the clear there is no answer, and the connection does not stay open.
    let mut plain = TcpStream::connect(site.address()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));

    // A key that does not fit leaves the old one in force.
    let key = fs::read(site.path("key.pem")).unwrap();
    fs::write(site.path("key.pem"), "no key").unwrap();
    eventually("a warning", || when(runtime.stderr().contains("the old certificate stays"), runtime.stderr()));
    assert!(get(&site, &first).is_ok());
    fs::write(site.path("key.pem"), key).unwrap();

    let second = renew(&site);
    eventually("the new certificate", || get(&site, &second));
    assert!(get(&site, &first).is_err());
    site.run_well(&["send", "orders", "y"]);
    runtime.stop();
}

#[test]
fn a_certificate_that_does_not_work_is_refused_at_the_start() {
    let site = Site::with_runtime("tls = { cert = \"cert.pem\", key = \"key.pem\" }", "[queues.orders]");
    let says = |text: &str| {
        let ended = site.spawn().wait();
        assert!(ended.code == Some(1) && ended.stderr.contains(text), "{}", ended.stderr);
    };
    says("cert.pem");
    fs::write(site.path("cert.pem"), "").unwrap();
    says("no certificate");
    renew(&site);
    let other = Site::new("");
    renew(&other);
    fs::copy(other.path("key.pem"), site.path("key.pem")).unwrap();
    says("does not fit its key");
}
