//! TLS to AWS: rustls with the system's roots, and those that a test brings for its emulator.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

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
    /// The SDK's client does not take the roots.
    #[error("the AWS SDK's client does not take the root certificates")]
    Context(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The system's own, read once: parsing some 150 certificates takes milliseconds.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's root certificates could not be read");
    }
    // Stores in the wild hold certificates that rustls rightly refuses; the others still count.
    roots.add_parsable_certificates(found.certs);
    roots
});

/// Root certificates to trust.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    system: RootCertStore,
    extra: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// The system's, and `extra` beside them.
    pub(super) fn of_the_system_and(extra: Vec<CertificateDer<'static>>) -> Self {
        Self {
            system: SYSTEM_ROOTS.clone(),
            extra,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.system.is_empty() && self.extra.is_empty()
    }

    /// For websockets and for the calls that are signed by hand.
    pub(super) fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = self.system.clone();
        for root in &self.extra {
            roots.add(root.clone()).map_err(TlsError::ExtraRoot)?;
        }
        // Named here because other crates of the build may bring another provider, and then the process has no default.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_root_certificates(roots)
            .with_no_client_auth())
    }

    /// For the SDK's client, which takes PEM, and takes it as a defect when it is to use the system's roots and there are none.
    /// [`Roots::client_config`] must have succeeded: the SDK panics at a certificate that can't be used.
    pub(super) fn sdk_trust_store(&self) -> aws_smithy_http_client::tls::TrustStore {
        let mut store =
            aws_smithy_http_client::tls::TrustStore::empty().with_native_roots(!self.system.is_empty());
        for root in &self.extra {
            let pem = format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                STANDARD.encode(root)
            );
            store.add_pem_certificate(pem);
        }
        store
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
