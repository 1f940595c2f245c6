//! Defaults under a file under variables, and errors that name the key and the layer at fault.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};

use super::{ProxyVariables, Settings};

/// What the name of a variable begins with: `ADIT__HTTP__LISTEN` is `listen` in section `http`.
pub const VARIABLE_PREFIX: &str = "ADIT__";

/// Settings that may be given as a file instead: section, key, and the key that names the file.
const FILES: [(&str, &str, &str); 2] = [("admin", "tokens", "tokens_file"), ("store", "url", "url_file")];

/// A setting is wrong. No message holds a secret's value.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The settings file can't be read.
    #[error("the settings file `{path}` can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The settings file has a key or value that is not allowed.
    #[error("`{path}`{place}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// ` line N`, where it is known.
        place: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A variable has a name or value that is not allowed.
    #[error("variable `{name}`: {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A value has the right type and is not allowed.
    #[error("`{key}` {problem}")]
    Value {
        /// The setting, as `section.key`.
        key: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// A file with a secret can't be read.
    #[error("the file `{path}` that `{key}` names can't be read")]
    SecretFile {
        /// The setting, as `section.key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Settings {
    /// The settings of a file, if one is given, and of those `variables` that begin with [`VARIABLE_PREFIX`] or name a
    /// proxy.
    ///
    /// # Errors
    /// The first key that does not exist, value of the wrong type or out of range, or file that can't be read.
    pub fn load(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let variables: Vec<_> = variables.into_iter().collect();
        let proxies = ProxyVariables::read(&variables)?;
        let mut table = match file {
            Some(path) => read_file(path)?,
            None => Table::new(),
        };
        apply_variables(&mut table, variables)?;
        let mut settings = Self::deserialize(table).map_err(|error| SettingsError::Value {
            key: "settings",
            problem: error.message().to_owned(),
        })?;
        settings.proxies = proxies;
        settings.read_secret_files()?;
        settings.check()?;
        Ok(settings)
    }

    fn read_secret_files(&mut self) -> Result<(), SettingsError> {
        if let Some(path) = &self.admin.tokens_file {
            let text = read_secret("admin.tokens_file", path)?;
            self.admin.tokens = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(Into::into)
                .collect();
        }
        if let Some(path) = &self.store.url_file {
            self.store.url = SecretString::from(read_secret("store.url_file", path)?.trim());
        }
        Ok(())
    }
}

fn read_secret(key: &'static str, path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|source| SettingsError::SecretFile {
        key,
        path: path.to_owned(),
        source,
    })
}

fn read_file(path: &Path) -> Result<Table, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let fault = |place, problem| SettingsError::File {
        path: path.to_owned(),
        place,
        problem,
    };
    // Only the message: the error's own display quotes the line, which may hold a secret.
    let at_fault = |error: toml::de::Error| fault(line_of(&text, &error), error.message().to_owned());
    toml::from_str::<Settings>(&text).map_err(at_fault)?;
    let table: Table = toml::from_str(&text).map_err(at_fault)?;
    match FILES
        .iter()
        .find(|(section, key, file)| has(&table, section, key) && has(&table, section, file))
    {
        Some((section, key, file)) => Err(fault(
            String::new(),
            format!("`{section}.{key}` and `{section}.{file}` are both set; one is allowed"),
        )),
        None => Ok(table),
    }
}

fn line_of(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    before
        .map(|before| format!(" line {}", before.matches('\n').count().saturating_add(1)))
        .unwrap_or_default()
}

fn has(table: &Table, section: &str, key: &str) -> bool {
    table.get(section).and_then(|section| section.get(key)).is_some()
}

fn apply_variables(
    table: &mut Table,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), SettingsError> {
    let mut named = Table::new();
    for (name, value) in variables {
        let Some((name, rest)) = name
            .to_str()
            .and_then(|name| Some((name, name.strip_prefix(VARIABLE_PREFIX)?)))
        else {
            continue;
        };
        let fault = |problem: String| SettingsError::Variable {
            name: name.to_owned(),
            problem,
        };
        let path = rest.to_ascii_lowercase();
        let Some((section, key)) = path.split_once("__") else {
            return Err(fault(format!(
                "the name must have the form `{VARIABLE_PREFIX}SECTION__KEY`"
            )));
        };
        let text = value
            .to_str()
            .ok_or_else(|| fault("the value is not valid UTF-8".to_owned()))?;
        let value = typed(section, key, text).map_err(fault)?;
        set(&mut named, section, key, value);
    }
    for (section, key, file) in FILES {
        let (has_value, has_file) = (has(&named, section, key), has(&named, section, file));
        if has_value && has_file {
            return Err(SettingsError::Variable {
                name: format!("{VARIABLE_PREFIX}{section}__{file}").to_ascii_uppercase(),
                problem: format!("`{section}.{key}` is set too; one is allowed"),
            });
        }
        // A layer above replaces a setting also where the layer below gave it in the other way.
        if (has_value || has_file)
            && let Some(Value::Table(below)) = table.get_mut(section)
        {
            below.remove(key);
            below.remove(file);
        }
    }
    for (section, keys) in named {
        for (key, value) in keys.as_table().into_iter().flatten() {
            set(table, &section, key, value.clone());
        }
    }
    Ok(())
}

fn set(table: &mut Table, section: &str, key: &str, value: Value) {
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key.to_owned(), value);
    }
}

/// A variable is text. What it means is what its setting's type accepts: text, a number, or a list with commas.
fn typed(section: &str, key: &str, text: &str) -> Result<Value, String> {
    let list = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let number = text.parse().ok().map(Value::Integer);
    let list = Value::Array(list.map(|item| Value::String(item.to_owned())).collect());
    // A list last, as its error says least; the number's says most.
    let mut problem = String::new();
    for (candidate, tells_most) in [
        Some((Value::String(text.to_owned()), true)),
        number.map(|number| (number, true)),
        Some((list, false)),
    ]
    .into_iter()
    .flatten()
    {
        let mut alone = Table::new();
        set(&mut alone, section, key, candidate.clone());
        match Settings::deserialize(alone) {
            Ok(_) => return Ok(candidate),
            Err(error) if tells_most => error.message().clone_into(&mut problem),
            Err(_) => {}
        }
    }
    Err(problem)
}
