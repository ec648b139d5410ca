//! The layers of the configuration: the built-in file, a file, environment variables, flags.
//!
//! Each layer knows where its values come from, so that an error can say it.

use figment::{Figment, Metadata, Profile, Provider, value};
use serde::Deserialize;
use toml::{Table, Value};

use super::{
    ConfigError,
    option_names::{self, PREFIX},
};

/// The origin of values where nothing better is known.
const UNKNOWN_ORIGIN: &str = "the configuration";

/// Values from one place.
#[derive(Debug)]
pub struct Layer {
    /// The place, as errors name it: `environment variable DATA_PATCH_IOTA_URL`.
    origin: String,
    values: Table,
}

impl Layer {
    /// Parses a TOML file.
    ///
    /// # Errors
    /// The text is not valid TOML.
    pub fn parse(origin: String, text: &str) -> Result<Self, ConfigError> {
        let table = toml::Deserializer::parse(text).and_then(Table::deserialize);
        match table {
            Ok(values) => Ok(Self { origin, values }),
            Err(error) => Err(syntax(origin, text, &error)),
        }
    }

    /// A layer of one value.
    pub fn single<S: AsRef<str>>(origin: String, path: &[S], value: Value) -> Self {
        let mut values = Table::new();
        let Some((last, sections)) = path.split_last() else { return Self { origin, values } };
        values.insert(last.as_ref().to_owned(), value);
        for section in sections.iter().rev() {
            values = Table::from_iter([(section.as_ref().to_owned(), Value::Table(values))]);
        }
        Self { origin, values }
    }

    /// The options of this layer.
    pub fn values(&self) -> &Table {
        &self.values
    }

    /// Refuses keys that `defaults` does not have, with their new name if they were renamed.
    ///
    /// # Errors
    /// There is such a key.
    pub fn check_keys(&self, defaults: &Table) -> Result<(), ConfigError> {
        let Some(key) = option_names::first_unknown(&self.values, defaults) else { return Ok(()) };
        if let Some((new, note)) = option_names::renamed(&key) {
            return Err(ConfigError::Renamed { old: format!("{}: {key}", self.origin), new, note });
        }
        let hint = option_names::did_you_mean(&key, &option_names::all(defaults));
        Err(ConfigError::UnknownKey { origin: self.origin.clone(), key, hint })
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<value::Map<Profile, value::Dict>, figment::Error> {
        let values = value::Value::serialize(&self.values)?.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(values))
    }
}

fn syntax(origin: String, text: &str, error: &toml::de::Error) -> ConfigError {
    // Without the line's text: it may contain a password.
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let problem = format!("line {}: {}", before.lines().count().max(1), error.message());
    ConfigError::Syntax { origin, problem }
}

/// Variables that are not options: the token, the URL of the commands that speak to a service, and
/// those of the test suite.
fn is_other_variable(name: &str) -> bool {
    matches!(name, "DATA_PATCH_TOKEN" | "DATA_PATCH_CONFIG" | "DATA_PATCH_URL") || name.starts_with("DATA_PATCH_TEST_")
}

/// A layer for each environment variable; its text is read as the type that its option has in
/// `defaults`.
///
/// # Errors
/// A variable names no option, or its text is not of the option's type.
pub fn environment(defaults: &Table, variables: impl Iterator<Item = (String, String)>) -> Result<Vec<Layer>, ConfigError> {
    let known = option_names::all(defaults);
    let mut layers = Vec::new();
    for (name, text) in variables.filter(|(name, _)| name.starts_with(PREFIX) && !is_other_variable(name)) {
        let Some(key) = known.iter().find(|key| option_names::variable(key) == name) else {
            return Err(unknown_variable(name, &known));
        };
        let path: Vec<&str> = key.split('.').collect();
        let origin = format!("environment variable {name}");
        match parse_as(default_of(defaults, &path), &text) {
            Ok(value) => layers.push(Layer::single(origin, &path, value)),
            Err(problem) => {
                let (key, problem) = (key.clone(), problem.to_owned());
                return Err(ConfigError::Value { origin, key, problem });
            }
        }
    }
    Ok(layers)
}

fn unknown_variable(name: String, known: &[String]) -> ConfigError {
    if let Some((new, note)) = option_names::renamed_variable(&name, known) {
        return ConfigError::Renamed { old: format!("environment variable {name}"), new, note };
    }
    let variables: Vec<String> = known.iter().map(|key| option_names::variable(key)).collect();
    let hint = option_names::did_you_mean(&name, &variables);
    ConfigError::UnknownVariable { name, hint }
}

fn default_of<'a>(defaults: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(defaults.get(*first)?, |value, key| value.get(key))
}

/// The error does not show the text: it may be a secret that was put into the wrong variable.
fn parse_as(default: Option<&Value>, text: &str) -> Result<Value, &'static str> {
    Ok(match default {
        Some(Value::Integer(_)) => Value::Integer(text.trim().parse().map_err(|_| "is not a whole number")?),
        Some(Value::Float(_)) => Value::Float(text.trim().parse().map_err(|_| "is not a number")?),
        Some(Value::Boolean(_)) => Value::Boolean(text.trim().parse().map_err(|_| "is neither true nor false")?),
        Some(Value::Array(_)) => {
            Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect())
        }
        _ => Value::from(text),
    })
}

/// Where the value of `key` comes from.
///
/// Asked for each key, since figment gives a section the origin of the last layer that has any key
/// of it.
pub fn origin_of(figment: &Figment, key: &str) -> String {
    // Names of librdkafka's properties have dots, at which figment would split them.
    let value = match key.strip_prefix("kafka.properties.") {
        Some(name) => figment
            .find_value("kafka.properties")
            .ok()
            .and_then(value::Value::into_dict)
            .and_then(|mut properties| properties.remove(name)),
        None => figment.find_value(key).ok(),
    };
    value
        .and_then(|value| figment.get_metadata(value.tag()))
        .map_or_else(|| UNKNOWN_ORIGIN.to_owned(), |metadata| metadata.name.clone().into_owned())
}
