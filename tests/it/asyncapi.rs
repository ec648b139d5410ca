//! `docs/asyncapi.yaml` and the WebSocket say the same: its examples are sent to the service, and
//! whatever the service sends is one of its messages.

#[path = "../../crates/protocol/src/task/event/one_of_each.rs"]
mod one_of_each;

use std::collections::{BTreeMap, BTreeSet};

use data_patch::{
    protocol::reply,
    task::{Event, Failure, LogEntry, Position, QuarantinedRow, Requester, Summary, TaskId, TaskState},
};
use jsonschema::Validator;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Client, TestApp, TestSource, eventually, is_end};
use one_of_each::one_of_each;

fn json_of(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => json!(text),
        Yaml::Integer(number) => json!(number),
        Yaml::Boolean(value) => json!(value),
        Yaml::Array(items) => items.iter().map(json_of).collect(),
        Yaml::Hash(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.as_str().unwrap().to_owned(), json_of(value))).collect::<Map<_, _>>(),
        ),
        Yaml::Null => Value::Null,
        other => panic!("{other:?} has no place in the document"),
    }
}

struct Document(Value);

impl Document {
    fn load() -> Self {
        let text = include_str!("../../docs/asyncapi.yaml");
        Self(json_of(&YamlLoader::load_from_str(text).unwrap()[0]))
    }

    fn messages(&self) -> &Map<String, Value> {
        self.0["components"]["messages"].as_object().unwrap()
    }

    /// The examples of a message.
    fn examples(&self, message: &str) -> Vec<Value> {
        let examples = self.messages()[message]["examples"].as_array().unwrap();
        examples.iter().map(|example| example["payload"].clone()).collect()
    }

    /// What checks a message.
    fn validator(&self, message: &str) -> Validator {
        let mut schema = self.messages()[message]["payload"].clone();
        schema["components"] = json!({"schemas": self.0["components"]["schemas"]});
        jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
    }

