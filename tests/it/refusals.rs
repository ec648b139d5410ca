//! Invalid input: the error names the problem, nothing is created, and the connection stays open.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::support::{Client, TestApp, TestSource, message};

/// Sends a text and checks the error; the connection must stay usable.
async fn refused(client: &mut Client, text: &str, expected: &str) {
    client.send_text(text).await;
    let reply = client.next().await;
    assert_eq!((&reply["type"], &reply["res"]), (&json!("theme-data"), &json!("error")), "{text}: {reply}");
    assert!(reply["erorr"].as_str().unwrap().starts_with("error message: "), "{reply}");
    assert!(message(&reply).contains(expected), "{text}: {reply}");
}

#[tokio::test]
async fn each_is_reported_and_creates_nothing() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "max_devices"], 2);
    })
    .await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    let request = Client::request(thing, &[device], &app.topic.name);
    let with = |field: &str, value: Value| {
        let mut request = request.clone();
        request[field] = value;
        request.to_string()
    };
    refused(&mut client, "not json", "not JSON").await;
    refused(&mut client, "[1, 2]", "no known shape").await;
    refused(&mut client, "{\"hello\": \"world\"}", "no known shape").await;
    refused(&mut client, &with("src", json!("et")), "src is \"et\"").await;
    refused(&mut client, &with("token", json!(null)), "token is missing").await;
    refused(&mut client, &with("thingId", json!("bridge")), "thingId is \"bridge\"").await;
    refused(&mut client, &with("devices", json!([])), "devices is an empty array").await;
    refused(&mut client, &with("devices", json!([1, 2, 3])), "devices[0] is the number 1").await;
    let three: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    refused(&mut client, &with("devices", json!(three)), "at most 2").await;
    refused(&mut client, &with("from", json!("2019-02-29 00:00:00")), "does not exist").await;
    refused(&mut client, &with("from", json!("2119-01-01 00:00:00")), "from is after to").await;
    refused(&mut client, &with("topic", json!("a/b")), "not a legal topic name").await;
    refused(&mut client, &with("topic", json!("__consumer_offsets")), "internal topics").await;
    refused(&mut client, &with("requestId", json!(7)), "requestId is the number 7").await;
    let unknown = Uuid::new_v4();
    refused(&mut client, &json!({"token": "123456", "taskId": unknown}).to_string(), &unknown.to_string()).await;
    refused(&mut client, &json!({"token": "123456", "taskId": "7"}).to_string(), "taskId is \"7\"").await;
    assert_eq!(app.queue().await.backlog().await.unwrap().jobs, 0);

    client.submit(&request).await;
    client.log().await;
    app.stop().await;
}

/// A typo must not publish to the wrong topic, and a dry run must not publish anything.
#[tokio::test]
async fn an_unknown_field_is_refused_by_name_and_nothing_is_published() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    for (field, value, expected) in [
        ("topics", json!("savoir_data"), "`topics` is not known here; did you mean `topic`?"),
        ("dryRun", json!(true), "`dryRun` is not known here"),
        ("Cancel", json!(true), "`Cancel` is not known here"),
        ("priority", json!("high"), "`priority` is not known here"),
    ] {
        let mut request = Client::request(thing, &[device], &app.topic.name);
        request[field] = value;
        client.send(&request).await;
        let reply = client.next().await;
        assert_eq!((&reply["res"], &reply["payload"]["code"]), (&json!("error"), &json!("unknown_field")), "{reply}");
        assert!(message(&reply).starts_with(expected), "{reply}");
    }
    assert_eq!(app.queue().await.backlog().await.unwrap().jobs, 0);
    app.stop().await;
}

#[tokio::test]
async fn a_misspelt_cancel_does_not_attach() {
    let app = TestApp::start(TestSource::empty().await).await;
    let text = json!({"token": "123456", "taskId": Uuid::new_v4(), "Cancel": true}).to_string();
    refused(&mut app.client().await, &text, "`Cancel` is not known here; did you mean `cancel`?").await;
    app.stop().await;
}

