//! Where the service is and with which token to ask it: from the environment, so that no token stands in an argv.

use std::error::Error;
use std::path::Path;

use secrecy::SecretString;

use crate::client::ApiClient;
use crate::pem_files::read_certificates;

/// Exit code when Adit failed, as `docker exec` and `env` use it for failures of their own.
pub(super) const ADIT_FAILED: u8 = 125;

/// Reads a variable. Empty counts as not set.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A client with the token of `token_variable`. It trusts the roots of ADIT_CA_FILE beside the system's.
///
/// # Errors
/// One line for people.
pub(super) fn client(
    token_variable: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<ApiClient, String> {
    let url =
        variable("ADIT_URL").ok_or("ADIT_URL is not set: the service's URL, as in http://127.0.0.1:8080")?;
    let token =
        variable(token_variable).ok_or_else(|| format!("{token_variable} is not set: the token to use"))?;
    let org_id = variable("ADIT_ORG_ID");
    let roots = match variable("ADIT_CA_FILE") {
        None => Vec::new(),
        Some(file) => read_certificates(Path::new(&file))
            .map_err(|error| format!("ADIT_CA_FILE: `{file}`: {}", one_line(&error)))?,
    };
    let token = SecretString::from(token);
    ApiClient::new(&url, &token, org_id.as_deref(), &roots).map_err(|error| one_line(&error))
}

/// An error and its causes in one line.
pub(super) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::client;

    #[test]
    fn what_is_missing_is_named() {
        let table: [(&[&str], Option<&str>); 5] = [
            (&[], Some("ADIT_URL is not set")),
            (&["ADIT_URL"], Some("ADIT_TOKEN is not set")),
            (&["ADIT_URL", "ADIT_TOKEN"], None),
            (&["ADIT_URL", "ADIT_TOKEN", "ADIT_ORG_ID"], None),
            (
                &["ADIT_URL", "ADIT_TOKEN", "ADIT_CA_FILE"],
                Some("ADIT_CA_FILE: `http://127.0.0.1:1`: the file can't be read"),
            ),
        ];
        for (set, complaint) in table {
            let lookup = |name: &str| set.contains(&name).then(|| "http://127.0.0.1:1".to_owned());
            let found = client("ADIT_TOKEN", lookup).err();
            assert_eq!(found.is_some(), complaint.is_some(), "{set:?}");
            if let (Some(found), Some(complaint)) = (found, complaint) {
                assert!(found.starts_with(complaint) && !found.contains('\n'), "{found}");
            }
        }
    }
}
