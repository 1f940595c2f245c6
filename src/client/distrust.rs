//! Why a TLS client does not trust the service, in words that say what to do.

use std::error::Error;
use std::io;

use rustls::CertificateError;

use super::ClientError;

impl ClientError {
    /// A request did not get out, or no answer came.
    pub(super) fn unsent(error: reqwest::Error) -> Self {
        match of_tls(&error) {
            Some(source @ rustls::Error::InvalidCertificate(refused)) => Self::Certificate {
                advice: advice(refused),
                source: source.clone(),
            },
            _ => Self::Transport(error),
        }
    }
}

fn of_tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // What an `io::Error` holds is not its source.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = match held {
            Some(held) => held.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if tls.is_some() {
            return tls;
        }
        cause = held.map_or_else(|| error.source(), |held| Some(held));
    }
    None
}

fn advice(refused: &CertificateError) -> &'static str {
    match refused {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody who is trusted has signed it; ADIT_CA_FILE names a file with further roots"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for other names than that in ADIT_URL"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        // rustls has no name of its own for this one: `webpki::Error::CaUsedAsEndEntity`.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is one that signs others (CA:TRUE), which no server may show; it must be made with \
             `basicConstraints=critical,CA:FALSE`"
        }
        _ => "it can't be verified",
    }
}
