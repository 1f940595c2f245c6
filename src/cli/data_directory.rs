//! The directory that `adit dev` keeps between starts: database, host key, and the tokens for whoever tries it out.
//!
//! Everything in it is for its owner only, and one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use adit_emulator::HostKey;
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;
use uuid::Uuid;

use super::failure::CliError;
use super::host_key_file;

/// The store's file, by which a data directory is known.
const DATABASE: &str = "adit.db";

/// The file that is locked. The first one to be made: a start that got no further leaves a data directory, too.
const LOCK: &str = "adit-dev.lock";

/// The directory of one `adit dev`, which no other may use while this one lives.
#[derive(Debug)]
pub(super) struct DataDirectory {
    path: PathBuf,
    /// The system ends the lock with the file, or with the process however it ends.
    _lock: File,
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
    /// Opens the directory, making it (mode 0700) if it is not there. One that is there must be empty or a data
    /// directory already, and no other process's: nothing of anybody else's is replaced.
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let failed = |action| {
            move |source| CliError::File {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let is_new = make(path).map_err(failed("make the directory"))?;
        if !is_new && !may_be_used(path).map_err(failed("read the directory"))? {
            return Err(CliError::Usage(format!(
                "`{}` has files in it and is not a data directory of Adit's (it has no `{DATABASE}`); give another with \
                 `--data-dir`",
                path.display()
            )));
        }
        let path = path.canonicalize().map_err(failed("read the directory"))?;
        let Some(lock) = lock(&path.join(LOCK)).map_err(failed("lock the directory"))? else {
            return Err(CliError::Usage(format!(
                "another `adit dev` uses `{}`; give this one another with `--data-dir`",
                path.display()
            )));
        };
        if is_new {
            // Wherever it is put, git leaves it alone.
            File::create_new(path.join(".gitignore"))
                .and_then(|mut file| file.write_all(b"*\n"))
                .map_err(failed("write a `.gitignore` in"))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where the store's file is.
    pub(super) fn database(&self) -> PathBuf {
        self.file(DATABASE)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The emulated instance's host key: the same at every start, as Adit pins it.
    pub(super) fn host_key(&self) -> Result<HostKey, CliError> {
        host_key_file::read_or_make(&self.file("host_key"))
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

/// Makes the directory for its owner only; whether it was not there before.
fn make(path: &Path) -> io::Result<bool> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = path.parent() {
        builder.recursive(true).create(parent)?;
    }
    match builder.recursive(false).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a directory that was there before is empty or a data directory.
fn may_be_used(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none()
        || path.join(DATABASE).try_exists()?
        || path.join(LOCK).try_exists()?)
}

/// Locks the file; `None` when another process, or another opening of it in this one, holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
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
        assert_eq!(std::fs::read_to_string(path.join(".gitignore")).unwrap(), "*\n");
        let first_key = directory.host_key().unwrap().public_openssh().unwrap();

        let refused = DataDirectory::open(&path).unwrap_err().with_causes();
        assert!(refused.contains("another `adit dev` uses"), "{refused}");
        drop(directory);
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

    #[test]
    fn what_was_there_before_stays_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let open = |name: &str| DataDirectory::open(&parent.path().join(name));
        let set_up = |name: &str, files: &[&str]| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            for file in files {
                std::fs::write(path.join(file), "mine").unwrap();
            }
        };
        set_up("repository", &[".gitignore", "access"]);
        set_up("empty", &[]);
        set_up("old", &["adit.db", ".gitignore"]);
        std::fs::write(parent.path().join("file"), "mine").unwrap();

        let refused = open("repository").unwrap_err().with_causes();
        assert!(
            refused.contains("/repository`") && refused.contains("--data-dir"),
            "{refused}"
        );
        let refused = open("file").unwrap_err().with_causes();
        assert!(refused.contains("/file`"), "{refused}");
        open("empty").unwrap();
        open("old").unwrap();
        for file in [
            "repository/.gitignore",
            "repository/access",
            "old/.gitignore",
            "file",
        ] {
            assert_eq!(
                std::fs::read_to_string(parent.path().join(file)).unwrap(),
                "mine",
                "{file}"
            );
        }
        assert!(!parent.path().join("empty/.gitignore").exists());
        for name in ["repository", "empty", "old"] {
            let mode = std::fs::metadata(parent.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o755, "{name}");
        }
    }
}
