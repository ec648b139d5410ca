//! Traces of tasks, as an OTLP receiver gets them over HTTP.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::support::{Client, TestApp, TestSource, eventually, is_end, message};

/// A span, and the instance that it comes from.
type Received = (String, Span);

/// An OTLP receiver: keeps what it is sent.
#[derive(Clone, Default)]
struct Receiver {
    spans: Arc<Mutex<Vec<Received>>>,
    heads: Arc<Mutex<Vec<String>>>,
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let receiver = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let receiver = receiver.clone();
                tokio::spawn(async move { receiver.serve(stream).await });
            }
        });
        endpoint
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let line = line.trim_end().to_lowercase();
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
                head += &(line + "\n");
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            self.heads.lock().unwrap().push(head);
            let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
            for group in request.resource_spans {
                let resource = group.resource.unwrap().attributes;
                assert_eq!(attribute(&resource, "service.name").as_deref(), Some("patch-of-the-test"));
                let instance = attribute(&resource, "service.instance.id").unwrap();
                let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
                self.spans.lock().unwrap().extend(spans.map(|span| (instance.clone(), span)));
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    }

    /// The spans of a task, once its root is there.
    async fn trace(&self, task: &str) -> Vec<Received> {
        let id = task.parse::<Uuid>().unwrap().into_bytes().to_vec();
        let trace = || self.spans.lock().unwrap().iter().filter(|(_, span)| span.trace_id == id).cloned().collect::<Vec<_>>();
        eventually("the root span has not arrived", async || trace().iter().any(|(_, span)| span.parent_span_id.is_empty()))
            .await;
        trace()
    }
}

async fn app(endpoint: &str) -> TestApp {
    TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides
            .set(&["telemetry", "endpoint"], endpoint)
            .set(&["telemetry", "headers"], "authorization=Bearer s3cret, x-tenant=bridge")
            .set(&["telemetry", "service_name"], "patch-of-the-test");
    })
    .await
}

fn named<'a>(trace: &'a [Received], name: &str) -> Vec<&'a Span> {
    trace.iter().map(|(_, span)| span).filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_task_is_a_trace_with_its_submission_and_its_attempts() {
    let receiver = Receiver::default();
    let app = app(&receiver.start().await).await;
    let (thing, device) = app.source.add_rows(500).await;
    let missing = Uuid::new_v4();
    let (task, _) = app.publish(thing, &[device, missing]).await;
    let trace = receiver.trace(&task).await;
    let [root] = named(&trace, "task")[..] else { panic!("{trace:#?}") };
    assert_eq!((root.span_id.len(), root.trace_id.as_slice()), (8, &task.parse::<Uuid>().unwrap().into_bytes()[..]));
    let of_root = |name| attribute(&root.attributes, name);
    assert_eq!(of_root("data_patch.thing"), Some(thing.to_string()));
    assert_eq!(of_root("messaging.destination.name"), Some(app.topic.name.clone()));
    assert_eq!(
        (of_root("data_patch.state").as_deref(), of_root("data_patch.published").as_deref()),
        (Some("failed"), Some("500"))
    );
    assert_eq!(root.status.as_ref().unwrap().code(), StatusCode::Error);
    assert!(root.start_time_unix_nano < root.end_time_unix_nano);

    let [submit] = named(&trace, "submit")[..] else { panic!("{trace:#?}") };
    assert_eq!(
        (&submit.parent_span_id, attribute(&submit.attributes, "data_patch.token").as_deref()),
        (&root.span_id, Some("default"))
    );
    let jobs = named(&trace, "job");
    assert_eq!(jobs.len(), 2, "{trace:#?}");
    for job in jobs {
        assert_eq!(job.parent_span_id, root.span_id);
        let published = attribute(&job.attributes, "data_patch.device") == Some(device.to_string());
        let expected = if published { ("succeeded", "500") } else { ("failed", "0") };
        let of_job = |name| attribute(&job.attributes, name).unwrap();
        assert_eq!((of_job("data_patch.outcome").as_str(), of_job("data_patch.published").as_str()), expected);
        assert_eq!(job.status.is_some(), !published);
        if published {
            let rows: u64 = job
                .events
                .iter()
                .filter(|event| event.name == "rows read")
                .map(|event| attribute(&event.attributes, "rows").unwrap().parse::<u64>().unwrap())
                .sum();
            assert_eq!(rows, 500, "{job:#?}");
            assert!(job.events.iter().any(|event| event.name == "counted"), "{job:#?}");
        }
    }
    let head = receiver.heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("post /v1/traces ") && head.contains("authorization: bearer s3cret\n"), "{head}");
    assert!(head.contains("x-tenant: bridge\n") && head.contains("content-type: application/x-protobuf\n"), "{head}");
    let (_, metrics) = app.get("/metrics").await;
    assert!(metrics.contains("data_patch_trace_spans_exported_total 4\n"), "{metrics}");
    app.stop().await;
}

