//! The file with an emulated instance's host key: it outlives the process, as Adit pins the key.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use adit_emulator::HostKey;
use tempfile::NamedTempFile;

use super::failure::CliError;

/// The private key in the file, in OpenSSH's format and not encrypted; a new ed25519 key in a new file of mode 0600 where
/// there is none.
///
/// # Errors
/// When the file can't be read or made, or holds something else. What is there is never replaced.
pub(super) fn read_or_make(path: &Path) -> Result<HostKey, CliError> {
    let unusable = |source| CliError::HostKey {
        path: path.to_owned(),
        source,
    };
    let failed = |action| {
        move |source| CliError::File {
            action,
            path: path.to_owned(),
            source,
        }
    };
    match fs::read_to_string(path) {
        Ok(text) => HostKey::from_openssh(&text).map_err(unusable),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = HostKey::generate();
            make(path, &key.to_openssh().map_err(unusable)?).map_err(failed("make"))?;
            Ok(key)
        }
        Err(source) => Err(failed("read")(source)),
    }
}

/// Whole or not at all, and only where nothing is.
fn make(path: &Path, content: &str) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(content.as_bytes())?;
    file.persist_noclobber(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::read_or_make;

    #[test]
    fn a_file_keeps_its_key_and_another_file_is_another_key() {
        let directory = tempfile::tempdir().unwrap();
        let key_of = |name: &str| {
            let key = read_or_make(&directory.path().join(name)).unwrap();
            key.public_openssh().unwrap()
        };
        let first = key_of("first");
        assert_eq!(key_of("first"), first);
        assert_ne!(key_of("second"), first);
        let mode = std::fs::metadata(directory.path().join("first"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        let refused = read_or_make(&file).unwrap_err().with_causes();
        assert!(refused.contains("/file`"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        let nowhere = read_or_make(&directory.path().join("no/such")).unwrap_err();
        assert!(nowhere.with_causes().contains("can't make `"), "{nowhere}");
    }
}
