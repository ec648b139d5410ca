//! The messages of clients: submit a task, attach to one, or steer one.

use std::{fmt::Write as _, num::NonZeroU32};

use chrono::{DateTime, FixedOffset, SecondsFormat, Utc};
use chrono_tz::Tz;
use serde_json::{Map, Value};
use uuid::Uuid;

mod steering;
mod topic;

use super::{
    Identity, RequestError, Token,
    fields::{Fields, Object, SUBMIT, TASK, described, invalid, quoted},
    time::{self, Bound},
};
use crate::task::{NewTask, TaskId};
pub use steering::{Steering, lowered_rate, rate_within};
use steering::{checked_rate, steering};
pub use topic::ensure_allowed_topic;
use topic::topic;

/// The policy that messages are checked against.
#[derive(Debug, Clone)]
pub struct RequestPolicy {
    /// The zone of times without an offset.
    pub time_zone: Tz,
    /// The most devices of one task.
    pub max_devices: usize,
    /// The topic of a task without `topic`.
    pub default_topic: String,
    /// The topics that are allowed. If empty, any topic is allowed that is not one of Kafka's
    /// internal topics.
    pub topics: Vec<String>,
    /// The rate of a task without `rate`, in rows a second.
    pub default_rate: Option<NonZeroU32>,
    /// The highest rate that a task may have. If set, every task has a rate.
    pub max_rate: Option<NonZeroU32>,
    /// Whether unknown fields are ignored and named in the task's first log entry. Otherwise they
    /// are refused.
    pub ignore_unknown_fields: bool,
}

/// A valid message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    Submit(Submit),
    Attach(Attach),
    Steer(TaskId, Steering),
}

/// A task to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    pub task: NewTask,
    /// The ignored unknown fields, as they may be shown. Empty unless
    /// [`RequestPolicy::ignore_unknown_fields`] is set.
    pub ignored: Vec<String>,
}

/// A subscription to the log of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    pub task: TaskId,
    /// The sequence number after which the log is sent; 0 sends all of it.
    pub after: u64,
}

const MAX_REQUEST_ID_CHARS: usize = 128;
const MAX_REASON_CHARS: usize = 500;

impl ClientMessage {
    /// Parses one text frame. `authenticate` returns whose token a text is, if it is one.
    ///
    /// ```
    /// use data_patch_protocol::{ClientMessage, Identity, RequestPolicy, Role, Token};
    ///
    /// let token = Token::new("123456");
    /// let authenticate = |text: &str| token.matches(text).then(|| Identity::new("default", Role::Operator));
    /// let policy = RequestPolicy {
    ///     time_zone: chrono_tz::Asia::Shanghai,
    ///     max_devices: 10_000,
    ///     default_topic: "anxinyun_data".to_owned(),
    ///     topics: Vec::new(),
    ///     default_rate: None,
    ///     max_rate: None,
    ///     ignore_unknown_fields: false,
    /// };
    /// let text = r#"{"token":"123456","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba"}"#;
    /// assert!(matches!(ClientMessage::parse(text, authenticate, &policy), Ok(ClientMessage::Attach(_))));
    /// ```
    ///
    /// # Errors
    /// The first error in the message.
    pub fn parse(
        text: &str,
        authenticate: impl FnOnce(&str) -> Option<Identity>,
        policy: &RequestPolicy,
    ) -> Result<Self, RequestError> {
        Authorized::read(text, authenticate)?.message(policy)
    }
}

/// A message whose token is correct. Its other fields are not checked yet.
pub struct Authorized {
    fields: Map<String, Value>,
    repeated: Vec<String>,
    token: String,
    identity: Identity,
}

/// What the field `token` must hold.
const TOKEN_EXPECTED: &str = "the token that the service was started with, or one of its named tokens";

impl Authorized {
    /// Parses one text frame and checks its token: `authenticate` returns whose token a text is, if
    /// it is one.
    ///
    /// # Errors
    /// The message is not a JSON object, has no known shape, or its token is missing or wrong.
    pub fn read(text: &str, authenticate: impl FnOnce(&str) -> Option<Identity>) -> Result<Self, RequestError> {
        // Some editors write a byte order mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let object: Object = serde_json::from_str(text).map_err(|error| RequestError::NotJson(error.to_string()))?;
        let Object { fields: Some(all), repeated } = object else { return Err(RequestError::Shape) };
        if repeated.iter().any(|name| name == "token") {
            return Err(invalid("token", "given more than once", "give it once"));
        }
        let fields = Fields { all: &all, token: "" };
        if !all.contains_key("token") && !is_submit(&fields) && !fields.has("taskId") {
            return Err(RequestError::Shape);
        }
        let candidate = fields.text("token", TOKEN_EXPECTED)?;
        let identity = authenticate(candidate).ok_or(RequestError::WrongToken)?;
        let token = candidate.to_owned();
        Ok(Self { fields: all, repeated, token, identity })
    }

