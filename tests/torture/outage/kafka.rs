//! Outages of Kafka: stopped, killed, frozen.

use std::time::Instant;

use super::{
    OUTAGE_DURATION, Scenario,
    services::{self, Outage},
};

async fn outage_of_kafka(what: &str, command: &'static str) {
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    let started = Instant::now();
    let outage = Outage::start(command, "kafka").await;
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(scenario.has_logged(&["waits, nothing is lost", "rows safe", "Kafka"]), "{:#?}", scenario.log);
    outage.end().await;
    let duration = started.elapsed();
    let note = format!("outage of {:.0} s, {cpu:.2} cores used meanwhile", duration.as_secs_f64());
    scenario.finish().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_stopped_and_started() {
    outage_of_kafka("outage: Kafka stopped and started", "stop").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_killed_and_started() {
    outage_of_kafka("outage: Kafka killed and started", "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_frozen_and_thawed() {
    outage_of_kafka("outage: Kafka frozen and thawed", "freeze").await;
}