#[tokio::test]
async fn where_unknown_fields_are_ignored_the_first_log_line_names_them_and_dry_runs_are_refused() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "unknown_fields"], "warn");
    })
    .await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    let mut request = Client::request(thing, &[device], &app.topic.name);
    request["project"] = json!("bridge");
    request["dryRun"] = json!(true);
    refused(&mut client, &request.to_string(), "`dryRun` is not known here").await;
    request["dryRun"] = json!(null);
    let task = client.submit(&request).await;
    let log = client.log().await;
    assert_eq!(message(&log[0]), "unknown fields in the request are ignored: `dryRun`, `project`");
    assert_eq!(log[0]["payload"]["seq"], 1);
    client.attach(&task, 0).await;
    assert_eq!(client.log().await, log, "it is stored");
    app.stop().await;
}

#[tokio::test]
async fn the_same_request_id_with_another_request_is_refused_with_the_fields_that_differ() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let other = Uuid::new_v4();
    let mut client = app.client().await;
    let mut request = Client::request(thing, &[device, other], &app.topic.name);
    request["requestId"] = json!("one");
    let task = client.submit(&request).await;
    client.log().await;
    for (changes, fields) in [
        (json!({"topic": "savoir_data"}), "topic"),
        (json!({"thingId": other}), "thingId"),
        (json!({"devices": [other, device]}), "devices"),
        (json!({"devices": [device]}), "devices"),
        (json!({"from": "2019-01-11T21:03:00.001+0800", "to": "2029-01-15T14:30:01+0800"}), "from, to"),
    ] {
        let mut request = request.clone();
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        client.send(&request).await;
        let reply = client.next().await;
        assert_eq!(reply["payload"]["code"], "request_id_conflict", "{reply}");
        assert!(message(&reply).contains(&format!("by task {task}, which differs in {fields};")), "{reply}");
    }
    // The same time in another format is the same request.
    request["from"] = json!("2019-01-11T13:03:00Z");
    client.send(&request).await;
    assert_eq!(message(&client.next().await), "task attached.");
    app.stop().await;
}

#[tokio::test]
async fn a_binary_frame_is_refused() {
    let app = TestApp::start(TestSource::empty().await).await;
    let mut client = app.client().await;
    futures_util::SinkExt::send(&mut client.socket, Message::binary(vec![1, 2, 3])).await.unwrap();
    assert!(message(&client.next().await).contains("binary frame"));
    refused(&mut client, "{}", "no known shape").await;
    app.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_reported_and_closes_with_1008() {
    let app = TestApp::start(TestSource::empty().await).await;
    let mut client = app.client().await;
    refused(&mut client, &json!({"token": "12345", "taskId": Uuid::new_v4()}).to_string(), "token is wrong").await;
    assert_eq!(client.close_code().await, Some(1008));
    app.stop().await;
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_1009_and_affects_no_other() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "max_message_bytes"], 2_000);
    })
    .await;
    let mut other = app.client().await;
    for bytes in [2_001, 100_000] {
        let mut client = app.client().await;
        let _ = futures_util::SinkExt::send(&mut client.socket, Message::text("x".repeat(bytes))).await;
        assert_eq!(client.close_code().await, Some(1009), "{bytes} bytes");
    }
    refused(&mut other, &"x".repeat(2_000), "not JSON").await;
    app.stop().await;
}

#[tokio::test]
async fn after_beyond_the_end_is_reported_with_the_end() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let last = client.log().await.len() as u64;
    let reply = client.attach(&task, last + 1).await;
    assert!(message(&reply).contains(&format!("ends at {last}")), "{reply}");
    assert_eq!(reply["payload"]["code"], "after_beyond_end");
    app.stop().await;
}

#[tokio::test]
async fn only_allowed_topics() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["kafka", "topics"], vec!["anxinyun_data"]);
    })
    .await;
    let mut client = app.client().await;
    let request = Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &app.topic.name);
    refused(&mut client, &request.to_string(), "allowed are anxinyun_data").await;
    app.stop().await;
}
