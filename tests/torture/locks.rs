//! Locks on the source's table, requested at random moments of a replay, also while Kafka is
//! frozen: writers never wait for the service longer than `iota.max_blocking_seconds`, and the
//! replay completes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

use crate::{
    outage::{Outage, are_private},
    row_counts::RowCounts,
    support::{Client, Process, TestBroker, TestSource, is_end, message},
    table::TestResult,
};

/// `iota.max_blocking_seconds`.
const MAX_BLOCKING: Duration = Duration::from_secs(3);
/// Allowance for a slow machine.
const SLACK: Duration = Duration::from_secs(1);
const DEVICES: usize = 4;
/// Rows of a kilobyte each: a page exceeds the socket buffers, so that a statement that waits for
/// Kafka is detected.
const ROWS: usize = 20_000;

/// The longest wait of a session.
#[derive(Default)]
struct Longest(AtomicU64);

impl Longest {
    fn record(&self, waited: Duration) {
        self.0.fetch_max(waited.as_millis().try_into().unwrap(), Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }
}

/// A table partitioned by time: the devices' rows are in the first partition, the writer's in the
/// second, and the third is empty.
async fn fill(source: &TestSource, with_index: bool) -> (Uuid, Vec<Uuid>) {
    let mut connection = source.postgres().await.unwrap();
    connection
        .execute(
            r#"CREATE TABLE "Device" (id uuid PRIMARY KEY, name text, "thingId" uuid NOT NULL);
               CREATE TABLE raw_data (id bigint, "deviceId" uuid NOT NULL, "triggerTime" timestamptz NOT NULL, doc jsonb,
                                      PRIMARY KEY ("triggerTime", id)) PARTITION BY RANGE ("triggerTime");
               CREATE TABLE raw_2019 PARTITION OF raw_data FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
               CREATE TABLE raw_2020 PARTITION OF raw_data FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
               CREATE TABLE raw_2021 PARTITION OF raw_data FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');"#,
        )
        .await
        .unwrap();
    if with_index {
        connection.execute(r#"CREATE INDEX ON raw_data ("deviceId", "triggerTime", id)"#).await.unwrap();
    }
    let (thing, devices) = (Uuid::new_v4(), (0..DEVICES).map(|_| Uuid::new_v4()).collect::<Vec<_>>());
    for device in &devices {
        source.add_device(thing, *device, "静力水准仪").await;
        let rows = format!(
            "INSERT INTO raw_data SELECT nextval('ids'), '{device}', '2019-01-12T00:00:00Z'::timestamptz + n * interval '1 s',
               jsonb_build_object('deviceId', '{device}', 'triggerTime', '', 'data', jsonb_build_object('data', jsonb_build_object('v', n), 'x', repeat('x', 1000)))
               FROM generate_series(1, {ROWS}) AS n"
        );
        connection.execute("CREATE SEQUENCE IF NOT EXISTS ids").await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(rows)).execute(&mut connection).await.unwrap();
    }
    (thing, devices)
}

/// Writes as the platform does, and records how long each write took.
async fn write(mut connection: PgConnection, longest: Arc<Longest>, stop: Arc<AtomicBool>) {
    let sql = "INSERT INTO raw_data VALUES (nextval('ids'), gen_random_uuid(), '2020-06-01', '{}')";
    while !stop.load(Relaxed) {
        let started = Instant::now();
        connection.execute(sql).await.unwrap();
        longest.record(started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes an exclusive lock, as an operator's statement does, and records how long it waited.
async fn lock(connection: &mut PgConnection, longest: &Longest) {
    let sql = match fastrand::u8(..4) {
        0 => format!("ALTER TABLE raw_data ADD COLUMN c{} int", fastrand::u32(..)),
        1 => "TRUNCATE raw_2021".to_owned(),
        2 => "ALTER TABLE raw_2019 ALTER doc SET STORAGE EXTENDED".to_owned(),
        _ => "BEGIN; LOCK TABLE raw_data IN ACCESS EXCLUSIVE MODE; COMMIT".to_owned(),
    };
    let started = Instant::now();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    longest.record(started.elapsed());
}

async fn locks_at_random_moments(what: &str, with_index: bool) {
    if !are_private(what) {
        return;
    }
    let source = TestSource::without_tables().await;
    let (thing, devices) = fill(&source, with_index).await;
    let topic = TestBroker::start().await.topic().await;
    let folder = tempfile::tempdir().unwrap();
    let max_blocking = MAX_BLOCKING.as_secs().to_string();
    let settings = [
        ("DATA_PATCH_IOTA_MAX_BLOCKING_SECONDS", max_blocking.as_str()),
        ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "262144"),
        ("DATA_PATCH_WORKER_RETRY_MAX_MS", "2000"),
    ];
    let process = Process::serve(&folder, &source, &topic, &settings).await;
    let mut client = Client::connect(&process.url).await;
    let (longest, stop) = (Arc::new(Longest::default()), Arc::new(AtomicBool::new(false)));
    let writer = tokio::spawn(write(source.postgres().await.unwrap(), Arc::clone(&longest), Arc::clone(&stop)));
    let locker = tokio::spawn({
        let (mut connection, longest, stop) = (source.postgres().await.unwrap(), Arc::clone(&longest), Arc::clone(&stop));
        async move {
            let mut times = 0;
            while !stop.load(Relaxed) {
                lock(&mut connection, &longest).await;
                times += 1;
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..150))).await;
            }
            times
        }
    });
    let task = client.submit(&Client::request(thing, &devices, &topic.name)).await;
    let mut log: Vec<Value> = client.until(|line| message(line).contains("data published(")).await;
    // Longer than the writer may wait: a statement that waits for Kafka would block it for all of
    // this time.
    let frozen = Outage::start("freeze", "kafka").await;
    tokio::time::sleep((MAX_BLOCKING + SLACK) * 2).await;
    frozen.end().await;
    if !log.iter().any(is_end) {
        log.extend(client.log().await);
    }
    stop.store(true, Relaxed);
    writer.await.unwrap();
    let times = locker.await.unwrap();
    let counts = RowCounts::of(&source, &topic, &task, &devices).await;
    let waited = longest.get();
    assert!(waited < MAX_BLOCKING + SLACK, "a session waited {waited:?} for the service");
    assert_eq!((counts.rows, counts.lost), (DEVICES * ROWS, 0), "{:#?}", log.last());
    TestResult::of(what, times, counts, format!("the longest wait of a writer or for a lock: {waited:?}")).write();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make torture"]
async fn locks_on_a_table_with_an_index() {
    locks_at_random_moments("locks: ALTER, TRUNCATE, LOCK TABLE at random, Kafka frozen; with the index", true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make torture"]
async fn locks_on_a_table_without_an_index() {
    locks_at_random_moments("locks: ALTER, TRUNCATE, LOCK TABLE at random, Kafka frozen; without an index", false).await;
}
