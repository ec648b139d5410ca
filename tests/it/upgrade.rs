//! Versions: a queue file of an older one, and a newer one that migrates the file in use.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::{Client, Process, TIMEOUT, TestBroker, TestSource, eventually, get, message, tree::root};

/// A connection to the queue file, as another program has it.
async fn queue_file(folder: &TempDir) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.path().join("queue.db")).create_if_missing(true);
    SqliteConnection::connect_with(&options.busy_timeout(TIMEOUT)).await.unwrap()
}

async fn execute(folder: &TempDir, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut queue_file(folder).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_an_older_file_is_logged_and_that_of_a_new_one_is_not() {
    let (source, topic) = (TestSource::empty().await, TestBroker::start().await.topic().await);
    for (versions, from) in [(0, None), (4, Some("from=4")), (usize::MAX, None)] {
        let folder = tempfile::tempdir().unwrap();
        if versions > 0 {
            let mut migrations = sqlx::migrate::Migrator::new(root().join("migrations/sqlite")).await.unwrap();
            migrations.migrations = migrations.migrations.iter().take(versions).cloned().collect();
            migrations.run(&mut queue_file(&folder).await).await.unwrap();
        }
        let process = Process::serve(&folder, &source, &topic, &[]).await;
        eventually("it is up", async || Process::log(&folder).contains("data-patch is up")).await;
        let log = Process::log(&folder);
        assert_eq!(log.contains("the queue's tables are being migrated"), from.is_some(), "{log}");
        assert_eq!(log.contains("the queue's tables are migrated"), from.is_some(), "{log}");
        assert!(from.is_none_or(|from| log.contains(from)) && !log.contains("slow statement"), "{log}");
        process.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_version_that_renames_columns_in_use_costs_no_row() {
    /// At 2,000 a second it takes longer than the lease.
    const ROWS: i64 = 20_000;
    let (folder, source) = (tempfile::tempdir().unwrap(), TestSource::empty().await);
    let topic = TestBroker::start().await.topic().await;
    let (thing, device) = source.add_rows(ROWS).await;
    let process = Process::serve(&folder, &source, &topic, &[("DATA_PATCH_WORKER_LEASE_SECONDS", "3")]).await;
    let mut client = Client::connect(&process.url).await;
    let mut request = Client::request(thing, &[device], &topic.name);
    request["rate"] = json!(2_000);
    client.submit(&request).await;
    let mut log = client.until(|line| message(line).starts_with("iota data published(")).await;

    let newer = "ALTER TABLE job RENAME COLUMN quarantined TO renamed;
                 INSERT INTO _sqlx_migrations VALUES (9999, 'later', 'now', 1, x'00', 0)";
    execute(&folder, newer).await;
    eventually("it is abandoned", async || Process::log(&folder).contains("the job is abandoned")).await;
    let failed_claims = || {
        Process::log(&folder).lines().filter(|line| line.contains("no job can be claimed")).map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("claims fail for a while", async || failed_claims().len() > 1).await;
    // It is tried twice a second, and the second line comes after two.
    let seconds = |line: &str| line.split("lasted=").nth(1).and_then(|rest| rest.split('s').next()?.parse::<f64>().ok());
    assert!(seconds(&failed_claims()[1]).is_some_and(|seconds| seconds >= 2.0), "{:#?}", failed_claims());
    let (status, ready) = get(&process.address.to_string(), "/readyz").await;
    assert!(status == 503 && ready.contains("migrated by a newer version"), "{ready}");
    assert!(
        !Process::log(&folder).contains("cannot be read"),
        "a column's name was read as its value: {}",
        Process::log(&folder)
    );
    let failures = Process::log(&folder).matches("the heartbeat failed; retrying").count();
    assert!((1..=2).contains(&failures), "{failures} lines in 3 s: {}", Process::log(&folder));

    let older = "ALTER TABLE job RENAME COLUMN renamed TO quarantined; DELETE FROM _sqlx_migrations WHERE version = 9999";
    execute(&folder, older).await;
    eventually("jobs are claimed again", async || Process::log(&folder).contains("jobs can be claimed again")).await;
    log.extend(client.log().await);
    assert!(message(log.last().unwrap()).contains(&format!("{ROWS} rows published")), "{log:#?}");
    let mut seen = std::collections::HashSet::new();
    let found = topic.read_device(device).await;
    let once: Vec<_> = found.iter().filter(|found| seen.insert(&found.row)).map(|found| found.value.clone()).collect();
    assert_eq!(once, source.docs(device).await, "every row, in order, once repeats are dropped");
    process.terminate().await;
}
