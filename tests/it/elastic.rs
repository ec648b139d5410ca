//! Readings in a real Elasticsearch or `OpenSearch`: no row is lost or repeated, whatever the store
//! does, and each document arrives as it was indexed. Every test runs on each server that is there.

use chrono::{DateTime, Utc};
use data_patch::{
    config::{self, Overrides},
    source::{Row, Selection, Source, SourceError},
    task::Position,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    source::all_of,
    support::{
        ElasticIndex, TestSource,
        elastic::{Document, ask, mapping, row_key},
        real,
    },
};

/// The servers to test with.
pub fn servers() -> Vec<String> {
    let all = real("ELASTIC_ALL").unwrap_or_default();
    let mut servers: Vec<_> = all.split_whitespace().filter_map(|entry| Some(entry.split_once('=')?.1.to_owned())).collect();
    if servers.is_empty() {
        servers.extend(["OPENSEARCH", "ELASTICSEARCH"].into_iter().filter_map(real));
    }
    servers
}

/// A source with the tables of things and devices, and an empty index.
pub async fn source_on(server: &str, properties: &Value) -> (TestSource, ElasticIndex) {
    let index = ElasticIndex::with_mapping(server, properties).await;
    (TestSource::with_index(&index).await, index)
}

pub fn reading(id: &str, device: Uuid, time: &str, value: i64) -> Document {
    let text = format!(r#"{{ "data" : {{"v": {value}}}, "deviceId": "{device}","triggerTime":"{time}" }}"#);
    Document { id: id.to_owned(), text }
}

pub fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

pub async fn read(source: &Source, selection: Selection) -> Vec<Row> {
    try_read(source, selection).await.unwrap()
}

pub async fn try_read(source: &Source, selection: Selection) -> Result<Vec<Row>, SourceError> {
    let (mut rows, mut all) = (source.rows(selection), Vec::new());
    while let Some(batch) = rows.next().await? {
        all.extend(batch);
    }
    Ok(all)
}

pub fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.position.key.to_string()).collect()
}

fn texts(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| String::from_utf8(row.doc.as_ref().unwrap().to_vec()).unwrap()).collect()
}

