//! Which database a URL names. A URL may hold a password, so nothing of it is quoted anywhere.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

use super::ConnectError;

/// The parameters that sqlx understands. It logs others with their values, and goes on without them.
const POSTGRES_PARAMETERS: [&str; 12] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// A database.
#[derive(Clone)]
pub(super) enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A server; what the URL does not say comes from `PGPASSWORD`, `~/.pgpass` and the like, as for `psql`.
    Postgres(Box<PgConnectOptions>),
}

impl Location {
    /// The database that `url` names.
    pub(super) fn of(url: &str) -> Result<Self, ConnectError> {
        if let Some(path) = url.strip_prefix("sqlite://") {
            sqlite(path).map(Self::Sqlite)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            postgres(url).map(|options| Self::Postgres(Box::new(options)))
        } else {
            Err(ConnectError::Url(
                "it must begin with `sqlite://`, `postgres://` or `postgresql://`",
            ))
        }
    }
}

fn sqlite(path: &str) -> Result<PathBuf, ConnectError> {
    if path.is_empty() || path == ":memory:" {
        return Err(ConnectError::Url(
            "it must name a file: `sqlite:///var/lib/adit/adit.db`",
        ));
    }
    if path.contains(['?', '#']) {
        return Err(ConnectError::Url(
            "it takes no parameters; the file name must be free of `?` and `#`",
        ));
    }
    Ok(path.into())
}

fn postgres(url: &str) -> Result<PgConnectOptions, ConnectError> {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let is_known = |name: &str| POSTGRES_PARAMETERS.contains(&name);
    if !form_urlencoded::parse(parameters.as_bytes()).all(|(name, _)| is_known(&name)) {
        return Err(ConnectError::Url(
            "it has a parameter that is none of `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `hostaddr`, \
             `port`, `dbname`, `user`, `password`, `application_name` and `options`; special characters in a password \
             are written as `%3F`",
        ));
    }
    url.parse().map_err(|_| {
        ConnectError::Url("it must be like `postgres://user:password@host:5432/database?sslmode=verify-full`")
    })
}

#[cfg(test)]
mod tests {
    use super::Location;
    use crate::store::ConnectError;

    #[test]
    fn a_url_names_a_database_or_says_what_it_must_be_and_nothing_of_itself() {
        for (url, names_one) in [
            ("sqlite:///var/lib/adit/adit.db", true),
            ("postgres://u:hunter2@h/d", true),
            (
                "postgresql://u:hunter2@h:1/d?sslmode=verify-full&application_name=a",
                true,
            ),
            ("", false),
            ("sqlite:adit.db", false),
            ("sqlite://", false),
            ("sqlite://:memory:", false),
            ("sqlite://a.db?mode=ro", false),
            ("mysql://u:hunter2@h/d", false),
            ("postgres://u:hunter2?3=4@h/d", false),
            ("postgres://u@h/d?passwrd=hunter2", false),
            ("postgres://u@h:hunter2/d", false),
            ("postgres://u@h/d?sslmode=hunter2", false),
        ] {
            match Location::of(url) {
                Ok(_) => assert!(names_one, "{url}"),
                Err(refused) => {
                    assert!(
                        !names_one && matches!(refused, ConnectError::Url(_)),
                        "{url}: {refused}"
                    );
                    assert!(!format!("{refused} {refused:?}").contains("hunter2"));
                }
            }
        }
    }
}
