//! Kafka away: stopped, killed, frozen.

use std::time::Instant;

use super::{
    AWAY, Scene,
    parts::{self, Away},
};

async fn kafka_is_away(what: &str, way: &'static str) {
    if !parts::are_ours(what) {
        return;
    }
    let mut scene = Scene::start(tempfile::tempdir().unwrap()).await;
    let begun = Instant::now();
    let away = Away::take(way, "kafka").await;
    let cpu = scene.measure(AWAY).await;
    assert!(scene.has_said(&["waits, nothing is lost", "rows safe", "Kafka"]), "{:#?}", scene.log);
    away.give_back().await;
    let gone = begun.elapsed();
    let note = format!("away {:.0} s, {cpu:.2} cores used meanwhile", gone.as_secs_f64());
    scene.ends_whole().await.write(what, 1, &note);
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
