//! The fields of a message: which fields each kind of message has, how values are described in
//! errors, and which field a misspelled name most likely means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::RequestError;

/// The fields of a message that submits a task.
pub const SUBMIT: [&str; 10] = ["src", "token", "thingId", "devices", "from", "to", "topic", "requestId", "reason", "rate"];
/// The fields of a message about a task that exists.
pub const TASK: [&str; 8] = ["token", "taskId", "after", "cancel", "pause", "resume", "retry", "rate"];

/// The most unknown fields that one refusal names.
const MAX_NAMED: usize = 3;

/// Names of fields that would restrict what a message does. Ignoring one would do more than the
/// client asked for, so these and similar names are refused even if unknown fields are ignored.
/// Lower case, without separators.
const RESTRICTING: [&str; 8] = ["dryrun", "preview", "simulate", "cancel", "pause", "resume", "retry", "rate"];

/// Names that clients use instead of the known ones. Lower case, without separators.
const SYNONYMS: [(&str, &str); 10] = [
    ("start", "from"),
    ("starttime", "from"),
    ("begin", "from"),
    ("begintime", "from"),
    ("end", "to"),
    ("endtime", "to"),
    ("until", "to"),
    ("task", "taskId"),
    ("id", "taskId"),
    ("seq", "after"),
];

/// A JSON value: an object with its fields, or any other value. Names that occur more than once are
/// recorded, since a map would silently keep only the last value.
pub struct Object {
    /// `None` if the value is not an object.
    pub fields: Option<Map<String, Value>>,
    pub repeated: Vec<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor)
    }
}

struct ObjectVisitor;

const NOT_AN_OBJECT: Object = Object { fields: None, repeated: Vec::new() };

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let (mut fields, mut repeated) = (Map::new(), Vec::new());
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&name) && repeated.len() < MAX_NAMED {
                repeated.push(name.clone());
            }
            fields.insert(name, value);
        }
        Ok(Object { fields: Some(fields), repeated })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Object, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(NOT_AN_OBJECT)
    }

    fn visit_unit<E: Error>(self) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Object, E> {
        Ok(NOT_AN_OBJECT)
    }
}

/// The fields of a message. A field that is `null` counts as missing.
pub struct Fields<'a> {
    pub all: &'a Map<String, Value>,
    /// The correct token. It is never shown, whichever field it is in.
    pub token: &'a str,
}

impl<'a> Fields<'a> {
    pub fn has(&self, name: &str) -> bool {
        self.optional(name).is_some()
    }

    pub fn optional(&self, name: &str) -> Option<&'a Value> {
        self.all.get(name).filter(|value| !value.is_null())
    }

    pub fn required(&self, name: &'static str, expected: &'static str) -> Result<&'a Value, RequestError> {
        self.optional(name).ok_or(RequestError::Missing { field: name, expected })
    }

    pub fn text(&self, name: &'static str, expected: &'static str) -> Result<&'a str, RequestError> {
        let value = self.required(name, expected)?;
        // The value is not shown, because the field may be the token.
        value.as_str().ok_or_else(|| invalid(name, kind(value), format!("it must be a string; {expected}")))
    }

    /// Checks that every field is one of `known`, or null and known for another kind of message. If
    /// unknown fields may be ignored, returns their names, as they may be shown.
    ///
    /// # Errors
    /// There are unknown fields; each is named together with the field that was likely meant.
    pub fn check_known(&self, known: &[&str], ignore: bool) -> Result<Vec<String>, RequestError> {
        let is_missing = |name: &str, value: &Value| value.is_null() && (SUBMIT.contains(&name) || TASK.contains(&name));
        let unknown = |(name, value): &(&String, &Value)| !known.contains(&name.as_str()) && !is_missing(name, value);
        let is_refused = |(name, value): &(&String, &Value)| !ignore || restricts(name, value);
        let mut problems: Vec<String> =
            self.all.iter().filter(unknown).filter(is_refused).map(|(name, _)| self.problem(name, known)).collect();
        if problems.is_empty() {
            return Ok(self.all.iter().filter(unknown).map(|(name, _)| self.shown(name)).collect());
        }
        let more = problems.len().saturating_sub(MAX_NAMED);
        problems.truncate(MAX_NAMED);
        if more > 0 {
            problems.push(format!("{more} more are unknown."));
        }
        Err(RequestError::UnknownField(problems.join(" ")))
    }

    fn problem(&self, name: &str, known: &[&str]) -> String {
        let shown = self.shown(name);
        match likely(name, known) {
            Some(likely) => format!("{shown} is not known here; did you mean `{likely}`?"),
            None => format!("{shown} is not known here; known are {}.", known.join(", ")),
        }
    }

    /// A field's name in the form that may be shown.
    pub fn shown(&self, name: &str) -> String {
        const MAX_CHARS: usize = 40;
        if name.contains(self.token) {
            return "a field whose name contains the token".to_owned();
        }
        let cut = if name.chars().nth(MAX_CHARS).is_some() { "…" } else { "" };
        format!("`{}{cut}`", name.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect::<String>())
    }
}

/// Whether ignoring a field would do more than the client asked for.
fn restricts(name: &str, value: &Value) -> bool {
    let same_initial = |word: &str| word.get(..1) == name.to_lowercase().get(..1);
    !matches!(value, Value::Null | Value::Bool(false)) && likely(name, &RESTRICTING).is_some_and(same_initial)
}

/// Lower case, without separators.
fn normalized(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

/// The known field that a name most likely means.
fn likely<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// The Jaro-Winkler similarity (0 to 1) above which a name counts as misspelled.
    const MIN_SIMILARITY: f64 = 0.85;
    // The cost of a comparison is the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    let name = normalized(name);
    if let Some((_, meant)) = SYNONYMS.iter().find(|(word, _)| *word == name) {
        return known.iter().find(|known| *known == meant).copied();
    }
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), *known))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

pub fn invalid(field: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> RequestError {
    RequestError::Invalid { field: field.into(), found: found.into(), expected: expected.into() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

pub fn described(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => quoted(text),
        _ => kind(value).to_owned(),
    }
}

/// A quoted string, truncated if it is long.
pub fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    if text.chars().count() <= MAX_CHARS {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(MAX_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likely_field_is_found() {
        for (name, meant) in [
            ("topics", Some("topic")),
            ("Topic", Some("topic")),
            ("topci", Some("topic")),
            ("device", Some("devices")),
            ("deviceIds", Some("devices")),
            ("thing", Some("thingId")),
            ("thing_id", Some("thingId")),
            ("request-id", Some("requestId")),
            ("startTime", Some("from")),
            ("end", Some("to")),
            ("dryRun", None),
            ("reasons", Some("reason")),
            ("priority", None),
            ("", None),
            ("补数据", None),
        ] {
            assert_eq!(likely(name, &SUBMIT), meant, "{name}");
        }
        for (name, meant) in [("Cancel", Some("cancel")), ("taskID", Some("taskId")), ("id", Some("taskId")), ("topics", None)] {
            assert_eq!(likely(name, &TASK), meant, "{name}");
        }
    }
}
