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

/// A connection on which nothing was said yet.
fn connect(site: &Site, trusted: &CertificateDer<'static>) -> Result<StreamOwned<ClientConnection, TcpStream>, String> {
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
    Ok(StreamOwned::new(ClientConnection::new(config.into(), name).unwrap(), stream))
}

/// The answer to a request, if the runtime shows this certificate.
fn get(site: &Site, trusted: &CertificateDer<'static>) -> Result<String, String> {
    let mut stream = connect(site, trusted)?;
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
fn handshakes_and_headers_that_drip_are_cut_off() {
    let site = Site::with_runtime(
        &format!("log_max_bytes = \"64MiB\"\ntls = {{ cert = \"cert.pem\", key = \"key.pem\", name = \"{NAME}\" }}"),
        "[queues.orders]",
    );
    let trusted = renew(&site);
    let runtime = site.spawn();
    eventually("an answer over TLS", || get(&site, &trusted));
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", runtime.id())).unwrap().count();
    let before = descriptors();
    // The beginning of a handshake, which says how long it will be; nothing at all; what is no handshake.
    let begun = [0x16, 3, 1, 2, 0, 1];
    let mut silent: Vec<_> = (0..300).map(|_| TcpStream::connect(site.address()).unwrap()).collect();
    for (index, stream) in silent.iter_mut().enumerate() {
        match index % 3 {
            0 => stream.write_all(&begun).unwrap(),
            1 => {}
            _ => stream.write_all(b"GET / HTTP/1.1\r\n").unwrap(),
        }
    }
    let mut slow: Vec<_> = (0..50).map(|_| connect(&site, &trusted).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n").unwrap();
    }
    assert!(descriptors() > before + 50, "{} descriptors, {before} before", descriptors());
    eventually("an end", || {
        assert!(get(&site, &trusted).unwrap().starts_with("HTTP/1.1 200"));
        for stream in &mut silent {
            _ = stream.write_all(&[0]);
        }
        slow.retain_mut(|stream| stream.write_all(b"a").and_then(|()| stream.flush()).is_ok());
        when(descriptors() <= before + 5, descriptors())
    });
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
