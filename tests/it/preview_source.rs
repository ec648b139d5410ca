//! The statements of previews: exact for every type of time, limited in time, and no burden on others.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use data_patch::protocol::http::{PreviewLine, PreviewRequest};
use data_patch::source::{Buckets, DeviceCounts};
use data_patch_client::HttpClient;
use serde_json::json;
use sqlx::{Executor as _, PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    source::open,
    support::{Reading, TOKEN, TestApp, TestSource, doc, eventually, real},
};

/// Hours of the day on which New York sets its clocks back, and of the two days around it.
fn hours() -> Buckets {
    let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    Buckets {
        from: time("2019-11-02T00:30:00Z"),
        to: time("2019-11-04T23:59:59Z"),
        start: time("2019-11-02T00:00:00Z"),
        length: TimeDelta::hours(1),
        count: 72,
    }
}

/// A row every seven minutes, also outside the range.
fn readings(device: Uuid, first_id: i64) -> Vec<Reading> {
    let start = 1_572_600_000_000;
    (0..900).map(|n| Reading { id: first_id + n, device, time_ms: start + n * 420_000, doc: Some(doc(device, n)) }).collect()
}

/// What the buckets of these readings are.
fn expected(buckets: &Buckets, readings: &[Reading]) -> DeviceCounts {
    let mut counts = DeviceCounts::default();
    for reading in readings {
        let time = DateTime::from_timestamp_millis(reading.time_ms).unwrap();
        if time < buckets.from || time > buckets.to {
            continue;
        }
        let bucket = u32::try_from((time - buckets.start).num_hours()).unwrap();
        match counts.buckets.last_mut().filter(|(last, _)| *last == bucket) {
            Some((_, rows)) => *rows += 1,
            None => counts.buckets.push((bucket, 1)),
        }
        counts.rows += 1;
        counts.first_us = counts.first_us.or(Some(reading.time_ms * 1_000));
        counts.last_us = Some(reading.time_ms * 1_000);
    }
    counts
}

#[tokio::test]
async fn buckets_are_exact_for_every_type_of_time_in_every_session() {
    const LIMIT: Duration = Duration::from_secs(30);
    if real("READINGS").is_some() {
        return; // It is about tables, and an index caps no count.
    }
    let test = TestSource::empty().await;
    let (device, other, none) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let (rows, few) = (readings(device, 0), &readings(other, 5_000)[..300]);
    test.add(&rows).await;
    test.add(few).await;
    let buckets = hours();
    let all = [expected(&buckets, &rows), DeviceCounts::default(), expected(&buckets, few)];
    let mut layouts = vec![("", "Asia/Shanghai")];
    if test.is_postgres() {
        layouts.extend([
            ("ALTER TABLE raw_data ALTER \"deviceId\" TYPE text", "Asia/Shanghai"),
            (
                "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamp USING \"triggerTime\" AT TIME ZONE 'Asia/Shanghai'",
                "Asia/Shanghai",
            ),
            (
                "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE bigint \
                 USING extract(epoch FROM \"triggerTime\" AT TIME ZONE 'Asia/Shanghai') * 1000",
                "Asia/Shanghai",
            ),
        ]);
    }
    for (change, zone) in layouts {
        if !change.is_empty() {
            test.execute(change).await;
        }
        let source = open(&test, |overrides| {
            overrides.set(&["iota", "time_zone"], zone);
            if test.is_postgres() {
                overrides.set(&["iota", "url"], format!("{}%20-c%20TimeZone%3DAmerica/New_York", test.url()));
            }
        });
        let counted = source.bucket_counts(&[device, none, other], &buckets, None, LIMIT).await.unwrap().unwrap();
        assert_eq!(counted, all, "{change}");
        let capped = source.bucket_counts(&[device, other], &buckets, Some(100), LIMIT).await.unwrap().unwrap();
        assert_eq!(capped.iter().map(|counts| counts.rows).collect::<Vec<_>>(), [100, 100], "{change}");
        // With as many rows as there are, nothing is estimated.
        let estimated = source.estimate_buckets(device, &buckets, 1_000, LIMIT).await.unwrap().unwrap();
        assert_eq!(estimated, all[0], "{change}");
        let estimated = source.estimate_buckets(device, &buckets, 4, LIMIT).await.unwrap().unwrap();
        assert!(estimated.is_estimate && estimated.rows.abs_diff(all[0].rows) * 10 < all[0].rows, "{change}: {}", estimated.rows);
        assert_eq!((estimated.first_us, estimated.last_us), (all[0].first_us, all[0].last_us), "{change}");
    }
}

#[tokio::test]
async fn times_that_exist_twice_are_counted_once() {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return;
    }
    let device = Uuid::new_v4();
    let rows = readings(device, 0);
    test.add(&rows).await;
    test.execute(
        "ALTER TABLE raw_data ALTER \"triggerTime\" TYPE timestamp USING \"triggerTime\" AT TIME ZONE 'America/New_York'",
    )
    .await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "time_zone"], "America/New_York");
    });
    let buckets = hours();
    let counted = source.bucket_counts(&[device], &buckets, None, Duration::from_secs(30)).await.unwrap().unwrap().remove(0);
    let expected = expected(&buckets, &rows);
    assert_eq!(counted.rows, expected.rows);
    // 01:00 to 02:00 exists twice: all its rows are taken for the earlier hour.
    let [earlier, later] = [29, 30];
    let of = |counts: &DeviceCounts, hour| counts.buckets.iter().find(|(bucket, _)| *bucket == hour).map_or(0, |(_, rows)| *rows);
    assert_eq!((of(&counted, earlier), of(&counted, later)), (of(&expected, earlier) + of(&expected, later), 0));
    assert!(
        counted
            .buckets
            .iter()
            .filter(|(hour, _)| ![earlier, later].contains(hour))
            .all(|(hour, rows)| of(&expected, *hour) == *rows)
    );
}

