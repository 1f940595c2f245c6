//! How a command fails: one line on stderr, and an exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use adit_emulator::{EmulatorError, HostKeyError, TlsIdentityError};
use thiserror::Error;

use crate::application::{ApplicationError, RunError};
use crate::settings::SettingsError;
use crate::store::{ConnectError, StoreError};

/// A command of the command line failed.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// The arguments contradict each other or the settings; the text says what to give instead.
    #[error("{0}")]
    Usage(String),
    #[error("the settings are not usable")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the service could not be started")]
    Start(#[from] ApplicationError),
    #[error(
        "`adit dev` can't have {address}; if another one is running, give this one `--listen 127.0.0.1:0`"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        source: ApplicationError,
    },
    #[error("the service did not end well")]
    Run(#[from] RunError),
    #[error("the emulator could not be started")]
    Emulator(#[from] EmulatorError),
    #[error("the emulated instance's host key in `{path}` is not usable; remove the file to get a new one")]
    HostKey {
        path: PathBuf,
        #[source]
        source: HostKeyError,
    },
    #[error("the certificate of `--tls-cert` and `--tls-key` is not usable")]
    Certificate(#[source] TlsIdentityError),
    #[error("can't {action} `{path}`")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't listen for signals")]
    Signals(#[source] io::Error),
}

impl CliError {
    /// The message and its causes on one line.
    pub(super) fn with_causes(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Writing to a String can't fail.
            write!(line, ": {error}").ok();
            cause = error.source();
        }
        line
    }

    /// 2 for arguments, as clap does; 1 for the rest.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
