//! Outages of PostgreSQL: stopped, its connections terminated repeatedly, slow, silent.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, Row};

use super::{
    OUTAGE_DURATION, Scenario, TaskSetup,
    proxy::{Network, Proxy},
    scenario::count_waits,
    services::{self, Outage},
};
use crate::support::{Bouncer, TestBroker, message, real};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_is_stopped_and_started() {
    let what = "outage: PostgreSQL stopped and started";
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    let started = Instant::now();
    let outage = Outage::start("stop", "postgres").await;
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(scenario.has_logged(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scenario.log);
    outage.end().await;
    let note = format!("outage of {:.0} s, {cpu:.2} cores used meanwhile", started.elapsed().as_secs_f64());
    scenario.finish().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_is_stopped_and_started_behind_pgbouncer() {
    let what = "outage: PostgreSQL stopped and started behind PgBouncer (transaction mode, two sessions)";
    if !services::are_private(what) {
        return;
    }
    let bouncer = Bouncer::start("transaction", 2).await.unwrap();
    let mut setup = TaskSetup::on(&TestBroker::start().await).await;
    setup.url = Some(setup.source.through(&bouncer.address));
    let mut scenario = Scenario::start_with(tempfile::tempdir().unwrap(), setup).await;
    let started = Instant::now();
    let outage = Outage::start("stop", "postgres").await;
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(scenario.has_logged(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scenario.log);
    outage.end().await;
    let note = format!("outage of {:.0} s, {cpu:.2} cores used meanwhile", started.elapsed().as_secs_f64());
    scenario.finish().await.write(what, 1, &note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn connections_of_postgres_are_ended_again_and_again() {
    let what = "outage: PostgreSQL ends the service's connections again and again";
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    let mut superuser = PgConnection::connect(&real("POSTGRES").unwrap()).await.unwrap();
    let sql = "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE application_name = 'data-patch'";
    let (started, mut ended, mut times) = (Instant::now(), 0, 0);
    while started.elapsed() < OUTAGE_DURATION {
        ended += sqlx::query(sql).fetch_one(&mut superuser).await.unwrap().get::<i64, _>("ended");
        times += 1;
        // In some intervals the task makes progress, in others it does not.
        scenario.read_for(Duration::from_millis(fastrand::u64(20..700))).await;
    }
    assert!(ended > 0, "there were no connections to terminate");
    assert!(scenario.has_logged(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scenario.log);
    scenario.finish().await.write(what, times, &format!("{ended} connections ended"));
}

/// A task whose service reaches PostgreSQL through a proxy.
async fn through_proxy() -> (Scenario, Proxy) {
    let mut setup = TaskSetup::on(&TestBroker::start().await).await;
    let proxy = Proxy::in_front_of(&setup.source.url()).await;
    setup.url = Some(proxy.url(&setup.source.url()));
    (Scenario::start_with(tempfile::tempdir().unwrap(), setup).await, proxy)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_slow_postgres_is_not_unavailable() {
    let what = "outage: PostgreSQL slow, late and in small pieces";
    if !services::are_private(what) {
        return;
    }
    let (mut scenario, proxy) = through_proxy().await;
    proxy.set(Network::Slow);
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    proxy.set(Network::Fast);
    let outcome = scenario.finish().await;
    assert_eq!(count_waits(&outcome.log), 0, "slow is not unavailable: {:#?}", outcome.log);
    assert_eq!(outcome.counts.repeated, 0);
    outcome.write(what, 1, &format!("slow for {} s, {cpu:.2} cores used meanwhile", OUTAGE_DURATION.as_secs()));
}

/// The network is silent for a while.
async fn silence(what: &str, silence: Network) {
    if !services::are_private(what) {
        return;
    }
    let (mut scenario, proxy) = through_proxy().await;
    proxy.set(silence);
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(scenario.has_logged(&["waits, nothing is lost", "the IoTA source is unavailable"]), "{:#?}", scenario.log);
    proxy.set(Network::Fast);
    let outcome = scenario.finish().await;
    let first = outcome.log.iter().map(message).find(|line| line.contains("waits, nothing is lost")).unwrap();
    println!("{first}");
    outcome.write(what, 1, &format!("silent for {} s, {cpu:.2} cores used meanwhile", OUTAGE_DURATION.as_secs()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn postgres_is_silent_for_a_while() {
    silence("outage: PostgreSQL silent (a black hole), and back", Network::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn the_network_drops_the_connections_to_postgres_silently() {
    silence("outage: PostgreSQL silent, and the old connections dead for ever", Network::Forgetful).await;
}