    /// Whose token the message has.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The token of the message.
    pub fn token(&self) -> Token {
        Token::new(&self.token)
    }

    /// Checks the other fields and returns the message.
    ///
    /// # Errors
    /// The first error in the message.
    pub fn message(&self, policy: &RequestPolicy) -> Result<ClientMessage, RequestError> {
        let fields = Fields { all: &self.fields, token: &self.token };
        if let Some(name) = self.repeated.first() {
            return Err(RequestError::RepeatedField(fields.shown(name)));
        }
        read(&fields, policy).map_err(|error| redact_token(error, &fields))
    }
}

impl Submit {
    /// Parses the body of an HTTP request: a submission without a token. `token` is the one of the
    /// request's header; no error shows it.
    ///
    /// # Errors
    /// The first error in the body.
    pub fn from_body(text: &str, token: &str, policy: &RequestPolicy) -> Result<Self, RequestError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let object: Object = serde_json::from_str(text).map_err(|error| RequestError::NotJson(error.to_string()))?;
        let Object { fields: Some(all), repeated } = object else { return Err(RequestError::Shape) };
        let fields = Fields { all: &all, token };
        if let Some(name) = repeated.first() {
            return Err(RequestError::RepeatedField(fields.shown(name)));
        }
        // The same as a message's fields, without the token.
        let known: Vec<_> = SUBMIT.into_iter().filter(|name| *name != "token").collect();
        let ignored = fields.check_known(&known, policy.ignore_unknown_fields)?;
        let task = submit(&fields, policy).map_err(|error| redact_token(error, &fields))?;
        Ok(Self { task, ignored })
    }
}

/// Whether a message has a field that only a submission requires.
fn is_submit(fields: &Fields<'_>) -> bool {
    ["src", "thingId", "devices", "from", "to"].iter().any(|name| fields.has(name))
}

fn read(fields: &Fields<'_>, policy: &RequestPolicy) -> Result<ClientMessage, RequestError> {
    let ignore = policy.ignore_unknown_fields;
    if is_submit(fields) {
        exclude(
            fields,
            &["taskId", "after", "cancel", "pause", "resume", "retry"],
            "a message that submits a task",
            "to attach or steer",
        )?;
        let ignored = fields.check_known(&SUBMIT, ignore)?;
        return Ok(ClientMessage::Submit(Submit { task: submit(fields, policy)?, ignored }));
    }
    if !fields.has("taskId") {
        fields.check_known(&[&SUBMIT[..], &TASK[1..]].concat(), false)?;
        return Err(RequestError::Shape);
    }
    exclude(fields, &["topic", "requestId", "reason"], "a message about a task that exists", "to submit a task")?;
    fields.check_known(&TASK, ignore)?;
    let attach = attach(fields)?;
    Ok(match steering(fields, policy)? {
        None => ClientMessage::Attach(attach),
        Some(steering) => ClientMessage::Steer(attach.task, steering),
    })
}

/// Refuses fields of another kind of message, since it is unclear which kind is meant.
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

/// Errors quote the value of a field. Removes the quote if the message contains the token in
/// another field.
fn redact_token(error: RequestError, fields: &Fields<'_>) -> RequestError {
    fn contains(value: &Value, token: &str) -> bool {
        match value {
            Value::String(text) => text.contains(token),
            Value::Array(list) => list.iter().any(|value| contains(value, token)),
            Value::Object(fields) => fields.iter().any(|(name, value)| name.contains(token) || contains(value, token)),
            Value::Number(number) => number.to_string().contains(token),
            Value::Null | Value::Bool(_) => false,
        }
    }
    match error {
        RequestError::Invalid { field, expected, .. }
            if fields.all.iter().any(|(name, value)| name != "token" && contains(value, fields.token)) =>
        {
            RequestError::Invalid { field, found: MISPLACED_TOKEN.to_owned(), expected }
        }
        error => error,
    }
}

const MISPLACED_TOKEN: &str = "not shown, because the token is in a field that it does not belong in";

