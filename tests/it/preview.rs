//! A preview says what a submit would publish, publishes nothing, and disturbs nobody.

use data_patch::{
    protocol::http::{BucketUnit, DevicePreview, PreviewLine, PreviewRequest, PreviewSummary},
    source::sample,
};
use data_patch_client::HttpClient;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Reading, TIMEOUT, TOKEN, TestApp, TestSource, doc};

fn request(thing: Uuid, devices: &[Uuid], from: &str, to: &str) -> PreviewRequest {
    PreviewRequest {
        src: "iota".to_owned(),
        thing_id: thing,
        devices: devices.to_vec(),
        from: from.to_owned(),
        to: to.to_owned(),
        topic: None,
        request_id: None,
        reason: None,
        rate: None,
    }
}

fn client(app: &TestApp) -> HttpClient {
    HttpClient::new(&format!("http://{}", app.http), TOKEN).unwrap()
}

/// The lines of a preview.
async fn preview(app: &TestApp, request: &PreviewRequest) -> (Vec<DevicePreview>, PreviewSummary) {
    let reading = async {
        let mut lines = client(app).preview(request).await.unwrap();
        let mut devices = Vec::new();
        loop {
            match lines.next().await.unwrap().expect("the summary is missing") {
                PreviewLine::Device(device) => devices.push(device),
                PreviewLine::Summary(summary) => {
                    assert!(lines.next().await.unwrap().is_none(), "something follows the summary");
                    return (devices, summary);
                }
            }
        }
    };
    // One of thousands of devices takes a while beside other tests.
    tokio::time::timeout(4 * TIMEOUT, reading).await.unwrap()
}

/// At a hundred rows a second.
fn seconds(rows: u64) -> f64 {
    f64::from(u32::try_from(rows).unwrap()) / 100.0
}

#[tokio::test]
async fn the_contracts_request_is_previewed_exactly() {
    let app = TestApp::start(TestSource::sample().await).await;
    let bridge = sample::BRIDGE;
    let unknown = Uuid::new_v4();
    let devices = [bridge.devices, &[unknown, sample::DAM.devices[0]]].concat();
    let asked = PreviewRequest { rate: Some(100), ..request(bridge.thing_id, &devices, bridge.from, bridge.to) };
    let (previews, summary) = preview(&app, &asked).await;
    assert_eq!(previews.iter().map(|preview| preview.device_id).collect::<Vec<_>>(), devices, "in the order of the request");

    let time = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let (from, to) = (time(bridge.from), time(bridge.to));
    for preview in previews.iter().take(bridge.devices.len()) {
        let times: Vec<_> = sample::readings()
            .filter(|reading| reading.device_id == preview.device_id && reading.time >= from && reading.time <= to)
            .map(|reading| reading.time)
            .collect();
        let found = (preview.rows, preview.is_estimate, preview.first, preview.last, preview.problem.as_deref());
        assert_eq!(found, (times.len() as u64, false, times.first().copied(), times.last().copied(), None), "{preview:?}");
        // Half an hour each.
        for bucket in &preview.buckets {
            let end = bucket.start + chrono::TimeDelta::minutes(30);
            let expected = times.iter().filter(|time| (bucket.start..end).contains(time)).count();
            assert_eq!(bucket.rows, expected as u64, "{bucket:?}");
        }
        assert_eq!(preview.buckets.iter().map(|bucket| bucket.rows).sum::<u64>(), preview.rows);
        assert!(preview.sampled >= 16 && preview.sample_quarantined == 0 && preview.bytes > preview.rows * 100, "{preview:?}");
        assert_eq!(preview.estimated_seconds, Some(seconds(preview.rows)));
    }
    let level = previews.iter().find(|preview| preview.device_id == sample::LEVEL_06).unwrap();
    assert_eq!((level.rows, level.name.as_deref()), (178, Some("静力水准仪06")));
    for preview in &previews[bridge.devices.len()..] {
        assert!(preview.rows == 0 && preview.problem.as_deref().unwrap().contains("no such device on thing"), "{preview:?}");
    }
    let rows = previews.iter().map(|preview| preview.rows).sum::<u64>();
    assert_eq!((summary.devices, summary.problem_devices, summary.rows, summary.is_estimate), (9, 2, rows, false));
    assert_eq!((summary.bucket_unit, summary.bucket_units), (BucketUnit::Minute, 30));
    assert_eq!(summary.estimated_seconds, Some(seconds(rows)));
    assert!(summary.overlaps.is_empty(), "{summary:?}");
    let tasks = app.call("GET", "/tasks", &Value::Null).await.json();
    assert_eq!(tasks["items"], json!([]), "a preview creates no task");
    app.stop().await;
}

