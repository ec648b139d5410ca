//! Settings of the topic: compaction, and the accepted timestamps.

use chrono::{TimeDelta, Utc};
use serde_json::Value;

use crate::support::{Client, Reading, TestApp, TestBroker, TestSource, TestTopic, doc, message};

async fn app(topic: TestTopic, settings: &[(&str, toml::Value)]) -> TestApp {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    TestApp::start_on(folder, TestSource::empty().await, topic, |overrides| {
        for (key, value) in settings {
            overrides.set(&["kafka", key], value.clone());
        }
    })
    .await
}

/// Submits three rows of a device; returns the log until a line matches.
async fn publish(app: &TestApp, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
    let (thing, device) = app.source.add_rows(3).await;
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    client.until(matches).await
}

#[tokio::test]
async fn a_compacted_topic_is_refused_unless_it_is_allowed() {
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        // The embedded broker has no settings.
        return;
    }
    for policy in ["compact", "compact,delete"] {
        let rejecting = app(broker.topic_with(&[("cleanup.policy", policy)]).await, &[]).await;
        let log = publish(&rejecting, crate::support::is_end).await;
        let last = log.last().unwrap();
        assert_eq!(last["payload"]["state"], "failed");
        assert!(message(last).contains("is compacted (cleanup.policy)") && message(last).contains("allow_compacted"), "{last}");
        assert!(rejecting.topic.read().await.is_empty());

        let allowing = app(rejecting.topic.clone(), &[("allow_compacted", true.into())]).await;
        let log = publish(&allowing, crate::support::is_end).await;
        assert!(message(log.last().unwrap()).contains("3 rows published"), "{log:#?}");
        rejecting.stop().await;
        allowing.stop().await;
    }
}

#[tokio::test]
async fn a_message_has_the_current_time_or_the_readings() {
    let now = app(TestBroker::start().await.topic().await, &[]).await;
    let before = Utc::now().timestamp_millis();
    publish(&now, crate::support::is_end).await;
    assert!(now.topic.read().await.iter().all(|found| found.timestamp_ms >= before));

    let reading = app(TestBroker::start().await.topic().await, &[("timestamp", "reading".into())]).await;
    publish(&reading, crate::support::is_end).await;
    let times: Vec<i64> = reading.topic.read().await.iter().map(|found| found.timestamp_ms).collect();
    assert_eq!(times, [0, 1_000, 2_000].map(|ms| 1_547_211_780_000 + ms));
    now.stop().await;
    reading.stop().await;
}

// If the clock is ahead of the broker's, every row is rejected although it is valid.
#[tokio::test]
async fn timestamps_that_the_broker_refuses_are_an_outage_that_says_why() {
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        // The embedded broker accepts any timestamp.
        return;
    }
    let app = app(broker.topic().await, &[("timestamp", "reading".into())]).await;
    let (thing, device) = app.source.add_rows(3).await;
    let ahead = (Utc::now() + TimeDelta::days(10)).timestamp_millis();
    app.source.add(&[Reading { id: 9_000, device, time_ms: ahead, doc: Some(doc(device, 9)) }]).await;
    let mut client = app.client().await;
    let mut request = Client::request(thing, &[device], &app.topic.name);
    request["to"] = "2099-01-15T14:30:00.000+0800".into();
    client.submit(&request).await;
    for _ in 0..2 {
        let log = client.until(|line| message(line).contains("waits, nothing is lost")).await;
        let line = log.last().unwrap();
        assert_eq!(line["res"], "ok", "{line}");
        let text = message(line);
        // The number depends on the batches: each is rejected as a whole.
        assert!(text.contains("safe)") && text.contains("message.timestamp.after.max.ms is 3600 s"), "{text}");
        assert!(text.contains(&format!("refuses the timestamps of topic {}", app.topic.name)), "{text}");
    }
    app.stop().await;
}
