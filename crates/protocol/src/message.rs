//! What a client may say: submit a patch, attach to one, or cancel one.

use std::fmt::Write as _;

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    RequestError, Token,
    fields::{Fields, Object, SUBMIT, TASK, described, invalid, quoted},
    time::{self, Bound},
};
use crate::task::{NewTask, TaskId};

/// What messages are held against.
#[derive(Debug, Clone)]
pub struct RequestPolicy {
    pub token: Token,
    pub time_zone: Tz,
    pub max_devices: usize,
    pub default_topic: String,
    /// Topics that may be named; empty allows any that is not Kafka's own.
    pub topics: Vec<String>,
    /// Fields that are not known are ignored, and named in the task's first log line; else they are refused.
    pub ignore_unknown_fields: bool,
}

/// A message that holds to the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    Submit(Submit),
    Attach(Attach),
    /// No more of the task is to be published.
    Cancel(TaskId),
}

/// A task to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    pub task: NewTask,
    /// Fields that are not known, as they may be shown; there are none unless [`RequestPolicy::ignore_unknown_fields`].
    pub ignored: Vec<String>,
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
    pub fn parse(text: &str, rules: &RequestPolicy) -> Result<Self, RequestError> {
        Authorized::read(text, &rules.token)?.message(rules)
    }
}

/// A message whose token is right; nothing else of it is checked.
pub struct Authorized {
    fields: Map<String, Value>,
    repeated: Vec<String>,
    token: String,
}

impl Authorized {
    /// Reads one text frame as far as its token.
    ///
    /// # Errors
    /// It is no JSON object, has no known shape, or its token is missing or wrong.
    pub fn read(text: &str, token: &Token) -> Result<Self, RequestError> {
        // Editors of some systems put a byte order mark before a text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let object: Object = serde_json::from_str(text).map_err(|error| RequestError::NotJson(error.to_string()))?;
        let Object { fields: Some(all), repeated } = object else { return Err(RequestError::Shape) };
        if repeated.iter().any(|name| name == "token") {
            return Err(invalid("token", "given more than once", "give it once"));
        }
        let fields = Fields { all: &all, token: "" };
        if !all.contains_key("token") && !submits(&fields) && !fields.has("taskId") {
            return Err(RequestError::Shape);
        }
        let said = fields.text("token", "the token that the service was started with")?;
        if !token.matches(said) {
            return Err(RequestError::WrongToken);
        }
        let token = said.to_owned();
        Ok(Self { fields: all, repeated, token })
    }

    /// What the message asks for.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn message(&self, rules: &RequestPolicy) -> Result<ClientMessage, RequestError> {
        let fields = Fields { all: &self.fields, token: &self.token };
        if let Some(name) = self.repeated.first() {
            return Err(RequestError::RepeatedField(fields.shown(name)));
        }
        read(&fields, rules).map_err(|refusal| redact_token(refusal, &fields))
    }
}

/// Whether a message has fields that only a submit has, and needs.
fn submits(fields: &Fields<'_>) -> bool {
    ["src", "thingId", "devices", "from", "to"].iter().any(|name| fields.has(name))
}

fn read(fields: &Fields<'_>, rules: &RequestPolicy) -> Result<ClientMessage, RequestError> {
    let ignore = rules.ignore_unknown_fields;
    if submits(fields) {
        exclude(fields, &["taskId", "after", "cancel"], "a message that submits a task", "to attach or cancel")?;
        let ignored = fields.check_known(&SUBMIT, ignore)?;
        return Ok(ClientMessage::Submit(Submit { task: submit(fields, rules)?, ignored }));
    }
    if !fields.has("taskId") {
        fields.check_known(&[&SUBMIT[..], &TASK[1..]].concat(), false)?;
        return Err(RequestError::Shape);
    }
    exclude(fields, &["topic", "requestId"], "a message about a task that exists", "to submit a task")?;
    fields.check_known(&TASK, ignore)?;
    let attach = attach(fields)?;
    match fields.optional("cancel") {
        None | Some(Value::Bool(false)) => Ok(ClientMessage::Attach(attach)),
        Some(Value::Bool(true)) => Ok(ClientMessage::Cancel(attach.task)),
        Some(value) => Err(invalid("cancel", described(value), "true cancels the task, false or nothing attaches to it")),
    }
}

