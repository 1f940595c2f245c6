//! Pushed keys as files for an external sshd.
//!
//! One file a login name, each line with an `expiry-time` that sshd itself enforces. It must know nothing of who pushed.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key;
use thiserror::Error;
use tokio::fs;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::keys::PushedKey;

/// Why a file of authorized keys was not written.
#[derive(Debug, Error)]
pub(crate) enum AuthorizedKeysError {
    #[error("write the authorized keys file `{path}`")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("encode an authorized key")]
    Encode(#[source] ssh_key::Error),
}

/// Replaces the file of a login name by these keys, in one step: sshd reads the old file or the new one.
///
/// `clock_offset` is how far the emulator's clock is ahead of the real one, by which sshd judges. `os_user` must be
/// a plain file name.
pub(crate) async fn write(
    directory: &Path,
    os_user: &str,
    keys: &[PushedKey],
    clock_offset: time::Duration,
) -> Result<(), AuthorizedKeysError> {
    let lines = keys
        .iter()
        .map(|key| line(key, clock_offset))
        .collect::<Result<String, _>>()?;
    let path = directory.join(os_user);
    // `%` is in no login name, so this is no login's file.
    let temporary = directory.join(format!("{os_user}%{}", Uuid::new_v4()));
    let written = async {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .await?;
        file.write_all(lines.as_bytes()).await?;
        // Whatever the umask: sshd reads the file as the user who logs in.
        file.set_permissions(Permissions::from_mode(0o644)).await?;
        file.flush().await?;
        fs::rename(&temporary, &path).await
    };
    if let Err(source) = written.await {
        fs::remove_file(&temporary).await.ok(); // it may never have been there; the first error is the one to tell
        return Err(AuthorizedKeysError::Write { path, source });
    }
    Ok(())
}

/// `expiry-time="YYYYMMDDHHMMSSZ" KEY`, sshd(8), AUTHORIZED_KEYS FILE FORMAT. sshd takes the key through that second. The `Z` (UTC) is understood since
/// OpenSSH 9.1; before, the time is taken as the system's local time, so hosts with an older sshd must run in UTC.
fn line(pushed: &PushedKey, clock_offset: time::Duration) -> Result<String, AuthorizedKeysError> {
    let at = pushed.expires_at - clock_offset;
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.time().as_hms();
    let key = pushed.key.to_openssh().map_err(AuthorizedKeysError::Encode)?;
    Ok(format!(
        "expiry-time=\"{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z\" {key}\n"
    ))
}