pub fn page_rows(rows: u32) -> impl FnOnce(&mut Overrides) {
    move |overrides| {
        overrides.set(&["iota", "page_rows"], rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_equal_times_are_neither_lost_nor_repeated_nor_reordered() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let second = format!("{}-2", index.name);
        index.create(&second, &json!({"properties": mapping()})).await;
        let device = Uuid::new_v4();
        // 7,000 of 12,000 in one millisecond, in two indices of two shards.
        let start = 1_547_211_780_000;
        let ms = |n: i64| if (2_000..9_000).contains(&n) { start + 5_000 } else { start + n };
        let document = |n: i64| reading(&row_key((n * 7_919) % 12_000), device, &time(ms(n)), n);
        let all: Vec<_> = (0..12_000).map(document).collect();
        index.index(&all[..5_500]).await;
        index.index_into(&second, &all[5_500..]).await;
        let mut expected: Vec<_> = (0..12_000).map(|n| (ms(n), row_key((n * 7_919) % 12_000))).collect();
        expected.sort();
        let expected: Vec<_> = expected.into_iter().map(|(_, key)| key).collect();

        for rows in [100, 999, 10_000] {
            let source = open_with(&tables, page_rows(rows), &format!("{}/{}*", index.server, index.name));
            assert_eq!(source.count(&all_of(device)).await.unwrap(), 12_000, "{server}");
            let read_rows = read(&source, all_of(device)).await;
            assert_eq!(keys(&read_rows), expected, "{server}, pages of {rows}");
            // Inside of the equal times, at their edges, and outside.
            for n in [0, 1_999, 2_000, 2_001, 5_555, 8_998, 8_999, 9_000, 11_999] {
                let after = Selection { after: Some(read_rows[n].position.clone()), ..all_of(device) };
                assert_eq!(keys(&read(&source, after).await), expected[n + 1..], "{server}, pages of {rows}, after {n}");
            }
        }
    }
}

/// A source that reads from this URL, with the tables of `tables`.
pub fn open_with(tables: &TestSource, tweak: impl FnOnce(&mut Overrides), url: &str) -> Source {
    let mut overrides = Overrides::default();
    tables.configure(&mut overrides);
    overrides.set(&["iota", "readings", "url"], url);
    tweak(&mut overrides);
    Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_arrive_byte_for_byte() {
    for server in servers() {
        let (tables, index) = source_on(
            &server,
            &json!({"deviceId": {"type": "keyword"}, "triggerTime": {"type": "date"}, "x": {"type": "object", "enabled": false}}),
        )
        .await;
        let device = Uuid::new_v4();
        let values = [
            "1.0",
            "1e3",
            "-0.0",
            r#""\u00e9\u0041""#,
            "123456789012345678901234567890",
            r#"{"b":1,"a":2}"#,
            "[ 1,2 , 3]",
            r#""水位""#,
        ];
        let documents: Vec<_> = (0..)
            .zip(values)
            .map(|(n, value)| {
                let time = time(1_547_211_780_000 + n);
                let text =
                    format!("{{\"z\":1 ,  \"x\" :{{\"v\":{value}}}, \"deviceId\":\"{device}\", \"triggerTime\":\"{time}\"}}");
                Document { id: row_key(n), text }
            })
            .collect();
        index.index(&documents).await;
        let source = open_with(&tables, |_| {}, &index.url());
        let expected: Vec<_> = documents.iter().map(|document| document.text.clone()).collect();
        assert_eq!(texts(&read(&source, all_of(device)).await), expected, "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_below_a_millisecond_decide_range_and_order() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let device = Uuid::new_v4();
        let fractions = ["123456789", "123456", "123", "1234", "123456788", "124"];
        let documents: Vec<_> =
            fractions.iter().map(|fraction| reading(fraction, device, &format!("2019-01-11T13:03:00.{fraction}Z"), 1)).collect();
        index.index(&documents).await;
        let source = open_with(&tables, |_| {}, &index.url());
        let expected = ["123", "1234", "123456", "123456788", "123456789", "124"];
        assert_eq!(keys(&read(&source, all_of(device)).await), expected, "{server}");
        let instant = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let (from, to) = (instant("2019-01-11T13:03:00.1234Z"), instant("2019-01-11T13:03:00.123456788Z"));
        let narrow = Selection { from, to, ..all_of(device) };
        assert_eq!(keys(&read(&source, narrow).await), ["1234", "123456", "123456788"], "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_after_a_row_that_was_deleted_loses_none() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let device = Uuid::new_v4();
        let ms = 1_547_211_780_000;
        index.index(&["a", "b", "c"].map(|id| reading(id, device, &time(ms), 1))).await;
        let source = open_with(&tables, |_| {}, &index.url());
        let after = |key: &str| Selection { after: Some(Position { time_us: ms * 1_000, key: key.into() }), ..all_of(device) };
        assert_eq!(keys(&read(&source, after("b")).await), ["c"], "{server}");
        let of_type = if index.is_typed().await { "doc" } else { "_doc" };
        ask(&server, Method::DELETE, &format!("/{}/{of_type}/b?refresh=true", index.name), None).await;
        assert_eq!(keys(&read(&source, after("b")).await), ["a", "c"], "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_opened_together_get_their_own_rows() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let thing = Uuid::new_v4();
        let devices: Vec<_> = (0..40).map(|_| Uuid::new_v4()).collect();
        let mut documents = Vec::new();
        for (n, device) in (0..).zip(&devices) {
            tables.add_device(thing, *device, "应变计").await;
            // All have rows at the same times, and some have many.
            for row in 0..(if n % 10 == 0 { 900 } else { n }) {
                documents.push(reading(&row_key(n * 1_000 + row), *device, &time(1_547_211_780_000 + row * 1_000), row));
            }
        }
        index.index(&documents).await;
        let source = open_with(&tables, page_rows(500), &index.url());
        let opened: Vec<_> = devices.iter().map(|device| source.open(thing, all_of(*device))).collect();
        let reading = (0..).zip(opened).map(|(n, mut opened)| async move {
            assert!(opened.device().await.unwrap().is_some());
            let mut keys = Vec::new();
            while let Some(batch) = opened.rows.next().await.unwrap() {
                keys.extend(batch.iter().map(|row| row.position.key.to_string()));
            }
            let expected: Vec<_> = (0..(if n % 10 == 0 { 900 } else { n })).map(|row| row_key(n * 1_000 + row)).collect();
            assert_eq!(keys, expected, "device {n}");
        });
        futures_util::future::join_all(reading).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_consumed_stops_no_other() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let thing = Uuid::new_v4();
        let devices = [Uuid::new_v4(), Uuid::new_v4()];
        for (n, device) in (0..).zip(devices) {
            tables.add_device(thing, device, "应变计").await;
            let text = |row: i64| {
                let padding = "x".repeat(1_000);
                let time = time(1_547_211_780_000 + row * 1_000);
                format!(r#"{{"data":"{padding}","deviceId":"{device}","triggerTime":"{time}"}}"#)
            };
            let rows: Vec<_> = (0..4_000).map(|row| Document { id: row_key(n * 10_000 + row), text: text(row) }).collect();
            index.index(&rows).await;
        }
        let source = open_with(&tables, page_rows(1_000), &index.url());
        let [mut idle, mut busy] = devices.map(|device| source.open(thing, all_of(device)));
        assert!(idle.device().await.unwrap().is_some());
        let mut rows = 0;
        while let Some(batch) = busy.rows.next().await.unwrap() {
            rows += batch.len();
        }
        assert_eq!(rows, 4_000, "{server}");
        // The idle one loses none either.
        let mut keys = Vec::new();
        while let Some(batch) = idle.rows.next().await.unwrap() {
            keys.extend(batch.iter().map(|row| row.position.key.to_string()));
        }
        assert_eq!(keys, (0..4_000).map(row_key).collect::<Vec<_>>(), "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_twenty_megabytes_is_read() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let device = Uuid::new_v4();
        let text = |bytes: usize, n: i64| {
            let (padding, time) = ("x".repeat(bytes), time(1_547_211_780_000 + n));
            format!(r#"{{"data":{{"v":"{padding}"}},"deviceId":"{device}","triggerTime":"{time}"}}"#)
        };
        for (n, bytes) in (0..).zip([10, 20_000_000, 3_000_000, 3_000_000, 10, 10]) {
            index.index(&[Document { id: row_key(n), text: text(bytes, n) }]).await;
        }
        let source = open_with(&tables, |_| {}, &index.url());
        let rows = read(&source, all_of(device)).await;
        assert_eq!(keys(&rows), (0..6).map(row_key).collect::<Vec<_>>(), "{server}");
        assert!(rows[1].doc.as_ref().unwrap().len() > 20_000_000, "{server}");
    }
}
