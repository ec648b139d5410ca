//! The source: layouts, rows with equal times, invalid rows, and errors.

use chrono::TimeZone;
use data_patch::{
    config::{self, Overrides},
    source::{Selection, Source, SourceError},
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Client, Reading, TestApp, TestSource, doc, eventually, message, real};

pub fn open(source: &TestSource, tweak: impl FnOnce(&mut Overrides)) -> Source {
    let mut overrides = Overrides::default();
    source.configure(&mut overrides);
    tweak(&mut overrides);
    Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap()
}

pub fn all_of(device: Uuid) -> Selection {
    let time = |year| chrono::Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).unwrap();
    Selection { device, from: time(1), to: time(9999), after: None }
}

/// Rows up to a time long ago, which no source waits for.
pub fn until_2020(device: Uuid) -> Selection {
    Selection { to: chrono::Utc.with_ymd_and_hms(2020, 1, 1, 0, 0, 0).unwrap(), ..all_of(device) }
}

pub async fn keys(source: &Source, selection: Selection) -> Vec<String> {
    let mut rows = source.rows(selection);
    let mut keys = Vec::new();
    while let Some(batch) = rows.next().await.unwrap() {
        keys.extend(batch.iter().map(|row| row.position.key.to_string()));
    }
    keys
}

#[tokio::test]
async fn rows_of_the_same_time_are_neither_lost_nor_duplicated_between_pages() {
    let test = TestSource::empty().await;
    let device = Uuid::new_v4();
    // Seven rows at each time, inserted out of order, in pages of three.
    let rows: Vec<_> =
        (0..70).map(|n| (n * 37) % 70).map(|id| Reading { id, device, time_ms: 1_000_000 + id / 7, doc: None }).collect();
    test.add(&rows).await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "page_rows"], 3);
    });
    assert_eq!(source.count(&all_of(device)).await.unwrap(), 70);
    assert_eq!(keys(&source, all_of(device)).await, (0..70).map(|id| test.key(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn rows_inserted_during_a_read_shift_no_page() {
    let test = TestSource::empty().await;
    let device = Uuid::new_v4();
    // A row every ten milliseconds; further rows are inserted between them.
    let before: Vec<_> = (0..1_000).map(|id| Reading { id, device, time_ms: 1_000_000 + id * 10, doc: None }).collect();
    test.add(&before).await;
    let source = open(&test, |overrides| {
        overrides.set(&["iota", "page_rows"], 7);
    });
    let write = async {
        for id in 0..200 {
            test.add(&[Reading { id: 1_000 + id, device, time_ms: 1_000_005 + id * 50, doc: None }]).await;
        }
    };
    let (read, ()) = tokio::join!(keys(&source, all_of(device)), write);
    let kept: Vec<i64> = read.iter().map(|key| key.trim_start_matches('r').parse().unwrap()).filter(|id| *id < 1_000).collect();
    assert_eq!(kept, (0..1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn reading_resumes_after_any_row() {
    let test = TestSource::empty().await;
    let (_, device) = test.add_rows(10).await;
    let source = open(&test, |_| {});
    let mut rows = source.rows(all_of(device));
    let first = rows.next().await.unwrap().unwrap();
    for (n, row) in (1..).zip(&first) {
        let after = Selection { after: Some(row.position.clone()), ..all_of(device) };
        assert_eq!(keys(&source, after).await.len(), 10 - n);
    }
}

#[tokio::test]
async fn both_ends_of_the_range_are_included() {
    let test = TestSource::empty().await;
    let (_, device) = test.add_rows(10).await;
    let source = open(&test, |_| {});
    let time = |second: i64, nanos| chrono::Utc.timestamp_opt(1_547_211_780 + second, nanos).unwrap();
    let within = |from, to| Selection { device, from, to, after: None };
    assert_eq!(keys(&source, within(time(2, 0), time(4, 0))).await, [3, 4, 5].map(|id| test.key(id)));
    assert_eq!(keys(&source, within(time(2, 1), time(4, 999_999_999))).await, [4, 5].map(|id| test.key(id)));
    assert_eq!(source.count(&within(time(2, 1), time(4, 999_999_999))).await.unwrap(), 2);
    assert_eq!(keys(&source, within(time(2, 1), time(2, 2))).await, Vec::<String>::new());
}

#[tokio::test]
async fn invalid_rows_are_quarantined_counted_and_logged() {
    if real("READINGS").is_some() {
        return; // An index finds no row of a document without a device.
    }
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(6).await;
    let stranger = Uuid::new_v4();
    let bad = [
        None,
        Some("[]".to_owned()),
        Some("{}".to_owned()),
        Some(doc(stranger, 1)),
        Some(format!(r#"{{"data": 5, "deviceId": "{device}", "triggerTime": ""}}"#)),
        Some(format!(r#"{{"data": {{"data": []}}, "deviceId": "{device}", "triggerTime": ""}}"#)),
    ];
    let rows: Vec<_> = (100..).zip(bad).map(|(id, doc)| Reading { id, device, time_ms: 1_547_211_780_500 + id, doc }).collect();
    app.source.add(&rows).await;
    let (task, log) = app.publish(thing, &[device]).await;
    let messages: Vec<_> = log.iter().map(message).collect();
    assert!(messages.iter().any(|line| line.ends_with("应变计 has 12 rows to publish")), "{messages:#?}");
    assert!(messages.contains(&format!("iota data published(6 / 12). device: {device}").as_str()), "{messages:#?}");
    let quarantined = messages.iter().find(|line| line.contains("6 rows quarantined")).unwrap();
    for expected in [
        "key 100 at 2019",
        "no document",
        "an array, not an object",
        "lacks deviceId",
        "another device",
        "`data` is a number",
        "`data.data` is an array",
    ] {
        assert!(quarantined.contains(expected), "{expected}: {quarantined}");
    }
    assert!(messages.last().unwrap().contains("6 rows published, 6 quarantined"), "{messages:#?}");
    assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded");

    let kept = app.queue().await.quarantined_rows(data_patch::task::TaskId(task.parse().unwrap())).await.unwrap();
    let keys: Vec<_> = kept.iter().map(|(of, row)| (*of, row.position.key.to_string())).collect();
    assert_eq!(keys, ["100", "101", "102", "103", "104", "105"].map(|key| (device, key.to_owned())));
    assert_eq!(app.topic.read().await.len(), 6);
    app.stop().await;
}

#[tokio::test]
async fn many_quarantined_rows_are_reported_in_batches() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let rows: Vec<_> =
        (10..5_010).map(|id| Reading { id, device, time_ms: 1_600_000_000_000, doc: Some("[]".to_owned()) }).collect();
    app.source.add(&rows).await;
    let (task, log) = app.publish(thing, &[device]).await;
    assert!(message(log.last().unwrap()).contains("1 row published, 5000 quarantined"), "{log:#?}");
    let kept = app.queue().await.quarantined_rows(data_patch::task::TaskId(task.parse().unwrap())).await.unwrap();
    assert_eq!(kept.len(), 5_000);
    app.stop().await;
}

#[tokio::test]
async fn a_document_of_megabytes_is_published_or_quarantined() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(2).await;
    let large = "漢".repeat(1_500_000);
    let large = format!(r#"{{"x": "{large}", "deviceId": "{device}", "triggerTime": "2019-01-11T21:03:00+08:00"}}"#);
    app.source.add(&[Reading { id: 50, device, time_ms: 1_547_211_780_500, doc: Some(large) }]).await;
    let (_, log) = app.publish(thing, &[device]).await;
    // Compressed by lz4, the message is small enough for the broker.
    assert!(message(log.last().unwrap()).contains("3 rows published, 0 quarantined"), "{log:#?}");
    let found: Vec<_> = app.topic.read().await.into_iter().map(|found| found.value).collect();
    assert_eq!(found, app.source.docs(device).await);
    app.stop().await;
}

#[tokio::test]
async fn a_layout_that_does_not_fit_is_named() {
    if real("READINGS").is_some() {
        return; // It is about tables.
    }
    for (sql, option, value, expected) in [
        ("", "table", "readings", "there is no table \"readings\""),
        ("", "doc", "document", "has no column \"document\" (iota.raw.doc)"),
        ("ALTER TABLE raw_data ADD COLUMN size REAL", "time", "size", "column size is of type"),
        ("ALTER TABLE raw_data ADD COLUMN old bigint", "id", "old", "no unique index"),
    ] {
        let test = TestSource::empty().await;
        test.execute(sql).await;
        let source = open(&test, |overrides| {
            overrides.set(&["iota", "raw", option], value);
        });
        let error = source.mapping().await.unwrap_err();
        assert!(matches!(error, SourceError::Mapping(_)) && error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_missing_table_fails_the_device_with_a_reason() {
    if real("READINGS").is_some() {
        return; // It is about tables.
    }
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    let request = Client::request(thing, &[device], &app.topic.name);
    client.submit(&request).await;
    client.log().await;
    app.source.execute("DROP TABLE raw_data").await;
    client.submit(&request).await;
    let log = client.log().await;
    assert!(log.iter().any(|line| message(line).contains("raw_data")), "{log:#?}");
    assert_eq!(log.last().unwrap()["payload"]["state"], "failed");
    app.stop().await;
}

#[tokio::test]
async fn jobs_wait_for_an_unavailable_source() {
    if real("READINGS").is_some() {
        return; // It is about tables.
    }
    // A file that does not exist yet, since a test must not stop the database that others use.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.db");
    let url = format!("sqlite://{}", path.display());
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["iota", "url"], url);
    })
    .await;
    let request = json!({
        "src": "iota", "token": "123456", "topic": app.topic.name, "thingId": data_patch::source::sample::BRIDGE.thing_id,
        "devices": [data_patch::source::sample::LEVEL_06], "from": "2019-01-11 21:03:00", "to": "2019-01-15 14:30:00",
    });
    let mut client = app.client().await;
    client.submit(&request).await;
    let waits = client.next().await;
    assert_eq!(waits["res"], "ok", "an outage is no failure");
    assert!(message(&waits).contains("waits, nothing is lost") && message(&waits).contains("source is unavailable"), "{waits}");
    assert_eq!(app.get("/readyz").await.0, 503);
    let writing = folder.path().join("writing.db");
    data_patch::source::sample_database::write(&writing).await.unwrap();
    std::fs::rename(&writing, &path).unwrap();
    let log = client.log().await;
    assert!(message(log.last().unwrap()).contains("178 rows published"), "{log:#?}");
    eventually("the service is ready", || async { app.get("/readyz").await.0 == 200 }).await;
    app.stop().await;
}

#[tokio::test]
async fn every_layout_of_postgresql_is_read_alike() {
    for (id, key, time, doc_type) in [
        ("uuid", "uuid", "timestamptz", "jsonb"),
        ("text", "text", "timestamp", "json"),
        ("varchar(36)", "int", "bigint", "text"),
    ] {
        let test = TestSource::without_tables().await;
        if !test.is_postgres() {
            return;
        }
        let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
        test.execute(&format!(
            r#"CREATE TABLE "old Devices" (no {id}, label text, bridge {id});
               CREATE TABLE "raw" (row {key} PRIMARY KEY, dev {id}, at {time}, body {doc_type});
               INSERT INTO "old Devices" VALUES ('{device}', NULL, '{thing}');"#
        ))
        .await;
        for n in 1..=3 {
            let key = if key == "int" { n.to_string() } else { format!("'00000000-0000-0000-0000-00000000000{n}'") };
            let time = match time {
                "bigint" => (1_547_211_780_000_i64 + n).to_string(),
                // Local time of Asia/Shanghai, and the same as an instant.
                "timestamp" => format!("'2019-01-11 21:03:00.00{n}'"),
                _ => format!("'2019-01-11 21:03:00.00{n}+08'"),
            };
            let body = doc(device, n);
            test.execute(&format!("INSERT INTO raw VALUES ({key}, '{device}', {time}, '{body}')")).await;
        }
        let source = open(&test, |overrides| {
            for (path, name) in [
                (["iota", "device", "table"], "old Devices"),
                (["iota", "device", "id"], "no"),
                (["iota", "device", "name"], "label"),
                (["iota", "device", "thing"], "bridge"),
                (["iota", "raw", "table"], "raw"),
                (["iota", "raw", "id"], "row"),
                (["iota", "raw", "device"], "dev"),
                (["iota", "raw", "time"], "at"),
                (["iota", "raw", "doc"], "body"),
            ] {
                overrides.set(&path, name);
            }
            overrides.set(&["iota", "page_rows"], 2);
        });
        assert_eq!(source.device(thing, device).await.unwrap().unwrap().name, None);
        assert!(source.device(Uuid::new_v4(), device).await.unwrap().is_none());
        let from = chrono::Utc.timestamp_millis_opt(1_547_211_780_002).unwrap();
        let selection = Selection { from, ..all_of(device) };
        assert_eq!(source.count(&selection).await.unwrap(), 2, "{time}");
        let mut rows = source.rows(selection);
        let mut read = Vec::new();
        while let Some(batch) = rows.next().await.unwrap() {
            read.extend(batch);
        }
        let mapping = source.mapping().await.unwrap();
        let times: Vec<_> = read.iter().map(|row| mapping.time.instant_us(row.position.time_us)).collect();
        assert_eq!(times, [1_547_211_780_002_000, 1_547_211_780_003_000], "{time}");
        // jsonb reorders the fields; other types keep every byte.
        assert_eq!(read[0].doc.as_ref().unwrap().len(), doc(device, 2).len(), "{doc_type}");
        if doc_type != "jsonb" {
            assert_eq!(read[0].doc.as_deref(), Some(doc(device, 2).as_bytes()));
        }
    }
}
