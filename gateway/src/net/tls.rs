//! TLS by rustls. The files are read again when they change, so that a renewed certificate needs no
//! restart; files that cannot be used leave what was there.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use haltline_common::config::TlsSettings;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Gives each connection the certificate of now.
pub(super) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    looked: Instant,
    modified: (Option<SystemTime>, Option<SystemTime>),
}

impl Tls {
    /// From the settings; `None` if they name no files.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open(settings: &TlsSettings) -> anyhow::Result<Option<Self>> {
        if settings.cert.is_empty() {
            return Ok(None);
        }
        let (cert, key) = (PathBuf::from(&settings.cert), PathBuf::from(&settings.key));
        let current = Current { acceptor: read(&cert, &key)?, looked: Instant::now(), modified: modified(&cert, &key) };
        Ok(Some(Self { cert, key, current: Mutex::new(current) }))
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let now = modified(&self.cert, &self.key);
            if now != current.modified {
                match read(&self.cert, &self.key) {
                    Ok(acceptor) => {
                        tracing::info!(cert = %self.cert.display(), "the certificate was read again");
                        (current.acceptor, current.modified) = (acceptor, now);
                    }
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "the certificate cannot be read again; the one of before stays")
                    }
                }
            }
        }
        current.acceptor.clone()
    }
}

fn modified(cert: &Path, key: &Path) -> (Option<SystemTime>, Option<SystemTime>) {
    let of = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    (of(cert), of(key))
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| format!("gateway.tls.cert: {}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("gateway.tls.key: {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("gateway.tls: {} and its key", cert.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
