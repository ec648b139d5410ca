//! What a client may say: submit a patch, attach to one, or cancel one.

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Refusal, Token,
    time::{self, Bound},
};
use crate::task::{NewTask, TaskId};

/// What messages are held against.
#[derive(Debug, Clone)]
pub struct Rules {
    pub token: Token,
    pub time_zone: Tz,
    pub max_devices: usize,
    pub default_topic: String,
    /// Topics that may be named; empty allows any that is not Kafka's own.
    pub topics: Vec<String>,
}

/// A message that holds to the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    Submit(NewTask),
    Attach(Attach),
    /// No more of the task is to be published.
    Cancel(TaskId),
}

/// A task to be watched, from the log after `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    pub task: TaskId,
    pub after: u64,
}

const MAX_REQUEST_ID_CHARS: usize = 128;
const MAX_TOPIC_CHARS: usize = 249;

impl ClientMessage {
    /// Reads one text frame.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, Refusal> {
        let value: Value = serde_json::from_str(text).map_err(|error| Refusal::NotJson(error.to_string()))?;
        let Value::Object(fields) = value else { return Err(Refusal::Shape) };
        let fields = Fields(&fields);
        let submits = ["src", "thingId", "devices", "from", "to"].iter().any(|name| fields.has(name));
        if !submits && !fields.has("taskId") {
            return Err(Refusal::Shape);
        }
        let token = fields.text("token", "the token that the service was started with")?;
        if !rules.token.matches(token) {
            return Err(Refusal::WrongToken);
        }
        fields.read(submits, rules).map_err(|refusal| hide(refusal, token, &fields))
    }
}

/// A refusal shows what it found; not so if the token was put in a wrong field.
fn hide(refusal: Refusal, token: &str, fields: &Fields<'_>) -> Refusal {
    fn holds(value: &Value, token: &str) -> bool {
        match value {
            Value::String(text) => text.contains(token),
            Value::Array(list) => list.iter().any(|value| holds(value, token)),
            Value::Object(fields) => fields.iter().any(|(name, value)| name.contains(token) || holds(value, token)),
            Value::Number(number) => number.to_string().contains(token),
            Value::Null | Value::Bool(_) => false,
        }
    }
    match refusal {
        Refusal::Invalid { field, expected, .. }
            if fields.0.iter().any(|(name, value)| name != "token" && holds(value, token)) =>
        {
            Refusal::Invalid {
                field,
                found: "not shown, for the token is in a field that it does not belong in".to_owned(),
                expected,
            }
        }
        refusal => refusal,
    }
}

fn submit(fields: &Fields<'_>, rules: &Rules) -> Result<NewTask, Refusal> {
    let src = fields.text("src", "only \"iota\" is known")?;
    if src != "iota" {
        return Err(invalid("src", quoted(src), "only \"iota\" is known"));
    }
    let topic = match fields.optional("topic") {
        None => rules.default_topic.clone(),
        Some(value) => topic(value, rules)?,
    };
    let expected = "the UUID of the thing that the devices are mounted on";
    let thing = fields.required("thingId", expected)?;
    let thing = uuid(thing).map_err(|found| invalid("thingId", found, expected))?;
    let devices = devices(fields, rules)?;
    let from = moment(fields, "from", rules.time_zone, Bound::From)?;
    let to = moment(fields, "to", rules.time_zone, Bound::To)?;
    if from > to {
        let found = format!("after to ({} > {})", shown(from), shown(to));
        return Err(invalid("from", found, "it must be at or before to"));
    }
    Ok(NewTask { thing, devices, topic, from, to, request_id: request_id(fields)? })
}

fn attach(fields: &Fields<'_>) -> Result<Attach, Refusal> {
    let expected = "the UUID that \"task created.\" came with";
    let task = uuid(fields.required("taskId", expected)?).map_err(|found| invalid("taskId", found, expected))?;
    let after = match fields.optional("after") {
        None => 0,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| invalid("after", described(value), "the seq of the last log that you have, or 0 for all"))?,
    };
    Ok(Attach { task: TaskId(task), after })
}