    /// The messages that an operation has, and those that answer it.
    fn messages_of(&self, operation: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let names = |list: &Value| {
            let list = list.as_array().into_iter().flatten();
            list.map(|item| item["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
        };
        let operation = &self.0["operations"][operation];
        (names(&operation["messages"]), names(&operation["reply"]["messages"]))
    }
}

/// Fails unless a message that the service has sent is what the document says of `name`.
fn assert_valid(document: &Document, name: &str, message: &Value) {
    let errors: Vec<_> = document.validator(name).iter_errors(message).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{message} is not as {name} is described: {errors:?}");
}

#[test]
fn every_message_has_valid_examples_and_an_operation() {
    let document = Document::load();
    assert_eq!(document.0["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations: Vec<_> = document.0["operations"].as_object().unwrap().keys().cloned().collect();
    let used: BTreeSet<_> = operations
        .iter()
        .flat_map(|operation| {
            let (messages, replies) = document.messages_of(operation);
            messages.into_iter().chain(replies)
        })
        .collect();
    let in_channel: BTreeSet<_> = document.0["channels"]["websocket"]["messages"].as_object().unwrap().keys().cloned().collect();
    let all: BTreeSet<_> = document.messages().keys().cloned().collect();
    assert_eq!((&used, &in_channel), (&all, &all));
    for name in &all {
        let examples = document.examples(name);
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            assert_valid(&document, name, &example);
        }
    }
}

/// The words that a function of a source file returns, one an arm: `=> "x",`.
fn words_of(source: &str, function: &str) -> BTreeSet<String> {
    let body = source.split(&format!("fn {function}(")).nth(1).unwrap().split("\n    }\n").next().unwrap();
    body.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

/// The words of `const` and `enum` in a schema.
fn words_in(schema: &Value) -> BTreeSet<String> {
    let one = schema["const"].as_str().into_iter();
    one.chain(schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str)).map(str::to_owned).collect()
}

#[test]
fn every_event_and_every_code_is_described() {
    let document = Document::load();
    let schemas = &document.0["components"]["schemas"];
    let kinds = words_of(include_str!("../../crates/protocol/src/task/event.rs"), "kind");
    let described: Vec<_> =
        schemas["Event"]["oneOf"].as_array().unwrap().iter().map(|event| &event["properties"]["kind"]).collect();
    assert_eq!(described.into_iter().flat_map(words_in).collect::<BTreeSet<_>>(), kinds);
    let codes = words_of(include_str!("../../crates/protocol/src/request_error.rs"), "code");
    assert_eq!(words_in(&schemas["Refused"]["properties"]["payload"]["properties"]["code"]), codes);
    let mut seen = BTreeSet::new();
    for event in one_of_each() {
        seen.insert(event.kind().to_owned());
        let final_state = matches!(event, Event::Finished(_)).then_some(TaskState::Failed);
        let line = reply::log(&LogEntry { task: TaskId::new(), seq: 7, at_ms: 5, event, final_state });
        assert_valid(&document, "logEntry", &serde_json::from_str(&line).unwrap());
    }
    assert_eq!(seen, kinds, "one_of_each is not one of each");
}

/// Sends an example, with the ids of this test, and returns the answer, which must be one that the
/// operation has.
async fn answer(
    document: &Document,
    client: &mut Client,
    operation: &str,
    example: &Value,
    ids: &[(&str, Value)],
) -> (String, Value) {
    let mut message = example.clone();
    for (field, value) in ids.iter().filter(|(field, _)| !example[field].is_null()) {
        message[field] = value.clone();
    }
    client.send(&message).await;
    // Entries of logs that the client follows come in between.
    let answer = client.until(|reply| reply["type"] == "data-patch" || reply["payload"]["code"].is_string()).await.pop().unwrap();
    let (_, replies) = document.messages_of(operation);
    let valid: Vec<_> = replies.into_iter().filter(|name| document.validator(name).is_valid(&answer)).collect();
    assert_eq!(valid.len(), 1, "{operation} is answered with {answer}, which is {valid:?}");
    (valid[0].clone(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_takes_the_examples_and_sends_what_is_described() {
    let (document, app) = (Document::load(), TestApp::start(TestSource::empty().await).await);
    let (thing, device) = app.source.add_rows(30).await;
    let missing = Uuid::new_v4();
    let topic = json!(app.topic.name);
    let mut client = app.client().await;
    let mut tasks = BTreeMap::new();
    for (name, example) in ["contract", "everything"].into_iter().zip(document.examples("submit")) {
        let ids = [("thingId", json!(thing)), ("devices", json!([device, missing])), ("topic", topic.clone())];
        let (kind, created) = answer(&document, &mut client, "submitTask", &example, &ids).await;
        assert_eq!(kind, "created", "{created}");
        for entry in client.until(is_end).await {
            assert_valid(&document, "logEntry", &entry);
        }
        tasks.insert(name, created["payload"]["taskId"].clone());
    }
    let ended = tasks["contract"].clone();
    for example in document.examples("attach") {
        let (kind, attached) = answer(&document, &mut client, "attachToTask", &example, &[("taskId", ended.clone())]).await;
        assert_eq!(kind, "attached", "{attached}");
        for entry in client.until(is_end).await {
            assert_valid(&document, "logEntry", &entry);
        }
    }
    let (kind, retried) =
        answer(&document, &mut client, "retryTask", &document.examples("retry")[0], &[("taskId", ended.clone())]).await;
    assert_eq!(kind, "created", "{retried}");
    client.until(is_end).await;

    // A task that does not end by itself: a row a second.
    let mut slow = Client::request(thing, &[device], &app.topic.name);
    slow["rate"] = json!(1);
    let running = client.submit(&slow).await;
    let path = format!("/tasks/{running}");
    for steering in ["pause", "setRate", "resume", "cancel"] {
        for example in document.examples(steering) {
            let ids = [("taskId", json!(running)), ("rate", json!(1))];
            let (kind, steered) = answer(&document, &mut client, "steerTask", &example, &ids).await;
            assert_eq!(kind, "steered", "{steering}: {steered}");
        }
        if steering == "setRate" {
            let rate = || async { app.call("GET", &path, &Value::Null).await.json()["rate"].is_null() };
            eventually("the last example removes the limit", rate).await;
        }
    }
    let unknown = document.examples("attach").remove(0);
    let (kind, _) = answer(&document, &mut client, "attachToTask", &unknown, &[("taskId", json!(Uuid::new_v4()))]).await;
    assert_eq!(kind, "refused");
    app.stop().await;
}
