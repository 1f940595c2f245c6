//! Forms of a value that serde does not bring along.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Whole seconds as a [`Duration`].
pub(super) mod seconds {
    use super::{Deserialize, Deserializer, Duration};

    pub(in crate::settings) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(input).map(Duration::from_secs)
    }
}

/// Networks as `10.0.0.0/8`, or single addresses.
pub(super) fn networks<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(|_| address()).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is neither a network such as `10.0.0.0/8` nor an IP address"
            ))
        })
    };
    Vec::<String>::deserialize(input)?.iter().map(network).collect()
}

/// A secret.
pub(super) fn secret<'de, D: Deserializer<'de>>(input: D) -> Result<SecretString, D::Error> {
    Text::deserialize(input).map(|text| SecretString::from(text.0))
}

/// A list of secrets. Serde's own errors quote the value that has the wrong type; this one never does.
pub(super) fn secrets<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<SecretString>, D::Error> {
    struct Secrets;

    impl<'de> Visitor<'de> for Secrets {
        type Value = Vec<SecretString>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of texts")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut secrets = Vec::new();
            while let Some(secret) = items.next_element::<Text>()? {
                secrets.push(SecretString::from(secret.0));
            }
            Ok(secrets)
        }

        fn visit_str<E: Error>(self, _value: &str) -> Result<Self::Value, E> {
            Err(E::custom("expected a list of texts"))
        }

        fn visit_i64<E: Error>(self, _value: i64) -> Result<Self::Value, E> {
            Err(E::custom("expected a list of texts"))
        }
    }

    input.deserialize_seq(Secrets)
}

/// A text whose type errors don't quote it.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }

            fn visit_i64<E: Error>(self, _value: i64) -> Result<Text, E> {
                Err(E::custom("expected a text in quotes"))
            }
        }

        input.deserialize_str(TextVisitor)
    }
}
