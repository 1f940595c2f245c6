//! Host keys as people write and compare them: reading a public key line, and its fingerprint.

use russh::Preferred;
use russh::keys::{Algorithm, HashAlg, PublicKey};
use thiserror::Error;

use crate::tunnel::HostKey;

/// How the type of an OpenSSH certificate goes on (PROTOCOL.certkeys).
const CERTIFICATE: &str = "-cert-v01@";

/// Why a line is no host key that can be pinned.
#[derive(Debug, Error)]
pub enum InvalidHostKey {
    /// There is no second word.
    #[error("is not a public key line: it must be a key type and base64, as in `ssh-ed25519 AAAA...`")]
    NoLine,
    /// A certificate: its host would show another one after each renewal, and what a pin names is one key.
    #[error("is a certificate; a plain public key is needed")]
    Certificate,
    /// The body is not a key of the type that the line names.
    #[error("is not a public key")]
    Malformed(#[source] russh::keys::ssh_key::Error),
    /// A key that no connection of Adit's could ever be shown.
    #[error("has the type `{key_type}`, which Adit does not accept of a host")]
    UnusableType {
        /// The key's type as SSH names it.
        key_type: String,
    },
}

impl HostKey {
    /// Reads a public key line as OpenSSH writes it, the part of a `known_hosts` line after the host: type, base64, and a
    /// comment that is not looked at. The key is decoded, so that what is not a key is never pinned, and written anew, so that
    /// one key has one text.
    ///
    /// # Errors
    /// [`InvalidHostKey`] says what is wrong; its texts go on after the name of a field.
    pub fn from_line(line: &str) -> Result<Self, InvalidHostKey> {
        let mut words = line.split_whitespace();
        let (Some(key_type), Some(key_base64)) = (words.next(), words.next()) else {
            return Err(InvalidHostKey::NoLine);
        };
        if key_type.contains(CERTIFICATE) {
            return Err(InvalidHostKey::Certificate);
        }
        let key = PublicKey::from_openssh(&format!("{key_type} {key_base64}"))
            .map_err(InvalidHostKey::Malformed)?;
        if !is_accepted(&key.algorithm()) {
            return Err(InvalidHostKey::UnusableType {
                key_type: key_type.to_owned(),
            });
        }
        let written = key.to_openssh().map_err(InvalidHostKey::Malformed)?;
        match written.split_once(' ') {
            Some((key_type, key_base64)) => Ok(Self {
                key_type: key_type.to_owned(),
                key_base64: key_base64.to_owned(),
            }),
            None => Err(InvalidHostKey::NoLine),
        }
    }

    /// `ssh-ed25519 AAAA...`, without a comment.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.key_type, self.key_base64)
    }

    /// `SHA256:...` as `ssh-keygen -l` prints it. `None` for what is not a key, which only a hand in the store can have put
    /// there.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let key = PublicKey::from_openssh(&self.line()).ok()?;
        Some(key.fingerprint(HashAlg::Sha256).to_string())
    }
}

/// Whether russh would let a host prove itself with such a key: it is offered in no other order, and nothing else is.
fn is_accepted(algorithm: &Algorithm) -> bool {
    Preferred::DEFAULT.key.contains(algorithm)
}

#[cfg(test)]
mod tests {
    use crate::tunnel::HostKey;

