//! The HTTP API: the same tasks as over the WebSocket, and its errors.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use uuid::Uuid;

use crate::support::{Client, Reading, TOKEN, TestApp, TestSource, call, eventually};

/// A submission as the body of a request.
fn body(thing: Uuid, devices: &[Uuid], topic: &str) -> Value {
    let mut request = Client::request(thing, devices, topic);
    request.as_object_mut().unwrap().remove("token");
    request
}

async fn until_finished(app: &TestApp, task: &str) -> Value {
    let path = format!("/tasks/{task}");
    eventually("the task is not finished", || async {
        !app.call("GET", &path, &Value::Null).await.json()["finishedAt"].is_null()
    })
    .await;
    app.call("GET", &path, &Value::Null).await.json()
}

#[tokio::test]
async fn a_task_is_submitted_shown_and_listed() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let mut request = body(thing, &[device], &app.topic.name);
    (request["reason"], request["requestId"]) = (json!("ET was down, ticket 4711"), json!("once"));
    let created = app.call("POST", "/tasks", &request).await;
    assert_eq!(created.status, 201, "{created:?}");
    let task = created.json()["taskId"].as_str().unwrap().to_owned();
    assert!(created.head.contains(&format!("location: /data-patch/api/v1/tasks/{task}")), "{created:?}");
    let repeated = app.call("POST", "/tasks", &request).await;
    assert_eq!((repeated.status, &repeated.json()["taskId"]), (200, &json!(task)), "{repeated:?}");
    let view = until_finished(&app, &task).await;
    assert_eq!((&view["state"], &view["reason"]), (&json!("succeeded"), &request["reason"]));
    assert_eq!(view["requestedBy"], json!({"token": "default", "address": "127.0.0.1"}));
    assert_eq!(view["devices"], json!({"total": 1, "queued": 0, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}));
    let rows = json!({"counted": 30, "countedDevices": 1, "published": 30, "quarantined": 0, "unanswered": 0});
    assert_eq!(view["rows"], rows);
    let jobs = app.call("GET", &format!("/tasks/{task}/jobs"), &Value::Null).await.json();
    assert_eq!((&jobs["items"][0]["deviceId"], &jobs["items"][0]["published"]), (&json!(device), &json!(30)));
    let listed = app.call("GET", "/tasks?state=succeeded&limit=1&q=4711", &Value::Null).await.json();
    assert_eq!(listed["items"][0]["taskId"], json!(task), "{listed}");
    assert_eq!(app.call("GET", "/tasks?state=failed", &Value::Null).await.json()["items"], json!([]));
    app.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_is_a_request_id() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let request = body(thing, &[device], &app.topic.name).to_string();
    let submit = async |key: &str, request: &str| {
        let answer = call(&app.http, "POST", "/tasks", &[&format!("idempotency-key: {key}")], request).await;
        (answer.status, answer.json())
    };
    let (first, again) = (submit("one", &request).await, submit("one", &request).await);
    assert_eq!((first.0, again.0), (201, 200));
    assert_eq!(first.1["taskId"], again.1["taskId"]);
    let other = body(thing, &[device], "savoir_data").to_string();
    assert_eq!(submit("one", &other).await.1["code"], "request_id_conflict");
    let (status, problem) = submit(TOKEN, &request).await;
    assert_eq!((status, &problem["field"]), (400, &json!("Idempotency-Key")), "the token must not be stored");
    app.stop().await;
}

#[tokio::test]
async fn errors_are_problem_details_that_name_the_field() {
    let app = TestApp::start(TestSource::empty().await).await;
    let id = Uuid::new_v4();
    let task = format!("/tasks/{id}");
    for (method, path, body, status, code, field) in [
        ("GET", "/tasks?stat=failed", "", 400, "unknown_field", Some("stat")),
        ("GET", "/tasks?state=done", "", 400, "invalid_field", Some("state")),
        ("GET", "/tasks?limit=0", "", 400, "invalid_field", Some("limit")),
        ("GET", "/tasks?limit=501", "", 400, "invalid_field", Some("limit")),
        ("GET", "/tasks?cursor=x", "", 400, "invalid_field", Some("cursor")),
        ("GET", "/tasks?since=yesterday", "", 400, "invalid_field", Some("since")),
        ("GET", "/tasks/x", "", 400, "invalid_field", Some("taskId")),
        ("GET", &task, "", 404, "unknown_task", None),
        ("GET", &format!("{task}/jobs"), "", 404, "unknown_task", None),
        ("GET", &format!("{task}/events?after=-1"), "", 400, "invalid_field", Some("after")),
        ("POST", &format!("{task}/cancel"), "", 404, "unknown_task", None),
        ("POST", &format!("{task}/retry"), "[]", 400, "invalid_field", Some("devices")),
        ("PATCH", &task, r#"{"rate":0}"#, 400, "invalid_field", Some("rate")),
        ("PATCH", &task, "{}", 400, "invalid_field", Some("rate")),
        ("PATCH", &task, r#"{"rate":5,"x":1}"#, 400, "invalid_field", Some("rate")),
        ("DELETE", &task, "", 405, "method_not_allowed", None),
        ("POST", "/tasks", "{", 400, "not_json", None),
        ("POST", "/tasks", r#"{"src":"iota"}"#, 400, "missing_field", Some("thingId")),
        ("GET", "/nothing", "", 404, "unknown_path", None),
    ] {
        let answer = call(&app.http, method, path, &[], body).await;
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{method} {path}: {answer:?}");
        assert_eq!(problem["field"].as_str(), field, "{method} {path}: {answer:?}");
        assert_eq!(problem["status"], json!(status));
        assert!(answer.head.contains("content-type: application/problem+json"), "{answer:?}");
    }
    let answer = call(&app.http, "POST", "/tasks", &["content-type: text/plain"], "{}").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (415, Some("unsupported_media_type")));
    let large = " ".repeat(1_048_577);
    let answer = call(&app.http, "POST", "/tasks", &[], &large).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (413, Some("body_too_large")));
    let options = call(&app.http, "OPTIONS", "/tasks", &[], "").await;
    assert!(options.status == 204 && options.head.contains("allow: get, head, post, options"), "{options:?}");
    app.stop().await;
}

#[tokio::test]
async fn without_a_valid_token_nothing_is_told() {
    let app = TestApp::start(TestSource::empty().await).await;
    for (header, code) in [
        ("authorization: Bearer wrong", "wrong_token"),
        ("authorization: Basic eDp5", "malformed_token"),
        ("authorization:", "malformed_token"),
    ] {
        let answer = call(&app.http, "GET", "/service", &[header], "").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some(code)), "{answer:?}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
    }
    let service = app.call("GET", "/service", &Value::Null).await.json();
    assert_eq!(service["token"], json!({"name": "default", "role": "operator"}), "{service}");
    app.stop().await;
}

