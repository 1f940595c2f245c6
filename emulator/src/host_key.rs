//! Host keys of in-process instances, in the form that a caller can keep across restarts.

use std::fmt;
use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use thiserror::Error;

/// An ed25519 host key. Clones share it.
#[derive(Clone)]
pub struct HostKey(Arc<PrivateKey>);

impl HostKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        let seed: [u8; 32] = rand::random();
        Self(Arc::new(PrivateKey::from(
            russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed),
        )))
    }

    /// Reads an unencrypted key in OpenSSH's own format.
    ///
    /// # Errors
    /// When the text is not such a key, or the key is not ed25519.
    pub fn from_openssh(text: &str) -> Result<Self, HostKeyError> {
        let key = PrivateKey::from_openssh(text).map_err(HostKeyError::Parse)?;
        match key.algorithm() {
            Algorithm::Ed25519 => Ok(Self(Arc::new(key))),
            other => Err(HostKeyError::NotEd25519 {
                algorithm: other.to_string(),
            }),
        }
    }

    /// The private key in OpenSSH's format, for a file of mode 0600.
    ///
    /// # Errors
    /// When the key can't be encoded.
    pub fn to_openssh(&self) -> Result<String, HostKeyError> {
        self.0
            .to_openssh(LineEnding::LF)
            .map(|text| text.as_str().to_owned())
            .map_err(HostKeyError::Encode)
    }

    /// The public half as in a known_hosts file: `ssh-ed25519 AAAA...`.
    ///
    /// # Errors
    /// When the key can't be encoded.
    pub fn public_openssh(&self) -> Result<String, HostKeyError> {
        self.0.public_key().to_openssh().map_err(HostKeyError::Encode)
    }

    pub(crate) fn private_key(&self) -> PrivateKey {
        PrivateKey::clone(&self.0)
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("HostKey")
            .field(&self.0.fingerprint(Default::default()).to_string())
            .finish()
    }
}

/// Why a host key could not be read or written.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// Not an unencrypted private key in OpenSSH's format.
    #[error("parse the host key")]
    Parse(#[source] russh::keys::ssh_key::Error),
    /// Another algorithm.
    #[error("the host key is `{algorithm}`, not `ssh-ed25519`")]
    NotEd25519 {
        /// The key's algorithm.
        algorithm: String,
    },
    /// The encoder refused.
    #[error("encode the host key")]
    Encode(#[source] russh::keys::ssh_key::Error),
}