/// The second service knows of the first one's spans nothing but the task's id.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_one_trace_over_a_restart() {
    let receiver = Receiver::default();
    let endpoint = receiver.start().await;
    let first = app(&endpoint).await;
    let (thing, device) = first.source.add_rows(30).await;
    let mut client = first.client().await;
    let mut request = Client::request(thing, &[device], &first.topic.name);
    request["rate"] = json!(1);
    let task = client.submit(&request).await;
    client.until(|line| message(line).starts_with("iota data published(")).await;
    let (folder, source, topic) = (first.folder.clone(), first.source.clone(), first.topic.clone());
    first.stop().await;
    let second = TestApp::start_on(folder, source, topic, |overrides| {
        overrides.set(&["telemetry", "endpoint"], endpoint).set(&["telemetry", "service_name"], "patch-of-the-test");
    })
    .await;
    let lifted = second.call("PATCH", &format!("/tasks/{task}"), &json!({"rate": null})).await;
    assert_eq!(lifted.status, 200, "{lifted:?}");
    let mut client = second.client().await;
    client.attach(&task, 0).await;
    client.until(is_end).await;
    let trace = receiver.trace(&task).await;
    let mut attempts: Vec<_> = trace
        .iter()
        .filter(|(_, span)| span.name == "job")
        .map(|(instance, span)| {
            let of_job = |name| attribute(&span.attributes, name).unwrap();
            (of_job("data_patch.attempt"), of_job("data_patch.outcome"), instance.clone())
        })
        .collect();
    attempts.sort();
    // A stop may give a job back more than once: it is claimed again until the pool has heard of it.
    let Some(((_, succeeded, last), before)) = attempts.split_last() else { panic!("{attempts:?}") };
    assert!(succeeded == "succeeded" && !before.is_empty(), "{attempts:?}");
    assert!(before.iter().all(|(_, outcome, instance)| outcome == "released" && instance != last), "{attempts:?}");
    let [root] = named(&trace, "task")[..] else { panic!("{trace:#?}") };
    assert!(trace.iter().all(|(_, span)| span.name == "task" || span.parent_span_id == root.span_id), "{trace:#?}");
    assert!(
        trace
            .iter()
            .all(|(_, span)| span.name == "task" || span.start_time_unix_nano >= root.start_time_unix_nano - 1_000_000_000)
    );
    second.stop().await;
}

/// One that takes the connection and never answers, and one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_holds_up_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (endpoint, counts) in
        [(format!("http://{}", silent.local_addr().unwrap()), false), ("http://127.0.0.1:1".to_owned(), true)]
    {
        let app = app(&endpoint).await;
        let (thing, device) = app.source.add_rows(500).await;
        let (_, log) = app.publish(thing, &[device]).await;
        assert!(message(log.last().unwrap()).contains("500 rows published"), "{log:#?}");
        if counts {
            let dropped = async || app.get("/metrics").await.1.contains("data_patch_trace_spans_dropped_total 3\n");
            eventually("the spans are not counted", dropped).await;
        }
        let start = Instant::now();
        app.stop().await;
        assert!(start.elapsed() < Duration::from_secs(10), "the shutdown takes {:?}", start.elapsed());
    }
}
