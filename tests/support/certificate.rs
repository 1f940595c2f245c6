//! A certificate for the service's own listener.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use adit::pem_files::read_certificates;
use adit::settings::Settings;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// A certificate for 127.0.0.1 that vouches for itself, in files that live as long as this.
pub(crate) struct Certificate(TempDir);

impl Certificate {
    /// Makes one.
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = Self(directory);
        fs::write(certificate.file(), made.cert.pem()).unwrap();
        fs::write(certificate.key_file(), made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    /// Has openssl make one, with options of `openssl req -x509` beside those that README names.
    pub(crate) fn make_by_openssl(options: &[&str]) -> Self {
        let certificate = Self(tempfile::tempdir().unwrap());
        let output = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=adit",
            ])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(options)
            .arg("-out")
            .arg(certificate.file())
            .arg("-keyout")
            .arg(certificate.key_file())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        certificate
    }

    /// The certificate, which is its own root.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("certificate.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    /// Has the service show it.
    pub(crate) fn show(&self, settings: &mut Settings) {
        settings.http.tls_cert_file = Some(self.file());
        settings.http.tls_key_file = Some(self.key_file());
    }

    /// A client that trusts it and speaks `protocol`: `h2` or `http/1.1`.
    pub(crate) fn client_config(&self, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(read_certificates(&self.file()).unwrap().remove(0))
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Arc::new(config)
    }
}