#[tokio::test]
async fn rows_that_would_be_quarantined_and_tasks_that_overlap_are_said() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(40).await;
    let bad: Vec<_> = (0..40)
        .map(|n| Reading {
            id: 1_000 + n,
            device,
            time_ms: 1_547_211_780_500 + n * 1_000,
            doc: Some(format!(r#"{{"data": {n}}}"#)),
        })
        .collect();
    source.add(&bad).await;
    let other = source.add_device_with_rows(thing, 5_000, 3).await;
    let app = TestApp::start(source).await;
    let (task, _) = app.publish(thing, &[device]).await;
    let asked = PreviewRequest {
        topic: Some(app.topic.name.clone()),
        ..request(thing, &[other, device], "2019-01-11T13:03:00Z", "2019-01-11T13:04:00Z")
    };
    let (previews, summary) = preview(&app, &asked).await;
    let (first, second) = (&previews[0], &previews[1]);
    assert_eq!((first.rows, first.sampled, first.sample_quarantined), (3, 3, 0), "{first:?}");
    assert_eq!(second.rows, 80);
    assert!(second.sampled == 64 && (20..=40).contains(&second.sample_quarantined), "{second:?}");
    assert_eq!(summary.sample_quarantined, second.sample_quarantined);
    let [overlap] = summary.overlaps.as_slice() else { panic!("{summary:?}") };
    assert_eq!((overlap.task_id.to_string(), overlap.device_count, overlap.devices.as_slice()), (task, 1, &[device][..]));

    // Another range, or another topic, overlaps nothing.
    let later =
        PreviewRequest { from: "2018-01-01T00:00:00Z".to_owned(), to: "2018-01-02T00:00:00Z".to_owned(), ..asked.clone() };
    let (previews, summary) = preview(&app, &later).await;
    assert!(summary.overlaps.is_empty() && summary.rows == 0, "{summary:?}");
    assert!(previews.iter().all(|preview| preview.buckets.is_empty() && preview.problem.is_none() && preview.first.is_none()));
    let (_, summary) = preview(&app, &PreviewRequest { topic: None, ..asked }).await;
    assert!(summary.overlaps.is_empty(), "{summary:?}");
    app.stop().await;
}

#[tokio::test]
async fn requests_are_checked_as_a_submit_is() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(1).await;
    let app = TestApp::start(source).await;
    let good = json!({"src": "iota", "thingId": thing, "devices": [device], "from": "2019-01-11", "to": "2019-01-12T00:00:00Z"});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for body in [
        with("src", json!("x")),
        with("devices", json!([])),
        with("from", json!("2019-02-30T00:00:00Z")),
        with("to", json!("2018-01-01T00:00:00Z")),
        with("topic", json!("no topic")),
        with("rate", json!(0)),
        with("topics", json!("x")),
        with("reason", json!("x".repeat(501))),
        json!([]),
        json!("x"),
    ] {
        let (previewed, submitted) = (app.call("POST", "/previews", &body).await, app.call("POST", "/tasks", &body).await);
        assert_eq!(previewed.status, 400, "{body}: {previewed:?}");
        assert_eq!(previewed.body, submitted.body, "{body}");
    }
    let answer = crate::support::call(&app.http, "POST", "/previews", &["authorization: Bearer x"], &good.to_string()).await;
    assert_eq!(answer.status, 401);
    let answer = app.call("GET", "/previews", &Value::Null).await;
    assert!(answer.status == 405 && answer.head.contains("allow: post, options"), "{answer:?}");
    app.stop().await;
}