    // Made with `ssh-keygen -t ed25519` and so on; the fingerprints are those of `ssh-keygen -l`.
    const KEYS: [(&str, &str); 3] = [
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPr9DaewY4HjcMGP3eZdvmdn6k6qz5033UZkO7YggZjR",
            "SHA256:janITmdJo+WvxNJkdsgNFluFGB8K4BKaSuY5oTtiB/Q",
        ),
        (
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBKWH/b5n6nUv9/8PWiMt6lB68i+1vFf9DHvarqraFeAP/K6v7IpVVPMs6IFTnMIidsF2UAQF/1W5D//ozE9gdo=",
            "SHA256:R+ZUaahuM3S+CRxTTaNTA5i5nBhFCXM2XDUaIMTBEPQ",
        ),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDhg/JyTR7cCWbAJ/Dm4WaWSNuyUyimvcYIrB5eK3yGnaIx0zCqsnEPis+zLnLaYwYsYOOTXPSEGPKq7loHZCrwBHaQOPNuw5dHYL8sDX7/12HWBckkHM+Sa6mKMeLwPV98yOoM6bO2i3fah1h9v6VVpqk9egibIDjJoVsdjLzccDr7TkK9F2uZUEvlWV3k8o3SEcpPGZLzIocpGtEuMFZ1j/LOLnOT+NxNyUmaP58f7QomhtyfmmpYnHUB17MEeWoGEi7NZVgR4mBogMCcda4IsdgFyrXK4pJLtenstBWvs1urq3N15ijEOqjJwLk489cAYUL/rDUJx/+KGsqmk9Fx",
            "SHA256:c6GmPj5C8r/Dl5IG3TG+uqyoRTL8I0ZHvySk/1F7mi0",
        ),
    ];
    const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIK/P0Uy7FBj1Ag+ZmpTqooTFvggW9qbUe//7ghIyY8wLAAAAIPr9DaewY4HjcMGP3eZdvmdn6k6qz5033UZkO7YggZjRAAAAAAAAAAAAAAACAAAABGhvc3QAAAAIAAAABGhvc3QAAAAAAAAAAP//////////AAAAAAAAAAAAAAAAAAAAaAAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQQSlh/2+Z+p1L/f/D1ojLepQevIvtbxX/Qx72q6q2hXgD/yur+yKVVTzLOiBU5zCInbBdlAEBf9VuQ//6MxPYHaAAAAZQAAABNlY2RzYS1zaGEyLW5pc3RwMjU2AAAASgAAACEAvLkqCUCBrku7fn+KomajRoXAx5c5yCyms/VF1IyZe0gAAAAhAMC0r2AgoB1dRjTJIpr23Mu1d/HhcfK1vpk5it5TUvDE";
    const SECURITY_KEY: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIPdp/WruqcQLquh8AcE3OZ63EmxrGywYsqjlVDYXu0AqAAAABHNzaDo=";

    #[test]
    fn a_line_is_read_whatever_stands_around_it() {
        for (line, fingerprint) in KEYS {
            for text in [
                line.to_owned(),
                format!("  {line} root@host\n"),
                line.replace(' ', " \t "),
            ] {
                let key = HostKey::from_line(&text).unwrap();
                assert_eq!(key.line(), line, "{text:?}");
                assert_eq!(key.fingerprint().as_deref(), Some(fingerprint), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_reason() {
        let (ed25519, _) = KEYS[0];
        let body = ed25519.split_once(' ').unwrap().1;
        let cut = body.get(..body.len() - 4).unwrap();
        let table = [
            ("", "is not a public key line"),
            ("ssh-ed25519", "is not a public key line"),
            ("ssh-ed25519 AAAA", "is not a public key"),
            ("ssh-ed25519 not/base64!", "is not a public key"),
            (&format!("ssh-ed25519 {cut}"), "is not a public key"),
            (&format!("ssh-rsa {body}"), "is not a public key"),
            (&format!("10.0.0.1 {ed25519}"), "is not a public key"),
            (CERTIFICATE, "is a certificate"),
            (SECURITY_KEY, "has the type `sk-ssh-ed25519@openssh.com`"),
        ];
        for (line, reason) in table {
            let error = HostKey::from_line(line).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{line:?}: {error:?}");
        }
    }

    #[test]
    fn what_is_no_key_has_no_fingerprint() {
        let key = HostKey {
            key_type: "ssh-ed25519".to_owned(),
            key_base64: "AAAA".to_owned(),
        };
        assert_eq!(key.fingerprint(), None);
    }
}
