//! What holds of every message that a client may send, and of what it is answered.

use std::{collections::HashSet, sync::LazyLock};

use chrono::{DateTime, SecondsFormat, Utc};
use data_patch_protocol::{
    Attach, ClientMessage, Identity, RequestError, RequestPolicy, Role, Submit, Token, reply, task::NewTask,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Long and odd enough to stand nowhere by chance, and the same in JSON, in Rust's quotes and in plain text.
const TOKEN: &str = "tok-7Qk2";
const MAX_DEVICES: usize = 3;
/// The longest refusal quotes 80 characters, each of which may be shown as ten.
const MAX_REFUSAL_CHARS: usize = 2_000;

/// Any topic may be named; only these may.
static RULES: LazyLock<[RequestPolicy; 2]> = LazyLock::new(|| [rules(&[]), rules(&["savoir_data", "__replay"])]);

fn rules(topics: &[&str]) -> RequestPolicy {
    RequestPolicy {
        time_zone: chrono_tz::Asia::Shanghai,
        max_devices: MAX_DEVICES,
        default_topic: "anxinyun_data".to_owned(),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
        ignore_unknown_fields: false,
    }
}

fn authenticate(candidate: &str) -> Option<Identity> {
    Token::new(TOKEN).matches(candidate).then(|| Identity::new("default", Role::Operator))
}

/// Panics where a property does not hold.
pub fn check(input: &[u8]) {
    // A frame that is no UTF-8 never comes this far.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let said = serde_json::from_str::<Value>(text.strip_prefix('\u{feff}').unwrap_or(text)).ok();
    for rules in &*RULES {
        match ClientMessage::parse(text, authenticate, rules) {
            Ok(message) => {
                let said = said.as_ref().expect("what is accepted is JSON");
                assert_eq!(said["token"], TOKEN, "nothing is accepted without the token");
                match &message {
                    ClientMessage::Submit(submit) => submitted(submit, said, rules),
                    ClientMessage::Attach(attach) => attached(attach, said),
                    ClientMessage::Cancel(task) => {
                        known(said, &FIELDS[1]);
                        assert_eq!((said["cancel"].as_bool(), id(&said["taskId"])), (Some(true), Some(task.0)));
                    }
                }
                let again = ClientMessage::parse(&written(&message), authenticate, rules);
                assert_eq!(again.as_ref(), Ok(&message), "written as it was understood, it says the same");
            }
            Err(refusal) => refused(&refusal, said.as_ref()),
        }
    }
}

/// The fields of a submit, and those of other messages.
const FIELDS: [[&str; 8]; 2] = [
    ["src", "token", "thingId", "devices", "from", "to", "topic", "requestId"],
    ["token", "taskId", "after", "cancel", "", "", "", ""],
];

/// Every field is known; what is null may be one of another message.
fn known(said: &Value, fields: &[&str]) {
    for (name, value) in said.as_object().expect("what is accepted is an object") {
        let elsewhere = value.is_null() && FIELDS.concat().contains(&name.as_str());
        assert!(!name.is_empty() && (fields.contains(&name.as_str()) || elsewhere), "{name:?} is accepted");
    }
}

fn submitted(submit: &Submit, said: &Value, rules: &RequestPolicy) {
    let Submit { task, ignored } = submit;
    known(said, &FIELDS[0]);
    assert!(ignored.is_empty());
    assert_eq!(said["src"], "iota");
    assert_eq!(Some(task.thing), id(&said["thingId"]));

    let mut seen = HashSet::new();
    let listed = said["devices"].as_array().expect("a list").iter().filter_map(id);
    let first: Vec<Uuid> = listed.filter(|id| seen.insert(*id)).collect();
    assert_eq!(task.devices, first, "each once, in the order given");
    assert!((1..=MAX_DEVICES).contains(&task.devices.len()));

    assert!(task.from <= task.to, "{} > {}", task.from, task.to);

    match &said["topic"] {
        Value::Null => assert_eq!(task.topic, rules.default_topic),
        topic => assert_eq!(topic, &task.topic),
    }
    let legal = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-');
    assert!((1..=249).contains(&task.topic.len()) && task.topic.chars().all(legal), "{:?}", task.topic);
    assert!(task.topic != "." && task.topic != "..");
    if rules.topics.is_empty() {
        assert!(!task.topic.starts_with("__"), "{} is Kafka's own", task.topic);
    } else if !said["topic"].is_null() {
        assert!(rules.topics.contains(&task.topic), "{} is not on the list", task.topic);
    }

    assert_eq!(said["requestId"].as_str(), task.request_id.as_deref());
    assert!(task.request_id.as_ref().is_none_or(|id| (1..=128).contains(&id.chars().count())));
}

fn attached(attach: &Attach, said: &Value) {
    assert_eq!(Some(attach.task.0), id(&said["taskId"]));
    assert_eq!(attach.after, said["after"].as_u64().unwrap_or(0));
    known(said, &FIELDS[1]);
}

fn refused(refusal: &RequestError, said: Option<&Value>) {
    let text = refusal.to_string();
    assert!(text.chars().count() < MAX_REFUSAL_CHARS, "{} characters: {text}", text.chars().count());
    let reply: Value = serde_json::from_str(&reply::refused(refusal)).expect("a reply is JSON");
    assert_eq!(reply["payload"]["ex"], text);

    let authorized = said.is_some_and(|said| said["token"] == TOKEN);
    if !authorized {
        let about_token = match refusal {
            RequestError::NotJson(_) | RequestError::Shape | RequestError::WrongToken => true,
            RequestError::Missing { field, .. } => *field == "token",
            RequestError::Invalid { field, .. } => field == "token",
            _ => false,
        };
        assert!(about_token, "told to one who does not know the token: {text}");
    }
    assert!(!text.contains(TOKEN), "{text}");
}

fn id(value: &Value) -> Option<Uuid> {
    value.as_str()?.trim().parse().ok()
}

/// The plainest message of this meaning.
fn written(message: &ClientMessage) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    match message {
        ClientMessage::Submit(Submit { task: NewTask { thing, devices, topic, from, to, request_id, .. }, .. }) => json!({
            "src": "iota", "token": TOKEN, "thingId": thing, "devices": devices, "from": time(*from), "to": time(*to),
            // The default topic need not be on the list, but then can't be named.
            "topic": (topic != "anxinyun_data").then_some(topic), "requestId": request_id,
        }),
        ClientMessage::Attach(Attach { task, after }) => json!({ "token": TOKEN, "taskId": task, "after": after }),
        ClientMessage::Cancel(task) => json!({ "token": TOKEN, "taskId": task, "cancel": true }),
    }
    .to_string()
}
