//! The properties of every client message, and of the reply to it.

use std::{collections::HashSet, sync::LazyLock};

use chrono::{DateTime, SecondsFormat, Utc};
use data_patch_protocol::{
    Attach, ClientMessage, Identity, RequestError, RequestPolicy, Role, Steering, Submit, Token, reply, task::NewTask,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// So long and unusual that it does not occur by chance; the same in JSON, in Rust's `Debug` and in
/// plain text.
const TOKEN: &str = "tok-7Qk2";
const MAX_DEVICES: usize = 3;
/// The longest error quotes 80 characters, each shown as up to ten.
const MAX_ERROR_CHARS: usize = 2_000;

/// Policies: any topic is allowed, or only these.
static RULES: LazyLock<[RequestPolicy; 2]> = LazyLock::new(|| [policy(&[]), policy(&["savoir_data", "__replay"])]);

fn policy(topics: &[&str]) -> RequestPolicy {
    RequestPolicy {
        time_zone: chrono_tz::Asia::Shanghai,
        max_devices: MAX_DEVICES,
        default_topic: "anxinyun_data".to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
        default_rate: None,
        max_rate: None,
        ignore_unknown_fields: false,
    }
}

fn authenticate(candidate: &str) -> Option<Identity> {
    Token::new(TOKEN).matches(candidate).then(|| Identity::new("default", Role::Operator))
}

/// Panics if a property does not hold.
pub fn check(input: &[u8]) {
    // Invalid UTF-8 is rejected before this point.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let json = serde_json::from_str::<Value>(text.strip_prefix('\u{feff}').unwrap_or(text)).ok();
    for policy in &*RULES {
        match ClientMessage::parse(text, authenticate, policy) {
            Ok(message) => {
                let json = json.as_ref().expect("an accepted message is JSON");
                assert_eq!(json["token"], TOKEN, "nothing is accepted without the token");
                match &message {
                    ClientMessage::Submit(submit) => submitted(submit, json, policy),
                    ClientMessage::Attach(attach) => attached(attach, json),
                    ClientMessage::Steer(task, steering) => {
                        check_known(json, FIELDS[1]);
                        assert_eq!(id(&json["taskId"]), Some(task.0));
                        let (field, value) = steering_field(*steering);
                        assert_eq!(json[field], value);
                    }
                }
                let again = ClientMessage::parse(&written(&message), authenticate, policy);
                assert_eq!(again.as_ref(), Ok(&message), "the message is the same after it is written and read");
            }
            Err(error) => refused(&error, json.as_ref()),
        }
    }
}

/// The fields of a submit, and of other messages.
const FIELDS: [&[&str]; 2] = [
    &["src", "token", "thingId", "devices", "from", "to", "topic", "requestId", "reason", "rate"],
    &["token", "taskId", "after", "cancel", "pause", "resume", "retry", "rate"],
];

/// The field that steers a task, and its value.
fn steering_field(steering: Steering) -> (&'static str, Value) {
    match steering {
        Steering::Cancel => ("cancel", json!(true)),
        Steering::Pause => ("pause", json!(true)),
        Steering::Resume => ("resume", json!(true)),
        Steering::Retry => ("retry", json!(true)),
        Steering::Rate(rate) => ("rate", json!(rate)),
    }
}

/// Asserts that all fields are known; a null field may be one of another message.
fn check_known(json: &Value, fields: &[&str]) {
    for (name, value) in json.as_object().expect("an accepted message is an object") {
        let elsewhere = value.is_null() && FIELDS.concat().contains(&name.as_str());
        assert!(!name.is_empty() && (fields.contains(&name.as_str()) || elsewhere), "{name:?} is accepted");
    }
}

fn submitted(submit: &Submit, json: &Value, policy: &RequestPolicy) {
    let Submit { task, ignored } = submit;
    check_known(json, FIELDS[0]);
    assert!(ignored.is_empty());
    assert_eq!(json["src"], "iota");
    assert_eq!(Some(task.thing), id(&json["thingId"]));

    let mut seen = HashSet::new();
    let listed = json["devices"].as_array().expect("a list").iter().filter_map(id);
    let first: Vec<Uuid> = listed.filter(|id| seen.insert(*id)).collect();
    assert_eq!(task.devices, first, "each once, in the order given");
    assert!((1..=MAX_DEVICES).contains(&task.devices.len()));

    assert!(task.from <= task.to, "{} > {}", task.from, task.to);

    match &json["topic"] {
        Value::Null => assert_eq!(task.topic, policy.default_topic),
        topic => assert_eq!(topic, &task.topic),
    }
    let legal = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-');
    assert!((1..=249).contains(&task.topic.len()) && task.topic.chars().all(legal), "{:?}", task.topic);
    assert!(task.topic != "." && task.topic != "..");
    if policy.topics.is_empty() {
        assert!(!task.topic.starts_with("__"), "{} is Kafka's own", task.topic);
    } else if !json["topic"].is_null() {
        assert!(policy.topics.contains(&task.topic), "{} is not on the list", task.topic);
    }

    assert_eq!(json["requestId"].as_str(), task.request_id.as_deref());
    assert!(task.request_id.as_ref().is_none_or(|id| (1..=128).contains(&id.chars().count())));
}

fn attached(attach: &Attach, json: &Value) {
    assert_eq!(Some(attach.task.0), id(&json["taskId"]));
    assert_eq!(attach.after, json["after"].as_u64().unwrap_or(0));
    check_known(json, FIELDS[1]);
}

fn refused(error: &RequestError, json: Option<&Value>) {
    let text = error.to_string();
    assert!(text.chars().count() < MAX_ERROR_CHARS, "{} characters: {text}", text.chars().count());
    let reply: Value = serde_json::from_str(&reply::refused(error)).expect("a reply is JSON");
    assert_eq!(reply["payload"]["ex"], text);

    let authorized = json.is_some_and(|json| json["token"] == TOKEN);
    if !authorized {
        let about_token = match error {
            RequestError::NotJson(_) | RequestError::Shape | RequestError::WrongToken => true,
            RequestError::Missing { field, .. } => *field == "token",
            RequestError::Invalid { field, .. } => field == "token",
            _ => false,
        };
        assert!(about_token, "revealed without the token: {text}");
    }
    assert!(!text.contains(TOKEN), "{text}");
}

fn id(value: &Value) -> Option<Uuid> {
    value.as_str()?.trim().parse().ok()
}

/// The shortest message with this meaning.
fn written(message: &ClientMessage) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    match message {
        ClientMessage::Submit(Submit {
            task: NewTask { thing, devices, topic, from, to, request_id, reason, rate, .. }, ..
        }) => json!({
            "src": "iota", "token": TOKEN, "thingId": thing, "devices": devices, "from": time(*from), "to": time(*to),
            // The default topic may be missing in the list, and then can't be named.
            "topic": (topic != "anxinyun_data").then_some(topic), "requestId": request_id,
            "reason": reason, "rate": rate,
        }),
        ClientMessage::Attach(Attach { task, after }) => json!({ "token": TOKEN, "taskId": task, "after": after }),
        ClientMessage::Steer(task, steering) => {
            let (field, value) = steering_field(*steering);
            json!({ "token": TOKEN, "taskId": task, field: value })
        }
    }
    .to_string()
}