async fn slow_app(max_blocking_seconds: u32) -> Option<(TestApp, Uuid, Uuid)> {
    let test = TestSource::empty().await;
    if !test.is_postgres() {
        return None;
    }
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    test.add_device(thing, device, "slow").await;
    test.make_slow(device).await;
    let app = TestApp::start_with(test, |overrides| {
        overrides.set(&["iota", "max_blocking_seconds"], max_blocking_seconds).set(&["iota", "assume_unique_row_key"], true);
    })
    .await;
    Some((app, thing, device))
}

fn request(thing: Uuid, device: Uuid) -> PreviewRequest {
    let body = json!({"src": "iota", "thingId": thing, "devices": [device], "from": "2019-01-11T00:00:00Z", "to": "2019-01-12T00:00:00Z"});
    serde_json::from_value(body).unwrap()
}

fn client(app: &TestApp) -> HttpClient {
    HttpClient::new(&format!("http://{}", app.http), TOKEN).unwrap()
}

/// The number of statements that read the table. (Their texts are longer than what
/// `pg_stat_activity` shows.)
async fn running(connection: &mut PgConnection) -> i64 {
    let sql =
        "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'base'::regclass AND granted AND pid <> pg_backend_pid()";
    sqlx::raw_sql(sql).fetch_one(connection).await.unwrap().get(0)
}

async fn until_running(app: &TestApp) {
    let source = app.source.clone();
    eventually("the preview counts", async || running(&mut source.postgres().await.unwrap()).await > 0).await;
}

#[tokio::test]
async fn a_writer_waits_no_longer_than_the_limit_while_a_preview_runs() {
    let Some((app, thing, device)) = slow_app(2).await else { return };
    let mut lines = client(&app).preview(&request(thing, device)).await.unwrap();
    until_running(&app).await;
    let mut connection = app.source.postgres().await.unwrap();
    let asked = Instant::now();
    connection.execute("BEGIN; LOCK TABLE base IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waited = asked.elapsed();
    connection.execute("COMMIT").await.unwrap();
    assert!(waited < Duration::from_secs(3), "a lock was waited for {waited:?}");
    let Some(PreviewLine::Device(preview)) = lines.next().await.unwrap() else { panic!("no line") };
    assert!(preview.problem.as_deref().unwrap().contains("or others wait for it"), "{preview:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_statement() {
    let Some((app, thing, device)) = slow_app(30).await else { return };
    let lines = client(&app).preview(&request(thing, device)).await.unwrap();
    until_running(&app).await;
    // From a second on the watchdog knows it.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let left = Instant::now();
    drop(lines);
    let source = app.source.clone();
    eventually("it has ended", async || running(&mut source.postgres().await.unwrap()).await == 0).await;
    assert!(left.elapsed() < Duration::from_secs(5), "it ended by its time limit, {:?} later", left.elapsed());
    app.stop().await;
}

#[tokio::test]
async fn all_previews_together_use_one_connection_and_a_slow_table_is_said() {
    let Some((app, thing, device)) = slow_app(30).await else { return };
    let asked = request(thing, device);
    let previews: Vec<_> = (0..2)
        .map(|_| {
            let (client, asked) = (client(&app), asked.clone());
            tokio::spawn(async move {
                let mut lines = client.preview(&asked).await.unwrap();
                let Some(PreviewLine::Device(preview)) = lines.next().await.unwrap() else { panic!("no line") };
                preview
            })
        })
        .collect();
    let mut connection = app.source.postgres().await.unwrap();
    let mut most = 0;
    while previews.iter().any(|preview| !preview.is_finished()) {
        most = most.max(running(&mut connection).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(most, 1, "statements of previews at the same time");
    for preview in previews {
        let preview = preview.await.unwrap();
        assert!(preview.problem.as_deref().unwrap().contains("longer than 10 s"), "{preview:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_locked_table_is_said_and_the_preview_ends() {
    let test = TestSource::empty().await;
    let (thing, device) = test.add_rows(30).await;
    if !test.is_postgres() {
        return;
    }
    let app = TestApp::start(test).await;
    let mut lock = app.source.postgres().await.unwrap();
    lock.execute("BEGIN; LOCK TABLE raw_data IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut lines = client(&app).preview(&request(thing, device)).await.unwrap();
    let Some(PreviewLine::Device(preview)) = lines.next().await.unwrap() else { panic!("no line") };
    assert!(preview.problem.as_deref().unwrap().contains("not counted"), "{preview:?}");
    let Some(PreviewLine::Summary(summary)) = lines.next().await.unwrap() else { panic!("no summary") };
    assert_eq!((summary.devices, summary.problem_devices, summary.rows), (1, 1, 0));
    lock.execute("COMMIT").await.unwrap();
    app.stop().await;
}
