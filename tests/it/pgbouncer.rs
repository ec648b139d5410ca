//! The source behind PgBouncer, in transaction and in session mode.

use std::{process::Stdio, time::Duration};

use data_patch::queue::{Clock, OpenError, Queue, QueueOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::support::{Bouncer, Client, TestApp, TestSource, message, real, seqs};

async fn check_task(mode: &str, pool_size: u32) {
    let Some(bouncer) = Bouncer::start(mode, pool_size).await else { return };
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(20_000).await;
    let url = source.through(&bouncer.address);
    let app = TestApp::start_with(source, |overrides| {
        overrides.set(&["iota", "url"], url);
    })
    .await;
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let log = tokio::time::timeout(Duration::from_secs(30), client.log()).await.expect("it stalls");
    let messages: Vec<_> = log.iter().map(message).collect();
    assert!(!messages.iter().any(|line| line.contains("waits, nothing is lost")), "{messages:#?}");
    assert!(messages.last().unwrap().contains("20000 rows published"), "{messages:#?}");
    let found: Vec<_> = app.topic.read().await.into_iter().map(|found| found.value).collect();
    assert_eq!(found, app.source.docs(device).await);
    app.stop().await;
}

#[tokio::test]
async fn a_task_completes_in_transaction_mode() {
    check_task("transaction", 2).await;
}

#[tokio::test]
async fn a_task_completes_in_session_mode_with_one_session() {
    check_task("session", 1).await;
}

#[tokio::test]
async fn a_task_completes_in_session_mode_with_two_sessions() {
    check_task("session", 2).await;
}

/// The queue in a database of its own, behind PgBouncer.
async fn check_queue(mode: &str) {
    let Some(bouncer) = Bouncer::start(mode, 8).await else { return };
    let server = real("POSTGRES").unwrap();
    let mut admin = PgConnection::connect(&server).await.unwrap();
    let database = format!("queue_{}", Uuid::new_v4().simple());
    sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut admin).await.unwrap();
    let user = server.parse::<PgConnectOptions>().unwrap().get_username().to_owned();
    let url = format!("postgres://{user}@{}/{database}", bouncer.address);
    let source = TestSource::empty().await;
    let (thing, devices) = source.add_devices_of_one_row(40).await;
    let app = TestApp::start_with(source, |overrides| {
        overrides.set(&["queue", "url"], url);
    })
    .await;
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    let log = client.log().await;
    assert!(message(log.last().unwrap()).contains("40 of 40 devices"), "{log:#?}");
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    app.stop().await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {database} WITH (FORCE)"))).execute(&mut admin).await.unwrap();
}

#[tokio::test]
async fn a_queue_in_transaction_mode_is_refused_with_the_remedy() {
    let Some(bouncer) = Bouncer::start("transaction", 8).await else { return };
    let server = real("POSTGRES").unwrap().parse::<PgConnectOptions>().unwrap();
    let url = format!("postgres://{}@{}/{}", server.get_username(), bouncer.address, server.get_database().unwrap());
    let error = Queue::open(&QueueOptions::new(url), Clock::System).await.err().expect("it opened");
    assert!(matches!(error, OpenError::SharedSessions { .. }) && error.to_string().contains("session mode"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_works_in_session_mode() {
    check_queue("session").await;
}

/// Runs the source's tests again behind PgBouncer.
#[tokio::test]
async fn the_tests_of_the_source_pass_behind_it() {
    let Some(bouncer) = Bouncer::start("transaction", 4).await else { return };
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["source::", "layout::", "locks::"])
        .env("DATA_PATCH_TEST_PGBOUNCER", &bouncer.address)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let passed = String::from_utf8_lossy(&output.stdout).matches("... ok").count();
    assert!(passed > 20, "only {passed} tests were run");
}