fn topic(value: &Value, rules: &Rules) -> Result<String, Refusal> {
    let expected = "a topic name has 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', and is neither \".\" nor \"..\"";
    let name = value.as_str().ok_or_else(|| invalid("topic", described(value), expected))?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_TOPIC_CHARS || !name.bytes().all(legal) || name == "." || name == ".." {
        return Err(invalid("topic", format!("{}, which is no legal topic name", quoted(name)), expected));
    }
    if rules.topics.is_empty() {
        if name.starts_with("__") {
            return Err(invalid(
                "topic",
                format!("{}, which is one of Kafka's own", quoted(name)),
                "name the topic that ET consumes",
            ));
        }
    } else if !rules.topics.iter().any(|allowed| allowed == name) {
        let expected = format!("allowed are {}", rules.topics.join(", "));
        return Err(invalid("topic", format!("{}, which is not allowed here", quoted(name)), expected));
    }
    Ok(name.to_owned())
}

fn devices(fields: &Fields<'_>, rules: &Rules) -> Result<Vec<Uuid>, Refusal> {
    let expected = "a list of at least one device id";
    let value = fields.required("devices", expected)?;
    let list = value.as_array().ok_or_else(|| invalid("devices", described(value), expected))?;
    let mut seen = std::collections::HashSet::with_capacity(list.len());
    let mut devices = Vec::with_capacity(list.len());
    for (index, value) in list.iter().enumerate() {
        let id = uuid(value).map_err(|found| invalid(format!("devices[{index}]"), found, "each is the UUID of a device"))?;
        if seen.insert(id) {
            devices.push(id);
        }
    }
    if devices.is_empty() {
        return Err(invalid("devices", "an empty list", expected));
    }
    if devices.len() > rules.max_devices {
        let expected = format!("at most {} are taken at once; split the request", rules.max_devices);
        return Err(invalid("devices", format!("a list of {} devices", devices.len()), expected));
    }
    Ok(devices)
}

fn moment(fields: &Fields<'_>, name: &'static str, zone: Tz, bound: Bound) -> Result<DateTime<Utc>, Refusal> {
    let text = fields.text(name, time::ACCEPTED)?;
    time::parse(text, zone, bound).map_err(|error| invalid(name, format!("{}, which {error}", quoted(text)), time::ACCEPTED))
}

fn request_id(fields: &Fields<'_>) -> Result<Option<String>, Refusal> {
    let Some(value) = fields.optional("requestId") else { return Ok(None) };
    let expected = "a text of 1 to 128 characters, the same for the same request";
    match value.as_str() {
        Some(text) if (1..=MAX_REQUEST_ID_CHARS).contains(&text.chars().count()) => Ok(Some(text.to_owned())),
        Some(text) => Err(invalid("requestId", format!("a text of {} characters", text.chars().count()), expected)),
        None => Err(invalid("requestId", described(value), expected)),
    }
}

/// People paste ids, so white space around them is no fault. What was found is told where it is no UUID.
fn uuid(value: &Value) -> Result<Uuid, String> {
    let text = value.as_str().ok_or_else(|| described(value))?;
    Uuid::try_parse(text.trim()).map_err(|_| format!("{}, which is no UUID", quoted(text)))
}

/// The fields of a message; what is `null` counts as left out.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// What the message asks for, its token being right.
    fn read(&self, submits: bool, rules: &Rules) -> Result<ClientMessage, Refusal> {
        if submits {
            return submit(self, rules).map(ClientMessage::Submit);
        }
        let Attach { task, after } = attach(self)?;
        match self.optional("cancel") {
            None | Some(Value::Bool(false)) => Ok(ClientMessage::Attach(Attach { task, after })),
            Some(Value::Bool(true)) => Ok(ClientMessage::Cancel(task)),
            Some(value) => Err(invalid("cancel", described(value), "true cancels the task, false or nothing attaches to it")),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn optional(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn required(&self, name: &'static str, expected: &'static str) -> Result<&'a Value, Refusal> {
        self.optional(name).ok_or(Refusal::Missing { field: name, expected })
    }

    fn text(&self, name: &'static str, expected: &'static str) -> Result<&'a str, Refusal> {
        let value = self.required(name, expected)?;
        // What a token looks like is not told, not even of one that is no text.
        value.as_str().ok_or_else(|| invalid(name, kind(value), format!("it must be a text; {expected}")))
    }
}

fn invalid(field: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Refusal {
    Refusal::Invalid { field: field.into(), found: found.into(), expected: expected.into() }
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

fn described(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => quoted(text),
        _ => kind(value).to_owned(),
    }
}

/// A text as it was sent, cut where it is long.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}…", text.chars().take(SHOWN).collect::<String>())
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests;
