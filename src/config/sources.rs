//! TOML tables from a file and from the environment, laid one above the other.

use toml::{Table, Value};

use super::ConfigError;

/// All variables of ours begin so.
pub const PREFIX: &str = "DATA_PATCH_";

/// Variables that are ours and no option: the token, and what the test suite runs on.
fn is_other_variable(name: &str) -> bool {
    name == "DATA_PATCH_TOKEN" || name == "DATA_PATCH_CONFIG" || name.starts_with("DATA_PATCH_TEST_")
}

/// Lays `above` over `below`: tables are merged, all else is replaced.
pub fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// Sets what the variables say, each read as the type that its option has in `defaults`.
///
/// # Errors
/// A variable that names no option, or whose value can't be read as the option's type.
pub fn apply_env(
    config: &mut Table,
    defaults: &Table,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if is_other_variable(&name) {
            continue;
        }
        let path = option_named(defaults, rest).ok_or_else(|| ConfigError::UnknownVariable(name.clone()))?;
        let default = path.iter().try_fold(None, |at: Option<&Value>, key| match at {
            None => Some(defaults.get(key)),
            Some(Value::Table(table)) => Some(table.get(key)),
            Some(_) => None,
        });
        let value = read_as(default.flatten(), &text).map_err(|problem| ConfigError::Value {
            origin: format!("environment variable {name}"),
            key: path.join("."),
            problem,
        })?;
        set(config, &path, value);
    }
    Ok(())
}

/// The option that `SECTION_SUB_KEY` names: found by comparing with what there is, since keys have underscores too.
fn option_named(defaults: &Table, upper: &str) -> Option<Vec<String>> {
    for (key, value) in defaults {
        let Some(rest) = upper.strip_prefix(&key.to_uppercase()) else { continue };
        match value {
            Value::Table(table) => {
                if let Some(mut path) = rest.strip_prefix('_').and_then(|rest| option_named(table, rest)) {
                    path.insert(0, key.clone());
                    return Some(path);
                }
            }
            _ if rest.is_empty() => return Some(vec![key.clone()]),
            _ => {}
        }
    }
    None
}

fn read_as(default: Option<&Value>, text: &str) -> Result<Value, String> {
    Ok(match default {
        Some(Value::Integer(_)) => Value::Integer(text.trim().parse().map_err(|_| format!("{text:?} is no whole number"))?),
        Some(Value::Boolean(_)) => {
            Value::Boolean(text.trim().parse().map_err(|_| format!("{text:?} is neither true nor false"))?)
        }
        Some(Value::Array(_)) => {
            Value::Array(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect())
        }
        _ => Value::from(text),
    })
}

/// Puts a value at a path, making the tables on the way.
pub fn set<S: AsRef<str>>(config: &mut Table, path: &[S], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        config.insert(first.as_ref().to_owned(), value);
    } else if let Value::Table(table) = config.entry(first.as_ref()).or_insert_with(|| Value::Table(Table::new())) {
        set(table, rest, value);
    }
}
