//! Certificates and private keys out of PEM files, for all that speaks TLS: to AWS, to callers, and to the service.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// A PEM file is not what it should be.
#[derive(Debug, Error)]
pub enum PemFileError {
    /// It can't be read.
    #[error("the file can't be read")]
    Read(#[source] io::Error),
    /// It is no PEM.
    #[error("the file is not valid PEM")]
    Pem(#[source] pem::Error),
    /// It has none.
    #[error("the file holds no certificate in PEM")]
    NoCertificates,
    /// It has none, or one that a passphrase protects.
    #[error("the file holds no unencrypted private key in PEM")]
    NoPrivateKey,
}

/// All certificates of a file, in its order; at least one.
///
/// # Errors
/// When the file can't be read, is no PEM, or holds no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemFileError> {
    let text = std::fs::read(path).map_err(PemFileError::Read)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(PemFileError::Pem)?;
    if certificates.is_empty() {
        return Err(PemFileError::NoCertificates);
    }
    Ok(certificates)
}

/// The first private key of a file: PKCS#8, PKCS#1 or SEC1, unencrypted.
///
/// # Errors
/// When the file can't be read, is no PEM, or holds no such key.
pub fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemFileError> {
    let text = std::fs::read(path).map_err(PemFileError::Read)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => PemFileError::NoPrivateKey,
        error => PemFileError::Pem(error),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::NamedTempFile;

    use super::{Path, PemFileError, read_certificates, read_private_key};

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn each_kind_is_found_among_others_and_what_is_missing_is_said() {
        let first = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let second = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = first.signing_key.serialize_pem();
        let all = file(&format!(
            "a comment\n{}{key}{}",
            first.cert.pem(),
            second.cert.pem()
        ));
        assert_eq!(
            read_certificates(all.path()).unwrap(),
            [first.cert.der().clone(), second.cert.der().clone()]
        );
        assert_eq!(
            read_private_key(all.path()).unwrap().secret_der(),
            first.signing_key.serialize_der()
        );

        let broken = file(&first.cert.pem().replace("-----END CERTIFICATE-----\n", ""));
        assert!(matches!(
            read_certificates(broken.path()),
            Err(PemFileError::Pem(_))
        ));
        assert!(matches!(
            read_private_key(broken.path()),
            Err(PemFileError::Pem(_))
        ));
        let only_key = file(&key);
        assert!(matches!(
            read_certificates(only_key.path()),
            Err(PemFileError::NoCertificates)
        ));
        let encrypted = file(&key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
        assert!(matches!(
            read_private_key(encrypted.path()),
            Err(PemFileError::NoPrivateKey)
        ));
        let missing = Path::new("/no/such/file");
        assert!(matches!(read_certificates(missing), Err(PemFileError::Read(_))));
        assert!(matches!(read_private_key(missing), Err(PemFileError::Read(_))));
    }
}
