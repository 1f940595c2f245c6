//! Host keys of in-process instances, in the form that a caller can keep across restarts.

use std::fmt;
use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::RsaKeypair;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};
use thiserror::Error;

/// Size that `ssh-keygen` gives an RSA key.
const RSA_BITS: usize = 3072;

/// A host key: ed25519, ECDSA or RSA. Clones share it.
#[derive(Clone)]
pub struct HostKey(Arc<PrivateKey>);

/// Kinds of host keys that OpenSSH makes by itself (`ssh-keygen -A`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyAlgorithm {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `ssh-rsa` of 3,072 bits, which signs by `rsa-sha2-256` and `rsa-sha2-512`.
    Rsa,
}

impl HostKey {
    /// A new random ed25519 key.
    #[must_use]
    pub fn generate() -> Self {
        let seed: [u8; 32] = rand::random();
        Self(Arc::new(PrivateKey::from(
            russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed),
        )))
    }

    /// A new random key of this kind. RSA takes a second or more.
    ///
    /// # Errors
    /// When the key can't be made.
    pub fn generate_as(algorithm: HostKeyAlgorithm) -> Result<Self, HostKeyError> {
        let algorithm = match algorithm {
            HostKeyAlgorithm::Ed25519 => return Ok(Self::generate()),
            HostKeyAlgorithm::EcdsaP256 => Algorithm::Ecdsa {
                curve: EcdsaCurve::NistP256,
            },
            HostKeyAlgorithm::Rsa => {
                return RsaKeypair::random(&mut rand::rng(), RSA_BITS)
                    .map(|key| Self(Arc::new(PrivateKey::from(key))))
                    .map_err(HostKeyError::Generate);
            }
        };
        PrivateKey::random(&mut rand::rng(), algorithm)
            .map(|key| Self(Arc::new(key)))
            .map_err(HostKeyError::Generate)
    }

    /// Reads an unencrypted key in OpenSSH's own format.
    ///
    /// # Errors
    /// When the text is not such a key, or the key is of another kind than [`HostKeyAlgorithm`] has.
    pub fn from_openssh(text: &str) -> Result<Self, HostKeyError> {
        let key = PrivateKey::from_openssh(text).map_err(HostKeyError::Parse)?;
        match key.algorithm() {
            Algorithm::Ed25519
            | Algorithm::Rsa { .. }
            | Algorithm::Ecdsa {
                curve: EcdsaCurve::NistP256,
            } => Ok(Self(Arc::new(key))),
            other => Err(HostKeyError::Unsupported {
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
    #[error("the host key is `{algorithm}`, which the emulated instance can't use")]
    Unsupported {
        /// The key's algorithm.
        algorithm: String,
    },
    /// The generator failed.
    #[error("generate the host key")]
    Generate(#[source] russh::keys::ssh_key::Error),
    /// The encoder refused.
    #[error("encode the host key")]
    Encode(#[source] russh::keys::ssh_key::Error),
}
