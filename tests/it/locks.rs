//! The service does not block other sessions of the source: no statement waits for the consumer of
//! the rows, and long statements are cancelled when another session waits for a lock.

use std::time::{Duration, Instant};

use data_patch::source::{Row, Selection, Source};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    source::{all_of, keys, open},
    support::{Reading, TIMEOUT, TestSource, eventually},
};

/// Documents of a kilobyte.
async fn add_large(source: &TestSource, device: Uuid, rows: i64) {
    let doc = format!(r#"{{"x": "{}"}}"#, "x".repeat(1_000));
    let rows: Vec<_> = (0..rows)
        .map(|n| Reading { id: fastrand::i64(..), device, time_ms: 1_600_000_000_000 + n, doc: Some(doc.clone()) })
        .collect();
    source.add(&rows).await;
}

async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap().get(0)
}

#[tokio::test]
async fn no_statement_stays_open_while_rows_are_not_consumed() {
    let test = TestSource::empty().await;
    let Some(mut connection) = test.postgres().await else { return };
    let device = Uuid::new_v4();
    add_large(&test, device, 30_000).await;
    let source = open(&test, |_| {});
    let mut rows = source.rows(all_of(device));
    rows.next().await.unwrap().unwrap();
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{device}%' AND pid <> pg_backend_pid()
         AND (state <> 'idle' OR backend_xmin IS NOT NULL)"
    );
    // The second page would start when the first is nearly consumed, which does not happen here.
    let deadline = Instant::now() + Duration::from_secs(10);
    while number(&mut connection, &open).await > 0 {
        assert!(Instant::now() < deadline, "a statement is open, and waits for who takes the rows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(rows);
}

#[tokio::test]
async fn unconsumed_rows_are_dropped_for_others() {
    let test = TestSource::empty().await;
    let (slow, other) = (Uuid::new_v4(), Uuid::new_v4());
    add_large(&test, slow, 12_000).await;
    add_large(&test, other, 12_000).await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "read_ahead_bytes"], 4 << 20);
    });
    let mut rows = source.rows(all_of(slow));
    let mut read: Vec<String> = names(&rows.next().await.unwrap().unwrap());
    assert_eq!(keys(&source, all_of(other)).await.len(), 12_000);
    while let Some(batch) = rows.next().await.unwrap() {
        read.extend(names(&batch));
    }
    assert_eq!(read, keys(&source, all_of(slow)).await, "rows are missing, or came twice");
    assert_eq!(read.len(), 12_000);
}

// Pages that were read ahead kept their memory for as long as their device stood still.
#[tokio::test]
async fn what_was_read_ahead_is_dropped_for_others_too() {
    let test = TestSource::empty().await;
    let (slow, other) = (Uuid::new_v4(), Uuid::new_v4());
    add_large(&test, slow, 12_000).await;
    add_large(&test, other, 100).await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "read_ahead_bytes"], 8 << 20);
    });
    let mut rows = source.rows(all_of(slow));
    let mut read = Vec::new();
    // Beyond the first page, so that the next ones are read ahead.
    while read.len() < 4_500 {
        read.extend(names(&rows.next().await.unwrap().unwrap()));
    }
    let other = tokio::time::timeout(TIMEOUT, keys(&source, all_of(other))).await;
    assert_eq!(other.expect("it waits for the memory of a device that stands still").len(), 100);
    while let Some(batch) = rows.next().await.unwrap() {
        read.extend(names(&batch));
    }
    assert_eq!(read, keys(&source, all_of(slow)).await, "rows are missing, or came twice");
}

fn names(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.position.key.to_string()).collect()
}

#[tokio::test]
async fn a_page_is_limited_in_bytes_and_has_at_least_one_row() {
    let test = TestSource::empty().await;
    let device = Uuid::new_v4();
    // Small rows first, so that the large ones are not expected.
    let doc = |n: i64| format!(r#"{{"x": "{}"}}"#, "x".repeat(if (1_000..1_020).contains(&n) { 1_500_000 } else { 10 }));
    let rows: Vec<_> = (0..3_000).map(|n| Reading { id: n, device, time_ms: 1_600_000_000_000 + n, doc: Some(doc(n)) }).collect();
    for rows in rows.chunks(10) {
        test.add(rows).await;
    }
    let source = open(&test, |_| {});
    let expected: Vec<_> = (0..3_000).map(|n| test.key(n)).collect();
    assert_eq!(keys(&source, all_of(device)).await, expected);
}

fn source_with_short_blocking(test: &TestSource) -> Source {
    open(test, |overrides| {
        overrides.set(&["iota", "max_blocking_seconds"], 2).set(&["iota", "assume_unique_row_key"], true);
    })
}

/// Waits until a query of the service runs, and then for an exclusive lock; returns how long the
/// lock took.
async fn lock_table(test: &TestSource, device: Uuid, statement: &str) -> Duration {
    let mut connection = test.postgres().await.unwrap();
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%{statement}%{device}%' AND state = 'active' AND pid <> pg_backend_pid()"
    );
    eventually("our statement runs", || {
        let (test, running) = (test.clone(), running.clone());
        async move { number(&mut test.postgres().await.unwrap(), &running).await > 0 }
    })
    .await;
    let asked = Instant::now();
    connection.execute("BEGIN; LOCK TABLE base IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waited = asked.elapsed();
    connection.execute("UPDATE speed SET seconds = 0; COMMIT").await.unwrap();
    waited
}

#[tokio::test]
async fn a_count_is_cancelled_for_a_waiting_lock_and_repeated() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    let device = Uuid::new_v4();
    test.make_slow(device).await;
    let (source, selection) = (source_with_short_blocking(&test), all_of(device));
    let (counted, waited) = tokio::join!(source.count(&selection), lock_table(&test, device, "COUNT"));
    assert!(waited < Duration::from_secs(3), "a lock was waited for {waited:?}");
    assert_eq!(counted.unwrap(), 1_000);
}

#[tokio::test]
async fn a_page_is_cancelled_for_a_waiting_lock_and_read_again() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    let device = Uuid::new_v4();
    test.make_slow(device).await;
    let source = source_with_short_blocking(&test);
    let (read, waited) = tokio::join!(keys(&source, all_of(device)), lock_table(&test, device, "COPY"));
    assert!(waited < Duration::from_secs(3), "a lock was waited for {waited:?}");
    assert_eq!(read, (1..=1_000).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_abandoned_statement_is_cancelled_in_the_database() {
    let test = TestSource::empty().await;
    let Some(mut connection) = test.postgres().await else { return };
    let device = Uuid::new_v4();
    test.make_slow(device).await;
    let source = source_with_short_blocking(&test);
    let selection: Selection = all_of(device);
    let left = tokio::time::timeout(Duration::from_secs(2), source.count(&selection)).await;
    assert!(left.is_err(), "it was over too soon to be left");
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%COUNT%{device}%' AND state = 'active' AND pid <> pg_backend_pid()"
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while number(&mut connection, &running).await > 0 {
        assert!(Instant::now() < deadline, "it still runs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