fn submit(fields: &Fields<'_>, policy: &RequestPolicy) -> Result<NewTask, RequestError> {
    let src = fields.text("src", "only \"iota\" is supported")?;
    if src != "iota" {
        return Err(invalid("src", quoted(src), "only \"iota\" is supported"));
    }
    let topic = match fields.optional("topic") {
        None => policy.default_topic.clone(),
        Some(value) => topic(value, policy)?,
    };
    let expected = "the UUID of the thing that the devices are mounted on";
    let thing = fields.required("thingId", expected)?;
    let thing = uuid(thing).map_err(|found| invalid("thingId", found, expected))?;
    let devices = devices(fields, policy)?;
    let (from, to) = range(fields, policy.time_zone)?;
    let request_id = request_id(fields)?;
    let reason = reason(fields)?;
    // These values are stored and shown later.
    for (name, text) in [("topic", Some(&topic)), ("requestId", request_id.as_ref()), ("reason", reason.as_ref())] {
        if text.is_some_and(|text| text == fields.token || (name == "reason" && text.contains(fields.token))) {
            return Err(invalid(name, MISPLACED_TOKEN, "the token belongs only in token"));
        }
    }
    let rate = if fields.has("rate") { checked_rate(fields, policy)? } else { rate_within(policy.default_rate, policy)? };
    Ok(NewTask { thing, devices, topic, from, to, request_id, reason, rate })
}

fn range(fields: &Fields<'_>, zone: Tz) -> Result<(DateTime<Utc>, DateTime<Utc>), RequestError> {
    let (from_text, from) = timestamp(fields, "from", zone, Bound::From)?;
    let (to_text, to) = timestamp(fields, "to", zone, Bound::To)?;
    if from <= to {
        return Ok((from.to_utc(), to.to_utc()));
    }
    let mut found = format!("after to ({} > {}", quoted(from_text), quoted(to_text));
    if from.offset() != to.offset() {
        // Times with different offsets are hard to compare by eye.
        let to = to.with_timezone(from.offset()).to_rfc3339_opts(SecondsFormat::AutoSi, false);
        let from = from.to_rfc3339_opts(SecondsFormat::AutoSi, false);
        let _ = write!(found, ", which in one offset are {from} > {to}");
    }
    Err(invalid("from", found + ")", "it must be at or before to"))
}

fn attach(fields: &Fields<'_>) -> Result<Attach, RequestError> {
    let expected = "the UUID in the answer \"task created.\"";
    let task = uuid(fields.required("taskId", expected)?).map_err(|found| invalid("taskId", found, expected))?;
    let after = match fields.optional("after") {
        None => 0,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| invalid("after", described(value), "the seq of the last log entry that you have, or 0 for all"))?,
    };
    Ok(Attach { task: TaskId(task), after })
}

fn devices(fields: &Fields<'_>, policy: &RequestPolicy) -> Result<Vec<Uuid>, RequestError> {
    let expected = "an array of at least one device id";
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
        return Err(invalid("devices", "an empty array", expected));
    }
    if devices.len() > policy.max_devices {
        let expected = format!("at most {} are accepted at once; split the request", policy.max_devices);
        return Err(invalid("devices", format!("an array of {} devices", devices.len()), expected));
    }
    Ok(devices)
}

fn timestamp<'a>(
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
    let expected = "a string of 1 to 128 characters, the same for the same request";
    match value.as_str() {
        Some(text) if (1..=MAX_REQUEST_ID_CHARS).contains(&text.chars().count()) => Ok(Some(text.to_owned())),
        Some(text) => Err(invalid("requestId", format!("a string of {} characters", text.chars().count()), expected)),
        None => Err(invalid("requestId", described(value), expected)),
    }
}

fn reason(fields: &Fields<'_>) -> Result<Option<String>, RequestError> {
    let Some(value) = fields.optional("reason") else { return Ok(None) };
    let expected = "a text of at most 500 characters";
    let text = value.as_str().ok_or_else(|| invalid("reason", described(value), expected))?.trim();
    match text.chars().count() {
        0 => Ok(None),
        1..=MAX_REASON_CHARS => Ok(Some(text.to_owned())),
        chars => Err(invalid("reason", format!("a string of {chars} characters"), expected)),
    }
}

/// Whitespace around an id is accepted, since people paste ids. Otherwise returns what was found.
fn uuid(value: &Value) -> Result<Uuid, String> {
    let text = value.as_str().ok_or_else(|| described(value))?;
    Uuid::try_parse(text.trim()).map_err(|_| format!("{}, which is not a UUID", quoted(text)))
}

#[cfg(test)]
mod tests;
