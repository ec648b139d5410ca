//! Reads the configuration from its layers and checks it.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    error::{Actual, Kind},
};
use toml::Value;

use super::{
    Config,
    layers::{self, Layer},
    limits::{self, Violation},
};

/// The default of every option: the commented file at the root of the project.
pub const DEFAULTS: &str = include_str!("../../config.toml");

/// Why the configuration is refused: where the value comes from, its key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not valid TOML: {problem}")]
    Syntax { origin: String, problem: String },
    #[error("{old} was renamed to {new}{note}; use the new name")]
    Renamed { old: String, new: String, note: &'static str },
    #[error("{origin}: {key} is not an option{hint}")]
    UnknownKey { origin: String, key: String, hint: String },
    #[error(
        "environment variable {name} names no option{hint}; options are DATA_PATCH_<SECTION>_<KEY> as in config.toml, \
         for example DATA_PATCH_IOTA_URL"
    )]
    UnknownVariable { name: String, hint: String },
    #[error("{origin}: {key}: {problem}")]
    Value { origin: String, key: String, problem: String },
    #[error("no token: start with --token, set DATA_PATCH_TOKEN, or name a file in [server] token_file")]
    NoToken,
}

/// Values that override all other layers.
#[derive(Debug, Default)]
pub struct Overrides(Vec<Layer>);

impl Overrides {
    /// Sets the option at `path` to the value of a flag, for example `--listen`.
    pub fn set_flag(&mut self, flag: &str, path: &[&str], value: impl Into<Value>) -> &mut Self {
        self.0.push(Layer::single(format!("flag {flag}"), path, value.into()));
        self
    }

    /// Sets the option at `path` to a value that the command itself chooses.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> &mut Self {
        self.0.push(Layer::single("the command's own settings".to_owned(), path, value.into()));
        self
    }
}

/// Reads the configuration. Later layers override earlier ones: defaults, `file`, `variables`,
/// `overrides`.
///
/// # Errors
/// The file cannot be read, a key or variable is unknown, or a value has the wrong type or is out
/// of its limits. The error names the key and where the value comes from.
pub fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<Config, ConfigError> {
    let built_in = Layer::parse("the built-in config.toml".to_owned(), DEFAULTS)?;
    let defaults = built_in.values().clone();
    let mut layers = vec![built_in];
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        layers.push(Layer::parse(format!("configuration file {}", path.display()), &text)?);
    }
    layers.extend(layers::environment(&defaults, variables)?);
    layers.extend(overrides.0);
    layers.iter().try_for_each(|layer| layer.check_keys(&defaults))?;

    let figment = layers.into_iter().fold(Figment::new(), Figment::merge);
    let config: Config = figment.extract().map_err(|error| refused(&figment, error))?;
    limits::check(&config).map_err(|Violation { key, problem, depends_on }| {
        let problem = match depends_on {
            Some(other) => format!("{problem} (the value of {other} comes from {})", layers::origin_of(&figment, other)),
            None => problem,
        };
        ConfigError::Value { origin: layers::origin_of(&figment, &key), key, problem }
    })?;
    Ok(config)
}

fn refused(figment: &Figment, error: figment::Error) -> ConfigError {
    let key = error.path.join(".");
    ConfigError::Value { origin: layers::origin_of(figment, &key), key, problem: describe(error.kind) }
}

/// What is wrong with a value. figment's own text would show the value, which may be a secret in
/// the wrong place; here only numbers and the names of variants are shown.
fn describe(kind: Kind) -> String {
    match kind {
        Kind::InvalidType(found, expected) => format!("is {}; expected {}", type_name(&found), plain(&expected)),
        Kind::InvalidValue(Actual::Signed(number), expected) => format!("is {number}; expected {}", plain(&expected)),
        Kind::InvalidValue(_, expected) => format!("is invalid; expected {}", plain(&expected)),
        Kind::UnknownVariant(found, known) => format!("is {found:?}; it must be one of {}", known.join(", ")),
        other => other.to_string(),
    }
}

fn type_name(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a fraction",
        Actual::Str(_) | Actual::Char(_) => "a string",
        Actual::Seq => "an array",
        Actual::Map => "a table",
        _ => "of another type",
    }
}

/// serde's name of a type, in the words of TOML.
fn plain(expected: &str) -> &str {
    match expected {
        "u32" | "u64" | "usize" => "a whole number, not negative",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "an array",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
