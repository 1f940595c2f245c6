//! The certificate that the listener may show, so that it speaks https and wss as AWS does.
//!
//! It must know nothing of files or HTTP.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// A certificate chain and its private key. Clones share them.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Reads a chain, the server's own certificate first, and an unencrypted private key, both PEM.
    ///
    /// # Errors
    /// When either is not PEM of its kind, or the key is not the certificate's.
    pub fn from_pem(certificates: &[u8], private_key: &[u8]) -> Result<Self, TlsIdentityError> {
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsIdentityError::Certificates)?;
        if chain.is_empty() {
            return Err(TlsIdentityError::Certificates(pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(private_key).map_err(TlsIdentityError::PrivateKey)?;
        // The process may have no default provider, or another one: the emulator is a library.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsIdentityError::Unusable)?;
        // The websocket upgrade is HTTP/1.1's.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0))
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// Why a certificate can't be used.
#[derive(Debug, Error)]
pub enum TlsIdentityError {
    /// No PEM certificate, or a broken one.
    #[error("parse the certificate chain")]
    Certificates(#[source] pem::Error),
    /// No PEM private key, or a broken or encrypted one.
    #[error("parse the private key")]
    PrivateKey(#[source] pem::Error),
    /// The two do not belong together, or are of a kind that TLS 1.2 and 1.3 do not know.
    #[error("use the certificate with its private key")]
    Unusable(#[source] rustls::Error),
}
