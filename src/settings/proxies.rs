//! The proxies of the environment, under the names that other programs read, too.

use std::ffi::{OsStr, OsString};
use std::fmt;

use super::SettingsError;

/// What the environment says of proxies; a text that is empty says nothing. Prints no password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// `HTTP_PROXY`.
    pub http: String,
    /// `HTTPS_PROXY`.
    pub https: String,
    /// `ALL_PROXY`.
    pub all: String,
    /// `NO_PROXY`.
    pub no: String,
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_set = |url: &String| !url.is_empty();
        formatter
            .debug_struct("ProxyVariables")
            .field("http", &is_set(&self.http))
            .field("https", &is_set(&self.https))
            .field("all", &is_set(&self.all))
            .field("no", &self.no)
            .finish()
    }
}

impl ProxyVariables {
    /// The name in capitals goes before the other, as in curl and in the AWS SDK.
    pub(super) fn read(variables: &[(OsString, OsString)]) -> Result<Self, SettingsError> {
        let text = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let Some(value) = value(variables, name).or_else(|| value(variables, &lower)) else {
                return Ok(String::new());
            };
            let text = value.to_str().map(|text| text.trim().to_owned());
            text.ok_or_else(|| SettingsError::Variable {
                name: name.to_owned(),
                problem: "the value is not valid UTF-8".to_owned(),
            })
        };
        Ok(Self {
            http: text("HTTP_PROXY")?,
            https: text("HTTPS_PROXY")?,
            all: text("ALL_PROXY")?,
            no: text("NO_PROXY")?,
        })
    }
}

fn value<'a>(variables: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let named = variables.iter().find(|(key, _)| key == name);
    named.map(|(_, value)| value.as_os_str())
}
