//! The directory that `adit dev` keeps between starts: database, host key, and the tokens for whoever tries it out.
//!
//! Everything in it is for its owner only.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use adit_emulator::HostKey;
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::failure::CliError;

/// The directory of one `adit dev`.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
}

/// As whom to try the service out.
#[derive(Debug)]
pub(super) struct Access {
    /// A token that opens the workspace.
    pub(super) token: SecretString,
    /// A token that opens `/admin`.
    pub(super) admin_token: SecretString,
    /// The workspace.
    pub(super) workspace: Uuid,
}

impl DataDirectory {
    /// Opens the directory, making it (mode 0700) if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let failed = |source| CliError::File {
            action: "make the directory",
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let directory = Self { path };
        // Wherever it is put, git leaves it alone.
        directory.write(".gitignore", "*\n")?;
        Ok(directory)
    }

    /// Where a file of the directory is.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The emulated instance's host key: the same at every start, as Adit pins it.
    pub(super) fn host_key(&self) -> Result<HostKey, CliError> {
        let path = self.file("host_key");
        let unusable = |source| CliError::HostKey {
            path: path.clone(),
            source,
        };
        if let Some(text) = self.read("host_key")? {
            return HostKey::from_openssh(&text).map_err(unusable);
        }
        let key = HostKey::generate();
        self.write("host_key", &key.to_openssh().map_err(unusable)?)?;
        Ok(key)
    }

    /// What was kept at an earlier start. A file that was changed beyond use counts as none: its tokens are only
    /// for trying out, and new ones cost nothing.
    pub(super) fn access(&self) -> Result<Option<Access>, CliError> {
        Ok(self.read("access")?.and_then(|text| Access::parse(&text)))
    }

    /// Keeps this for the next start.
    pub(super) fn keep_access(&self, access: &Access) -> Result<(), CliError> {
        self.write("access", &access.to_text())
    }

    /// Writes `dev.env`, for a shell that talks to the service at `url`, and returns its path.
    pub(super) fn write_environment(&self, access: &Access, url: &str) -> Result<PathBuf, CliError> {
        self.write("dev.env", &format!("ADIT_URL={url}\n{}", access.to_text()))?;
        Ok(self.file("dev.env"))
    }

    fn read(&self, name: &str) -> Result<Option<String>, CliError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CliError::File {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// Writes a file of mode 0600, which is either the old or the new one at any moment.
    fn write(&self, name: &str, content: &str) -> Result<(), CliError> {
        let path = self.file(name);
        let written = || {
            let mut file = NamedTempFile::new_in(&self.path)?;
            file.write_all(content.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        written().map_err(|source: io::Error| CliError::File {
            action: "write",
            path: path.clone(),
            source,
        })
    }
}

impl Access {
    /// KEY=VALUE lines for `set -a; . FILE`. No value needs quotes: they are URLs, base64url and a UUID.
    fn to_text(&self) -> String {
        format!(
            "ADIT_TOKEN={}\nADIT_ADMIN_TOKEN={}\nADIT_WORKSPACE={}\n",
            self.token.expose_secret(),
            self.admin_token.expose_secret(),
            self.workspace,
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        };
        let secret = |name: &str| {
            value(name)
                .filter(|value| !value.is_empty())
                .map(SecretString::from)
        };
        Some(Self {
            token: secret("ADIT_TOKEN")?,
            admin_token: secret("ADIT_ADMIN_TOKEN")?,
            workspace: value("ADIT_WORKSPACE")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{Access, DataDirectory};

    #[test]
    fn what_is_kept_is_the_owners_and_comes_back() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let directory = DataDirectory::open(&path).unwrap();
        assert!(directory.access().unwrap().is_none());
        let access = Access {
            token: "a-token".into(),
            admin_token: "an-admin-token".into(),
            workspace: uuid::Uuid::from_u128(7),
        };
        directory.keep_access(&access).unwrap();
        let file = directory
            .write_environment(&access, "http://127.0.0.1:8080")
            .unwrap();
        let environment = std::fs::read_to_string(&file).unwrap();
        assert_eq!(
            environment,
            format!("ADIT_URL=http://127.0.0.1:8080\n{}", access.to_text())
        );
        let first_key = directory.host_key().unwrap().public_openssh().unwrap();

        let again = DataDirectory::open(&path).unwrap();
        assert_eq!(again.access().unwrap().unwrap().to_text(), access.to_text());
        assert_eq!(again.host_key().unwrap().public_openssh().unwrap(), first_key);
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(
            [&file, &again.file("access"), &again.file("host_key")].map(|path| mode(path)),
            [0o600; 3]
        );

        std::fs::write(again.file("access"), "ADIT_TOKEN=\n").unwrap();
        assert!(again.access().unwrap().is_none());
        std::fs::write(again.file("host_key"), "no key").unwrap();
        again.host_key().unwrap_err();
    }
}
