//! TLS for the listener (`[runtime.tls]`). The certificate is read again when its files change, so that whoever renews it need
//! not restart anything; connections that are open keep the old one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that lead to its authority, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// What the listener speaks TLS with.
pub struct Tls {
    files: TlsFiles,
    // Short: read for each connection, written when a certificate is renewed.
    config: RwLock<Arc<ServerConfig>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn open(files: &TlsFiles) -> io::Result<Tls> {
        Ok(Tls { files: files.clone(), config: RwLock::new(load(files)?) })
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Reads the files again whenever they change, for as long as it is polled. Files that don't fit together (one of the two
    /// is written before the other) leave the old certificate in force.
    pub async fn follow(&self) {
        let mut seen = changed_at(&self.files);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let now = changed_at(&self.files);
            if now == seen {
                continue;
            }
            let files = self.files.clone();
            let loaded = tokio::task::spawn_blocking(move || load(&files)).await;
            match loaded.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(config) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!(cert = %self.files.cert.display(), "the certificate was renewed");
                }
                Err(error) => tracing::warn!("the old certificate stays in force: {error}"),
            }
            seen = now;
        }
    }
}

/// When each file was last written; none that can't be looked at.
fn changed_at(files: &TlsFiles) -> [Option<(SystemTime, u64)>; 2] {
    let look = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    [look(&files.cert), look(&files.key)]
}

fn load(files: &TlsFiles) -> io::Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, why: String| io::Error::other(format!("{}: {why}", path.display()));
    let certificates: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(&files.cert, error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong(&files.cert, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| wrong(&files.cert, format!("it does not fit its key: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
