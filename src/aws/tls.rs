//! TLS to the endpoint: rustls with the system's roots.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio_rustls::TlsConnector;

/// TLS could not be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// No root certificate could be loaded, so no endpoint could ever be trusted.
    #[error("no root certificates were found on this system")]
    NoRoots,
    /// One of the additional roots is no certificate.
    #[error("an additional root certificate is not usable")]
    ExtraRoot(#[source] rustls::Error),
    /// The cryptography provider offers no protocol version that rustls knows.
    #[error("TLS protocol versions could not be agreed on")]
    Versions(#[source] rustls::Error),
}

/// A connector that trusts the system's roots and `extra_roots`. Reads the system's certificate files, so it is made once.
pub(super) fn connector(extra_roots: &[CertificateDer<'static>]) -> Result<TlsConnector, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's root certificates could not be read");
    }
    // Stores in the wild hold certificates that rustls rightly refuses; the others still count.
    roots.add_parsable_certificates(found.certs);
    for root in extra_roots {
        roots.add(root.clone()).map_err(TlsError::ExtraRoot)?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    // Named here because other crates of the build may bring another provider, and then the process has no default.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
