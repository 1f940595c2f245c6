//! The certificate that the listeners show.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use thiserror::Error;

use crate::pem_files::{PemFileError, read_certificates, read_private_key};

/// HTTP/2, as it is negotiated (RFC 9113 section 3.1).
pub(super) const H2: &[u8] = b"h2";

/// The listeners' certificate can't be used. Names the setting at fault.
#[derive(Debug, Error)]
pub enum TlsIdentityError {
    /// One of the two files is not what it should be.
    #[error("`{key}`: `{path}` is not usable")]
    File {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PemFileError,
    },
    /// They don't belong together, or are of a kind that TLS does not know.
    #[error("`http.tls_cert_file` can't be used with the key of `http.tls_key_file`")]
    Pair(#[source] rustls::Error),
}

/// A certificate chain with its private key. Clones share them.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Reads a chain, the server's own certificate first, and its key: the files that `http.tls_cert_file` and
    /// `http.tls_key_file` name. They are read here and never again.
    ///
    /// # Errors
    /// When either file is not usable, or the key is not the certificate's.
    pub fn read(certificates: &Path, private_key: &Path) -> Result<Self, TlsIdentityError> {
        let chain = read_certificates(certificates).map_err(at("http.tls_cert_file", certificates))?;
        let key = read_private_key(private_key).map_err(at("http.tls_key_file", private_key))?;
        // Named here because other crates of the build may bring another provider, and then the process has no default.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsIdentityError::Pair)?;
        Ok(Self(Arc::new(config)))
    }

    /// For a listener: both versions of HTTP can be negotiated (ALPN), the newer one first.
    pub(super) fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::clone(&self.0);
        config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn at(key: &'static str, path: &Path) -> impl FnOnce(PemFileError) -> TlsIdentityError {
    move |source| TlsIdentityError::File {
        key,
        path: path.to_owned(),
        source,
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::TlsIdentity;

    #[test]
    fn what_is_wrong_with_which_file_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let certificate = write("certificate.pem", one.cert.pem());
        let key = write("key.pem", one.signing_key.serialize_pem());
        let foreign_key = write("foreign-key.pem", other.signing_key.serialize_pem());
        let missing = directory.path().join("missing.pem");

        assert!(TlsIdentity::read(&certificate, &key).is_ok());
        let table = [
            (&missing, &key, "`http.tls_cert_file`: `", "can't be read"),
            (&key, &key, "`http.tls_cert_file`: `", "no certificate"),
            (&certificate, &missing, "`http.tls_key_file`: `", "can't be read"),
            (
                &certificate,
                &certificate,
                "`http.tls_key_file`: `",
                "no unencrypted private key",
            ),
            (
                &certificate,
                &foreign_key,
                "`http.tls_cert_file` can't be used",
                "keys may not be consistent",
            ),
        ];
        for (certificate, key, begin, cause) in table {
            let error = TlsIdentity::read(certificate, key).unwrap_err();
            let source = error.source().unwrap().to_string();
            assert!(
                error.to_string().starts_with(begin) && source.contains(cause),
                "{error}: {source}"
            );
        }
    }
}
