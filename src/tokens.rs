//! Tokens as they are issued: 256 random bits as text, of which a store keeps only the hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::{NewToken, TokenHash, TokenScope};

/// Characters of a token that may be kept and shown, so that people can tell tokens apart. They are 48 of its 256 bits.
const PREFIX: usize = 8;

/// A new token: 32 random bytes in base64url without padding, 43 characters.
#[must_use]
pub fn generate() -> SecretString {
    let bytes: [u8; 32] = rand::random();
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// SHA-256 of a token's text.
#[must_use]
pub fn hash(token: &SecretString) -> TokenHash {
    Sha256::digest(token.expose_secret()).into()
}

/// What a store keeps of a token.
#[must_use]
pub fn record(token: &SecretString, scope: TokenScope, name: Option<String>) -> NewToken {
    let prefix = token.expose_secret().chars().take(PREFIX).collect();
    NewToken {
        id: Uuid::new_v4(),
        scope,
        hash: hash(token),
        prefix,
        name,
        expires_at: None,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::{ExposeSecret, SecretString};

    use super::{generate, hash, record};
    use crate::store::TokenScope;

    #[test]
    fn a_token_is_43_characters_of_base64url_and_never_the_same() {
        let tokens: Vec<_> = (0..100).map(|_| generate().expose_secret().to_owned()).collect();
        for token in &tokens {
            assert_eq!(token.len(), 43);
            assert!(
                token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
                "{token}"
            );
        }
        let distinct: std::collections::BTreeSet<_> = tokens.iter().collect();
        assert_eq!(distinct.len(), tokens.len());
    }

    #[test]
    fn a_store_gets_the_hash_and_the_prefix() {
        let token = SecretString::from("abcdefghijk");
        let record = record(&token, TokenScope::Org(None), Some("ci".to_owned()));
        // sha256sum of the text, by coreutils.
        assert_eq!(record.hash[..4], [0xca, 0x2f, 0x20, 0x69]);
        assert_eq!(record.hash, hash(&token));
        assert_eq!(record.prefix, "abcdefgh");
    }
}