#[tokio::test]
async fn the_answer_is_json_lines_that_are_not_cached() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(5).await;
    let app = TestApp::start(source).await;
    let asked = serde_json::to_value(request(thing, &[device], "2019-01-11 00:00:00", "2019-01-12 00:00:00")).unwrap();
    let answer = app.call("POST", "/previews", &asked).await;
    assert_eq!(answer.status, 200);
    for header in ["content-type: application/x-ndjson", "cache-control: no-store", "transfer-encoding: chunked"] {
        assert!(answer.head.contains(header), "{header}: {answer:?}");
    }
    assert!(answer.body.contains(r#""kind":"device""#) && answer.body.contains(r#""kind":"summary""#), "{answer:?}");
    app.stop().await;
}

/// Ten thousand devices, most with a row a minute of an hour.
async fn ten_thousand_devices(source: &TestSource) -> (Uuid, Vec<Uuid>) {
    let thing = Uuid::new_v4();
    let devices: Vec<_> = (0..10_000).map(|_| Uuid::new_v4()).collect();
    let rows: Vec<_> = (0..20_000_i64)
        .map(|n| {
            let device = devices[usize::try_from(n).unwrap() % devices.len()];
            Reading { id: n, device, time_ms: 1_547_211_780_000 + n * 100, doc: Some(doc(device, n)) }
        })
        .collect();
    for devices in devices.chunks(500) {
        let values: Vec<_> = devices.iter().map(|device| format!("('{device}', '应变计', '{thing}')")).collect();
        source.execute(&format!("INSERT INTO \"Device\" (id, name, \"thingId\") VALUES {}", values.join(","))).await;
    }
    source.add(&rows).await;
    (thing, devices)
}

#[tokio::test]
async fn ten_thousand_devices_are_previewed() {
    let source = TestSource::empty().await;
    let (thing, devices) = ten_thousand_devices(&source).await;
    let app = TestApp::start(source).await;
    let asked = request(thing, &devices, "2019-01-11T13:00:00Z", "2019-01-11T14:00:00Z");
    // A client may leave after the first line.
    let mut lines = client(&app).preview(&asked).await.unwrap();
    let first = lines.next().await.unwrap().unwrap();
    assert!(matches!(first, PreviewLine::Device(device) if device.rows == 2 && device.sampled == 2));
    drop(lines);
    let (previews, summary) = preview(&app, &asked).await;
    assert_eq!((previews.len(), summary.devices, summary.rows, summary.problem_devices), (10_000, 10_000, 20_000, 0));
    assert!(previews.iter().zip(&devices).all(|(preview, device)| preview.device_id == *device && preview.rows == 2));
    app.stop().await;
}

#[tokio::test]
async fn a_device_with_many_rows_is_counted_by_itself() {
    let source = TestSource::empty().await;
    let (thing, large) = source.add_rows(50_000).await;
    let small = source.add_device_with_rows(thing, 100_000, 10).await;
    let app = TestApp::start(source).await;
    let (previews, summary) =
        preview(&app, &request(thing, &[large, small], "2019-01-11T00:00:00Z", "2019-01-14T00:00:00Z")).await;
    assert_eq!((previews[0].rows, previews[0].is_estimate, previews[1].rows), (50_000, false, 10), "{summary:?}");
    assert_eq!(previews[0].buckets.iter().map(|bucket| bucket.rows).sum::<u64>(), 50_000);
    app.stop().await;
}

#[tokio::test]
async fn a_source_that_is_away_is_an_error_of_the_request() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(3).await;
    let app = TestApp::start_with(source, |overrides| {
        overrides.set(&["iota", "timeout_seconds"], 1);
    })
    .await;
    let asked = serde_json::to_value(request(thing, &[device], "2019-01-11 00:00:00", "2019-01-12 00:00:00")).unwrap();
    let lock = app.source.lock().await;
    let answer = app.call("POST", "/previews", &asked).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("source_unavailable")), "{answer:?}");
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    lock.release().await;
    assert_eq!(app.call("POST", "/previews", &asked).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn names_are_not_executed_and_extreme_ranges_are_counted() {
    let source = TestSource::empty().await;
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    source.add_device(thing, device, "''); DROP TABLE raw_data; --").await;
    let app = TestApp::start(source).await;
    let (previews, summary) =
        preview(&app, &request(thing, &[device, device], "2019-01-11 00:00:00", "2019-01-12 00:00:00")).await;
    assert_eq!((previews.len(), summary.devices, summary.rows), (1, 1, 0), "a device that is named twice is one");
    assert_eq!(previews[0].name.as_deref(), Some("'); DROP TABLE raw_data; --"));
    // The widest range that a request can name.
    let (_, summary) = preview(&app, &request(thing, &[device], "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")).await;
    assert_eq!((summary.bucket_unit, summary.problem_devices), (BucketUnit::Day, 0), "{summary:?}");
    app.stop().await;
}

#[tokio::test]
async fn more_previews_than_may_run_are_told_so() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(3).await;
    let app = TestApp::start(source).await;
    let asked = serde_json::to_value(request(thing, &[device], "2019-01-11 00:00:00", "2019-01-12 00:00:00")).unwrap();
    // The source knows its tables by now.
    assert_eq!(app.call("POST", "/previews", &asked).await.status, 200);
    let lock = app.source.lock().await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (address, asked) = (app.http.clone(), asked.to_string());
        calls.spawn(async move { crate::support::call(&address, "POST", "/previews", &[], &asked).await });
    }
    let refused = loop {
        let answer = calls.join_next().await.expect("none was refused").unwrap();
        assert!([429, 503].contains(&answer.status), "{answer:?}");
        if answer.status == 429 {
            break answer;
        }
    };
    assert!(refused.json()["code"] == "busy" && refused.head.contains("retry-after:"), "{refused:?}");
    lock.release().await;
    while let Some(answer) = calls.join_next().await {
        assert!([200, 429, 503].contains(&answer.unwrap().status));
    }
    assert_eq!(app.call("POST", "/previews", &asked).await.status, 200, "there is room again");
    app.stop().await;
}
