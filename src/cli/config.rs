//! Where a command's settings come from.

use std::path::PathBuf;

use clap::Args;

use crate::settings::{Settings, SettingsError};

/// The settings file, for the commands that have one.
#[derive(Debug, Args)]
pub(super) struct Config {
    /// Settings file; config/adit.toml shows every setting. ADIT__SECTION__KEY variables go over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Config {
    /// Defaults, file and environment together.
    pub(super) fn load(&self) -> Result<Settings, SettingsError> {
        Settings::load(self.config.as_deref(), std::env::vars_os())
    }
}
