//! The names of options, in files and as environment variables: which exist, which were renamed,
//! and which one a misspelt name was likely meant to be.

use toml::{Table, Value};

/// How the names of this program's environment variables begin.
pub const PREFIX: &str = "DATA_PATCH_";

/// A name this similar (Jaro-Winkler, 0 to 1) is suggested.
const MIN_SIMILARITY: f64 = 0.9;

/// Renamed keys and sections: old name, new name, what else has changed.
pub const RENAMED: [(&str, &str, &str); 9] = [
    ("worker.cursor_ms", "worker.checkpoint_interval_ms", ""),
    ("worker.slice_seconds", "worker.preempt_after_seconds", ""),
    ("worker.stall_seconds", "worker.stall_warning_seconds", ""),
    ("worker.progress_ms", "worker.progress_log_interval_ms", ""),
    ("worker.retry_first_ms", "worker.retry_initial_ms", ""),
    ("worker.retry_max_seconds", "worker.retry_max_ms", " (in milliseconds)"),
    ("iota.trust_row_key", "iota.assume_unique_row_key", ""),
    ("queue.readers", "queue.read_connections", ""),
    ("guard", "validation", ""),
];

/// All keys of `table`, with their sections: `worker.concurrency`.
pub fn all(table: &Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(section) => keys.extend(all(section).iter().map(|inner| format!("{key}.{inner}"))),
            _ => keys.push(key.clone()),
        }
    }
    keys
}

/// The environment variable of a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The first key of `values` that `defaults` does not have. A section that is empty in `defaults`
/// takes any key.
pub fn first_unknown(values: &Table, defaults: &Table) -> Option<String> {
    values.iter().find_map(|(key, value)| match (defaults.get(key), value) {
        (Some(Value::Table(known)), Value::Table(values)) if !known.is_empty() => {
            first_unknown(values, known).map(|inner| format!("{key}.{inner}"))
        }
        (Some(_), _) => None,
        (None, Value::Table(values)) => {
            Some(first_unknown(values, &Table::new()).map_or_else(|| key.clone(), |inner| format!("{key}.{inner}")))
        }
        (None, _) => Some(key.clone()),
    })
}

/// The new name of a key, and what else has changed.
pub fn renamed(key: &str) -> Option<(String, &'static str)> {
    RENAMED.iter().find_map(|(old, new, note)| {
        let rest = key.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
        Some((format!("{new}{rest}"), *note))
    })
}

/// The new name of an environment variable, and what else has changed. `known` has all keys.
pub fn renamed_variable(name: &str, known: &[String]) -> Option<(String, &'static str)> {
    let known: Vec<String> = known.iter().map(|key| variable(key)).collect();
    RENAMED.iter().find_map(|(old, new, note)| {
        let rest = name.strip_prefix(&variable(old))?;
        let new = format!("{}{rest}", variable(new));
        known.contains(&new).then_some((new, *note))
    })
}

/// `; did you mean …?` if one of the known names is similar, else nothing.
pub fn did_you_mean(name: &str, known: &[String]) -> String {
    // What all variables begin with makes no two of them similar.
    let own = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&own(name), &own(known)), known))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"))
}