/// Refuses fields that belong to another kind of message: which of the two is meant can't be told.
fn exclude(fields: &Fields<'_>, others: &[&str], message: &str, purpose: &str) -> Result<(), RequestError> {
    let found: Vec<_> = others.iter().filter(|name| fields.has(name)).map(|name| format!("`{name}`")).collect();
    if found.is_empty() {
        return Ok(());
    }
    let found = found.join(" and ");
    Err(RequestError::UnknownField(format!(
        "{found} does not belong in {message}; send one message to do that, and another {purpose}."
    )))
}

/// A refusal shows what it found; not so if the token was put in a wrong field.
fn redact_token(refusal: RequestError, fields: &Fields<'_>) -> RequestError {
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
        RequestError::Invalid { field, expected, .. }
            if fields.all.iter().any(|(name, value)| name != "token" && holds(value, fields.token)) =>
        {
            RequestError::Invalid { field, found: MISPLACED_TOKEN.to_owned(), expected }
        }
        refusal => refusal,
    }
}

const MISPLACED_TOKEN: &str = "not shown, for the token is in a field that it does not belong in";

fn submit(fields: &Fields<'_>, rules: &RequestPolicy) -> Result<NewTask, RequestError> {
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
    let (from, to) = range(fields, rules.time_zone)?;
    let request_id = request_id(fields)?;
    // These two would be stored, and shown later, as they are.
    for (name, text) in [("topic", Some(&topic)), ("requestId", request_id.as_ref())] {
        if text.is_some_and(|text| text == fields.token) {
            return Err(invalid(name, MISPLACED_TOKEN, "the token belongs in token alone"));
        }
    }
    Ok(NewTask { thing, devices, topic, from, to, request_id })
}

fn range(fields: &Fields<'_>, zone: Tz) -> Result<(DateTime<Utc>, DateTime<Utc>), RequestError> {
    let (from_text, from) = moment(fields, "from", zone, Bound::From)?;
    let (to_text, to) = moment(fields, "to", zone, Bound::To)?;
    if from <= to {
        return Ok((from.to_utc(), to.to_utc()));
    }
    let mut found = format!("after to ({} > {}", quoted(from_text), quoted(to_text));
    if from.offset() != to.offset() {
        // Clocks of different offsets are hard to compare by eye.
        let to = to.with_timezone(from.offset()).to_rfc3339_opts(SecondsFormat::AutoSi, false);
        let from = from.to_rfc3339_opts(SecondsFormat::AutoSi, false);
        let _ = write!(found, ", which in one offset are {from} > {to}");
    }
    Err(invalid("from", found + ")", "it must be at or before to"))
}

fn attach(fields: &Fields<'_>) -> Result<Attach, RequestError> {
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

fn topic(value: &Value, rules: &RequestPolicy) -> Result<String, RequestError> {
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

fn devices(fields: &Fields<'_>, rules: &RequestPolicy) -> Result<Vec<Uuid>, RequestError> {
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

fn moment<'a>(
    fields: &Fields<'a>,
    name: &'static str,
    zone: Tz,
    bound: Bound,
) -> Result<(&'a str, DateTime<FixedOffset>), RequestError> {
    let text = fields.text(name, time::ACCEPTED)?;
    let time = time::parse(text, zone, bound)
        .map_err(|error| invalid(name, format!("{}, which {error}", quoted(text)), time::ACCEPTED))?;
    Ok((text, time))
}

fn request_id(fields: &Fields<'_>) -> Result<Option<String>, RequestError> {
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

#[cfg(test)]
mod tests;
