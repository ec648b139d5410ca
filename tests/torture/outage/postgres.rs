//! PostgreSQL away or unwell: stopped, its connections ended again and again, slow, silent.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, Row};

use super::{
    AWAY, Patch, Scene,
    parts::{self, Away},
    proxy::{Network, Proxy},
    scene::waits,
};
use crate::support::{Bouncer, TestBroker, message, real};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_is_stopped_and_started() {
    let what = "outage: PostgreSQL stopped and started";
    if !parts::are_ours(what) {
        return;
    }
    let mut scene = Scene::start(tempfile::tempdir().unwrap()).await;
    let begun = Instant::now();
    let away = Away::take("stop", "postgres").await;
    let cpu = scene.measure(AWAY).await;
    assert!(scene.has_said(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scene.log);
    away.give_back().await;
    let note = format!("away {:.0} s, {cpu:.2} cores used meanwhile", begun.elapsed().as_secs_f64());
    scene.ends_whole().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_is_stopped_and_started_behind_pgbouncer() {
    let what = "outage: PostgreSQL stopped and started behind PgBouncer (transaction mode, two sessions)";
    if !parts::are_ours(what) {
        return;
    }
    let bouncer = Bouncer::start("transaction", 2).await.unwrap();
    let mut patch = Patch::on(&TestBroker::start().await).await;
    patch.url = Some(patch.store.through(&bouncer.address));
    let mut scene = Scene::play(tempfile::tempdir().unwrap(), patch).await;
    let begun = Instant::now();
    let away = Away::take("stop", "postgres").await;
    let cpu = scene.measure(AWAY).await;
    assert!(scene.has_said(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scene.log);
    away.give_back().await;
    let note = format!("away {:.0} s, {cpu:.2} cores used meanwhile", begun.elapsed().as_secs_f64());
    scene.ends_whole().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn connections_of_postgres_are_ended_again_and_again() {
    let what = "outage: PostgreSQL ends the service's connections again and again";
    if !parts::are_ours(what) {
        return;
    }
    let mut scene = Scene::start(tempfile::tempdir().unwrap()).await;
    let mut superuser = PgConnection::connect(&real("POSTGRES").unwrap()).await.unwrap();
    let sql = "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE application_name = 'data-patch'";
    let (begun, mut ended, mut times) = (Instant::now(), 0, 0);
    while begun.elapsed() < AWAY {
        ended += sqlx::query(sql).fetch_one(&mut superuser).await.unwrap().get::<i64, _>("ended");
        times += 1;
        // Now and then it gets somewhere in between, and now and then it does not.
        scene.listen(Duration::from_millis(fastrand::u64(20..700))).await;
    }
    assert!(ended > 0, "there were none to be ended");
    assert!(scene.has_said(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scene.log);
    scene.ends_whole().await.write(what, times, &format!("{ended} connections ended"));
}

/// A patch with a network between the service and PostgreSQL.
async fn through_proxy() -> (Scene, Proxy) {
    let mut patch = Patch::on(&TestBroker::start().await).await;
    let proxy = Proxy::before(&patch.store.url()).await;
    patch.url = Some(proxy.url(&patch.store.url()));
    (Scene::play(tempfile::tempdir().unwrap(), patch).await, proxy)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_slow_postgres_is_not_away() {
    let what = "outage: PostgreSQL slow, late and in small pieces";
    if !parts::are_ours(what) {
        return;
    }
    let (mut scene, proxy) = through_proxy().await;
    proxy.set(Network::Slow);
    let cpu = scene.measure(AWAY).await;
    proxy.set(Network::Fast);
    let ended = scene.ends_whole().await;
    assert_eq!(waits(&ended.log), 0, "it was slow, and never away: {:#?}", ended.log);
    assert_eq!(ended.account.repeated, 0);
    ended.write(what, 1, &format!("slow for {} s, {cpu:.2} cores used meanwhile", AWAY.as_secs()));
}

/// The network goes silent in the middle, and comes back.
async fn silence(what: &str, silence: Network) {
    if !parts::are_ours(what) {
        return;
    }
    let (mut scene, proxy) = through_proxy().await;
    proxy.set(silence);
    let cpu = scene.measure(AWAY).await;
    assert!(scene.has_said(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scene.log);
    proxy.set(Network::Fast);
    let ended = scene.ends_whole().await;
    let first = ended.log.iter().map(message).find(|line| line.contains("waits, nothing is lost")).unwrap();
    println!("{first}");
    ended.write(what, 1, &format!("silent for {} s, {cpu:.2} cores used meanwhile", AWAY.as_secs()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_falls_silent_and_speaks_again() {
    silence("outage: PostgreSQL silent (a black hole), and back", Network::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn the_network_forgets_the_connections_to_postgres() {
    silence("outage: PostgreSQL silent, and the old connections dead for ever", Network::Forgetful).await;
}