/// Reads a stream of server-sent events: the ids and the data of `count` events.
async fn stream(address: &str, path: &str, headers: &str, count: usize) -> Vec<(u64, Value)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /data-patch/api/v1{path} HTTP/1.1\r\nhost: test\r\naccept: text/event-stream\r\nauthorization: Bearer {TOKEN}\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let (mut events, mut id) = (Vec::new(), 0);
    while events.len() < count {
        let line =
            tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().expect("the stream ended");
        if let Some(text) = line.strip_prefix("id: ") {
            id = text.parse().unwrap();
        } else if let Some(data) = line.strip_prefix("data: ") {
            events.push((id, serde_json::from_str(data).unwrap()));
        }
    }
    events
}

#[tokio::test]
async fn the_log_is_a_stream_that_resumes_after_the_last_event() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let request = body(thing, &[device], &app.topic.name);
    let task = app.call("POST", "/tasks", &request).await.json()["taskId"].as_str().unwrap().to_owned();
    let path = format!("/tasks/{task}/events");
    let live = stream(&app.http, &path, "", 3).await;
    assert_eq!(live.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&live[0].1["event"]["kind"], &live[2].1["state"]), (&json!("counted"), &json!("succeeded")), "{live:?}");
    let rest = stream(&app.http, &path, "last-event-id: 1\r\n", 2).await;
    assert_eq!(rest, live[1..]);
    let ended = call(&app.http, "GET", &path, &["accept: text/event-stream", "last-event-id: 3"], "").await;
    assert_eq!(ended.status, 204, "an EventSource would reconnect for ever: {ended:?}");
    let page = call(&app.http, "GET", &format!("{path}?after=1&limit=1"), &["accept-language: zh-CN"], "").await.json();
    assert_eq!((&page["items"][0]["seq"], &page["next"]), (&json!(2), &json!("2")), "{page}");
    assert!(page["items"][0]["text"].as_str().unwrap().contains("已发布 30 / 30 行"), "{page}");
    app.stop().await;
}

#[tokio::test]
async fn a_connection_serves_more_than_one_request() {
    let app = TestApp::start(TestSource::empty().await).await;
    let mut stream = TcpStream::connect(&app.http).await.unwrap();
    let request = format!("GET /data-patch/api/v1/tasks HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    let mut lines = BufReader::new(&mut stream);
    for _ in 0..3 {
        lines.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).await.unwrap() > 0, "the connection was closed: {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut lines, &mut vec![0; length]).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
    app.stop().await;
}

#[tokio::test]
async fn quarantined_rows_are_listed_in_parts_and_as_csv() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(0).await;
    let row = |id| Reading { id, device, time_ms: 1_547_211_780_000 + id, doc: Some("{}".to_owned()) };
    app.source.add(&[1, 2, 3, 4, 5].map(row)).await;
    let request = body(thing, &[device], &app.topic.name);
    let task = app.call("POST", "/tasks", &request).await.json()["taskId"].as_str().unwrap().to_owned();
    let view = until_finished(&app, &task).await;
    assert_eq!(view["rows"]["quarantined"], json!(5), "{view}");
    let (mut keys, mut path) = (Vec::new(), format!("/tasks/{task}/quarantine?limit=2"));
    loop {
        let page = app.call("GET", &path, &Value::Null).await.json();
        for row in page["items"].as_array().unwrap() {
            assert!(row["time"].as_str().unwrap().ends_with('Z'), "{row}");
            keys.push(row["key"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/tasks/{task}/quarantine?limit=2&cursor={next}");
    }
    assert_eq!(keys.len(), 5, "{keys:?}");
    let csv = call(&app.http, "GET", &format!("/tasks/{task}/quarantine"), &["accept: text/csv"], "").await;
    assert!(csv.head.contains("text/csv") && csv.body.starts_with("deviceId,time,key,reason\r\n"), "{csv:?}");
    assert_eq!(csv.body.lines().count(), 6);
    app.stop().await;
}
