//! An outage of one topic does not delay others; an unknown error is retried a few times, and then
//! fails the device with its text.

use std::sync::Arc;

use data_patch::sink::kafka::EmbeddedBroker;

use crate::support::{Client, TestApp, TestBroker, TestSource, message};

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_topic_slows_no_other() {
    // Only the embedded broker can lose the leaders of its partitions.
    let broker = Arc::new(EmbeddedBroker::start_beside_a_dead_one().await.unwrap());
    let shared = TestBroker::Embedded(Arc::clone(&broker));
    let (sick, healthy) = (shared.topic().await, shared.topic().await);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let app = TestApp::start_on(folder, TestSource::empty().await, healthy, |overrides| {
        // Fewer slots, and fewer bytes in flight, than the devices of the unavailable topic could
        // use.
        overrides.set(&["worker", "concurrency"], 4).set(&["kafka", "in_flight_bytes"], 1 << 20);
    })
    .await;
    for partition in 0..3 {
        broker.set_leader(&sick.name, partition, false).await.unwrap();
    }
    let (thing, first) = app.source.add_rows(300).await;
    let mut devices = vec![first];
    for n in 1..20 {
        devices.push(app.source.add_device_with_rows(thing, n * 300, 300).await);
    }
    let mut client = app.client().await;
    let waiting = client.submit(&Client::request(thing, &devices, &sick.name)).await;
    // All slots have a device of the unavailable topic that waits for acknowledgements.
    client.until(|line| message(line).contains("rows to publish")).await;
    let mut other = app.client().await;
    other.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    let log = other.log().await;
    assert!(message(log.last().unwrap()).contains("20 of 20 devices, 6000 rows published"), "{log:#?}");
    assert!(!log.iter().any(|line| message(line).contains("waits")), "an outage of another topic: {log:#?}");

    for partition in 0..3 {
        broker.set_leader(&sick.name, partition, true).await.unwrap();
    }
    let log = client.log().await;
    assert!(message(log.last().unwrap()).contains("20 of 20 devices, 6000 rows published"), "{log:#?}");
    let arrived = sick.read().await;
    assert_eq!(arrived.iter().filter(|found| found.task == waiting).count(), 6_000, "each row once");
    app.stop().await;
}

#[tokio::test]
async fn an_unknown_error_fails_after_some_retries_with_its_text() {
    let source = TestSource::empty().await;
    if !source.is_postgres() {
        println!("NOT RUN: only PostgreSQL has errors of one's own");
        return;
    }
    source
        .execute(
            r#"CREATE FUNCTION odd(id bigint) RETURNS jsonb LANGUAGE plpgsql AS
               $$ BEGIN RAISE EXCEPTION 'nobody has seen this before' USING ERRCODE = 'ZZ042'; END $$;
               ALTER TABLE raw_data RENAME TO raw;
               CREATE VIEW raw_data AS SELECT id, "deviceId", "triggerTime", odd(id) AS doc FROM raw;"#,
        )
        .await;
    let device = uuid::Uuid::new_v4();
    let thing = uuid::Uuid::new_v4();
    source.add_device(thing, device, "a").await;
    source.execute(&format!("INSERT INTO raw VALUES (1, '{device}', '2019-01-12T00:00:00Z', '{{}}')")).await;
    let app = TestApp::start_with(source, |overrides| {
        overrides.set(&["iota", "assume_unique_row_key"], true).set(&["worker", "retry_initial_ms"], 1);
    })
    .await;
    let (_, log) = app.publish(thing, &[device]).await;
    let failed = log.iter().find(|line| line["res"] == "error").unwrap();
    assert!(message(failed).contains("nobody has seen this before") && message(failed).contains("ZZ042"), "{failed}");
    assert!(message(failed).contains("tried 10 times in a row"), "{failed}");
    assert_eq!(log.iter().filter(|line| message(line).contains("waits, nothing is lost")).count(), 9, "{log:#?}");
    app.stop().await;
}
