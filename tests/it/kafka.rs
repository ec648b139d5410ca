//! The broker: unknown topics, rejected messages, outages.

mod limits;
mod stalled;
mod topics;

use serde_json::json;

use crate::support::{Client, Reading, TestApp, TestBroker, TestSource, message};

#[tokio::test]
async fn an_unknown_topic_is_reported_and_not_created() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let unknown = format!("unknown-{}", uuid::Uuid::new_v4());
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &unknown)).await;
    let log = client.log().await;
    assert_eq!(log[0]["res"], "error");
    assert!(message(&log[0]).contains(&format!("topic {unknown} does not exist")), "{log:#?}");
    assert_eq!(log.last().unwrap()["payload"]["state"], "failed");
    assert!(!app.topic.broker.topics().await.contains(&unknown), "it was made by asking for it");
    app.stop().await;
}

#[tokio::test]
async fn a_topic_that_is_created_a_moment_later_is_found() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let name = format!("late-{}", uuid::Uuid::new_v4());
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &name)).await;
    let topic = app.topic.broker.create(&name, &[]).await;
    let log = client.log().await;
    assert!(message(log.last().unwrap()).contains("3 rows published"), "{log:#?}");
    assert_eq!(topic.read().await.len(), 3);
    app.stop().await;
}

#[tokio::test]
async fn a_message_too_large_for_the_topic_is_quarantined_in_order() {
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        // The embedded broker has no size limit.
        return;
    }
    let topic = broker.topic_with(&[("max.message.bytes", "20000")]).await;
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let app = TestApp::start_on(folder, TestSource::empty().await, topic, |overrides| {
        overrides.set(&["kafka", "properties"], toml::Table::from_iter([("compression.type".to_owned(), "none".into())]));
    })
    .await;
    // Much more in total than the topic's maximum batch.
    let (thing, device) = app.source.add_rows(2_000).await;
    let large = format!(r#"{{"x": "{}", "deviceId": "{device}", "triggerTime": ""}}"#, "x".repeat(30_000));
    app.source.add(&[Reading { id: 9_000, device, time_ms: 1_547_211_780_500, doc: Some(large.clone()) }]).await;
    let (_, log) = app.publish(thing, &[device]).await;
    assert!(message(log.last().unwrap()).contains("2000 rows published, 1 quarantined"), "{log:#?}");
    assert!(
        log.iter().any(|line| message(line).contains("key 9000") && message(line).contains("too large for the topic")),
        "{log:#?}"
    );
    let mut expected = app.source.docs(device).await;
    expected.retain(|doc| doc.len() < 20_000);
    assert_eq!(app.topic.read().await.into_iter().map(|found| found.value).collect::<Vec<_>>(), expected);
    app.stop().await;
}

#[tokio::test]
async fn jobs_wait_for_an_unavailable_broker() {
    // A free port, on which nothing listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["kafka", "brokers"], format!("127.0.0.1:{port}")).set(&["kafka", "lookup_timeout_seconds"], 1);
    })
    .await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    for _ in 0..2 {
        let waits = client.next().await;
        assert_eq!(waits["res"], json!("ok"), "an outage is no failure");
        assert!(message(&waits).contains("waits, nothing is lost (0 rows safe): Kafka is unavailable"), "{waits}");
    }
    assert_eq!(app.get("/readyz").await.0, 503);
    app.stop().await;
}
