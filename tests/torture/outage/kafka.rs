//! Kafka away: stopped, killed, frozen.

use std::time::Instant;

use super::{
    OUTAGE_DURATION, Scenario,
    services::{self, Outage},
};

async fn kafka_is_away(what: &str, way: &'static str) {
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    let begun = Instant::now();
    let outage = Outage::start(way, "kafka").await;
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(scenario.has_logged(&["waits, nothing is lost", "rows safe", "Kafka"]), "{:#?}", scenario.log);
    outage.end().await;
    let gone = begun.elapsed();
    let note = format!("away {:.0} s, {cpu:.2} cores used meanwhile", gone.as_secs_f64());
    scenario.finish().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_stopped_and_started() {
    kafka_is_away("outage: Kafka stopped and started", "stop").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_killed_and_started() {
    kafka_is_away("outage: Kafka killed and started", "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_frozen_and_thawed() {
    kafka_is_away("outage: Kafka frozen and thawed", "freeze").await;
}
