//! The fields of a message: which ones each kind of message has, how a value is described, and what another name most
//! likely means.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::RequestError;

/// The fields of a message that submits a task.
pub const SUBMIT: [&str; 8] = ["src", "token", "thingId", "devices", "from", "to", "topic", "requestId"];
/// The fields of a message about a task that exists.
pub const TASK: [&str; 4] = ["token", "taskId", "after", "cancel"];

/// Unknown fields that one refusal or log line names, at the most.
const NAMED: usize = 3;

/// Fields that ask for less than the message would do without them. Ignoring one does more than was wanted, so these, and what
/// is like them, are refused also where unknown fields are ignored. Lower case, without separators.
const RESTRICTING: [&str; 8] = ["dryrun", "preview", "simulate", "cancel", "pause", "resume", "retry", "rate"];

/// Other words for the fields that people take for their names. Lower case, without separators.
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

/// A JSON text: an object with its fields, or anything else. The names that an object has more than once are kept, since a
/// map would silently take the last of them.
pub struct Object {
    /// `None`: the text is no object.
    pub fields: Option<Map<String, Value>>,
    pub repeated: Vec<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor)
    }
}

struct ObjectVisitor;

const NO_OBJECT: Object = Object { fields: None, repeated: Vec::new() };

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let (mut fields, mut repeated) = (Map::new(), Vec::new());
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&name) && repeated.len() < NAMED {
                repeated.push(name.clone());
            }
            fields.insert(name, value);
        }
        Ok(Object { fields: Some(fields), repeated })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Object, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(NO_OBJECT)
    }

    fn visit_unit<E: Error>(self) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Object, E> {
        Ok(NO_OBJECT)
    }
}

/// The fields of a message; what is `null` counts as left out.
pub struct Fields<'a> {
    pub all: &'a Map<String, Value>,
    /// The right token: never shown, whatever field it was put into.
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
        // What a token looks like is not told, not even of one that is no text.
        value.as_str().ok_or_else(|| invalid(name, kind(value), format!("it must be a text; {expected}")))
    }

    /// Checks that every field is one of `known`, or null and of another kind of message. Returns the others, as they may be
    /// shown, if they may be ignored.
    ///
    /// # Errors
    /// There are others, each named with the one that was likely meant.
    pub fn check_known(&self, known: &[&str], ignore: bool) -> Result<Vec<String>, RequestError> {
        let left_out = |name: &str, value: &Value| value.is_null() && (SUBMIT.contains(&name) || TASK.contains(&name));
        let unknown = |(name, value): &(&String, &Value)| !known.contains(&name.as_str()) && !left_out(name, value);
        let refused = |(name, value): &(&String, &Value)| !ignore || restricts(name, value);
        let mut problems: Vec<String> =
            self.all.iter().filter(unknown).filter(refused).map(|(name, _)| self.problem(name, known)).collect();
        if problems.is_empty() {
            return Ok(self.all.iter().filter(unknown).map(|(name, _)| self.shown(name)).collect());
        }
        let more = problems.len().saturating_sub(NAMED);
        problems.truncate(NAMED);
        if more > 0 {
            problems.push(format!("{more} more are not known either."));
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

    /// A field's name as it may be shown.
    pub fn shown(&self, name: &str) -> String {
        const SHOWN: usize = 40;
        if name.contains(self.token) {
            return "a field whose name holds the token".to_owned();
        }
        let cut = if name.chars().nth(SHOWN).is_some() { "…" } else { "" };
        format!("`{}{cut}`", name.chars().take(SHOWN).flat_map(char::escape_debug).collect::<String>())
    }
}

/// Whether ignoring a field would do more than was asked for.
fn restricts(name: &str, value: &Value) -> bool {
    let like = |word: &str| word.get(..1) == name.to_lowercase().get(..1);
    !matches!(value, Value::Null | Value::Bool(false)) && likely(name, &RESTRICTING).is_some_and(like)
}

/// Lower case, without separators.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

/// The field that another name most likely means.
fn likely<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// More alike than this (0 to 1) is taken for a slip of the pen.
    const ALIKE: f64 = 0.85;
    // Comparing takes the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    let name = plain(name);
    if let Some((_, meant)) = SYNONYMS.iter().find(|(word, _)| *word == name) {
        return known.iter().find(|known| *known == meant).copied();
    }
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), *known))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

pub fn invalid(field: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> RequestError {
    RequestError::Invalid { field: field.into(), found: found.into(), expected: expected.into() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
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

/// A text as it was sent, cut where it is long.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(SHOWN).collect::<String>())
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
            ("reason", None),
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
