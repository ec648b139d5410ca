//! Layouts of indices in a real Elasticsearch or `OpenSearch`: which are refused, which are read, and
//! what happens when they change on the way.

use chrono::{DateTime, Utc};
use data_patch::{
    config::{self, Overrides},
    source::{Selection, Source, SourceError},
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    elastic::{keys, open_with, page_rows, read, reading, servers, source_on, time, try_read},
    source::all_of,
    support::{
        TestApp,
        elastic::{Document, ask, mapping, row_key, try_ask},
        message,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn times_are_nanoseconds_or_numbers_too() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let device = Uuid::new_v4();
        let from: DateTime<Utc> = "2019-01-11T13:03:00.001Z".parse().unwrap();
        let of_time = |kind: &str| json!({"properties": {"deviceId": {"type": "keyword"}, "triggerTime": {"type": kind}}});
        // A mapping that a version does not know is refused.
        for (kind, has_kind) in [("date_nanos", index.has_nanoseconds().await), ("long", true)] {
            if !has_kind {
                continue;
            }
            let name = format!("{}-{kind}", index.name);
            index.create(&name, &of_time(kind)).await;
            let document = |n: i64| {
                let time = if kind == "long" {
                    (1_547_211_780_000 + n).to_string()
                } else {
                    format!("\"2019-01-11T13:03:00.00{n}00000{}Z\"", 9 - n)
                };
                Document { id: row_key(n), text: format!(r#"{{"deviceId":"{device}","triggerTime":{time}}}"#) }
            };
            index.index_into(&name, &(0..9).map(document).collect::<Vec<_>>()).await;
            let source = open_with(&tables, page_rows(2), &format!("{server}/{name}"));
            let selection = Selection { from, ..all_of(device) };
            assert_eq!(source.count(&selection).await.unwrap(), 8, "{server}: {kind}");
            assert_eq!(keys(&read(&source, selection).await), (1..9).map(row_key).collect::<Vec<_>>(), "{server}: {kind}");
        }
        // Milliseconds in one index, nanoseconds in the other.
        if index.has_nanoseconds().await {
            index.index(&[reading("m", device, "2019-01-11T13:03:00.003Z", 1)]).await;
            let both = format!("{server}/{0},{0}-date_nanos", index.name);
            let selection = Selection { from, ..all_of(device) };
            let expected = [row_key(1), row_key(2), "m".to_owned()];
            assert_eq!(keys(&read(&open_with(&tables, page_rows(2), &both), selection).await)[..3], expected, "{server}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_with_the_remedy() {
    let device_and_time = |device: Value, time: Value| json!({"properties": {"deviceId": device, "triggerTime": time}});
    let (keyword, date) = (json!({"type": "keyword"}), json!({"type": "date"}));
    let cases = [
        (device_and_time(json!({"type": "text"}), date.clone()), "must be a keyword"),
        (device_and_time(json!({"type": "keyword", "ignore_above": 20}), date.clone()), "at least 36 characters"),
        (device_and_time(keyword.clone(), json!({"type": "keyword"})), "must be date"),
        (device_and_time(keyword.clone(), json!({"type": "date", "doc_values": false})), "can't be searched or sorted"),
        (json!({"_source": {"enabled": false}, "properties": mapping()}), "stores no documents"),
        (json!({"_source": {"excludes": ["data.*"]}, "properties": mapping()}), "stores parts of its documents"),
        (json!({"properties": {"deviceId": {"type": "keyword"}}}), "has no field triggerTime"),
    ];
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        for (n, (mappings, problem)) in cases.iter().enumerate() {
            let name = format!("{}-{n}", index.name);
            index.create(&name, mappings).await;
            let error = open_with(&tables, |_| {}, &format!("{server}/{name}")).mapping().await.unwrap_err();
            assert!(matches!(&error, SourceError::Mapping(text) if text.contains(problem)), "{server}: {problem}: {error}");
        }
        let name = format!("{}-nested", index.name);
        let nested = json!({"type": "nested", "properties": {"id": {"type": "keyword"}}});
        index.create(&name, &json!({"properties": {"meta": nested, "triggerTime": {"type": "date"}}})).await;
        let of_nested = |overrides: &mut Overrides| {
            overrides.set(&["iota", "readings", "device"], "meta.id");
        };
        let error = open_with(&tables, of_nested, &format!("{server}/{name}")).mapping().await.unwrap_err();
        assert!(
            matches!(&error, SourceError::Mapping(text) if text.contains("is in meta, which is nested")),
            "{server}: {error}"
        );
        let error = open_with(&tables, |_| {}, &format!("{server}/no-{}", index.name)).mapping().await.unwrap_err();
        assert!(matches!(&error, SourceError::Mapping(text) if text.contains("no such index")), "{server}: {error}");
        let error = open_with(&tables, |_| {}, &format!("{server}/no-{}*", index.name)).mapping().await.unwrap_err();
        assert!(matches!(&error, SourceError::Mapping(_)), "{server}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_no_search_can_find_are_told_of() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let (empty, full) = (format!("{}-empty", index.name), format!("{}-full", index.name));
        for name in [&empty, &full] {
            index.create(name, &json!({"dynamic": false, "properties": {"other": {"type": "keyword"}}})).await;
        }
        index.index_into(&full, &[reading("a", Uuid::new_v4(), &time(1_547_211_780_000), 1)]).await;
        let mapping = open_with(&tables, |_| {}, &format!("{server}/{}*", index.name)).mapping().await.unwrap();
        let expected = format!("index {full} has 1 documents, and neither");
        assert!(matches!(mapping.warnings.as_slice(), [only] if only.contains(&expected)), "{server}: {:?}", mapping.warnings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_field_is_searched_by_its_keyword() {
    for server in servers() {
        let properties = json!({"deviceId": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}, "triggerTime": {"type": "date"}});
        let (tables, index) = source_on(&server, &properties).await;
        let (device, other) = (Uuid::new_v4(), Uuid::new_v4());
        index.index(&[reading("a", device, &time(1_547_211_780_000), 1), reading("b", other, &time(1_547_211_780_000), 1)]).await;
        let source = open_with(&tables, |_| {}, &index.url());
        assert_eq!(source.count(&all_of(device)).await.unwrap(), 1, "{server}");
        assert_eq!(keys(&read(&source, all_of(device)).await), ["a"], "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_rolled_over_on_the_way_is_read_to_its_end() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let device = Uuid::new_v4();
        // So large that they cannot be read ahead.
        let document = |n: i64| {
            let (padding, time) = ("x".repeat(2_000), time(1_547_211_780_000 + n * 1_000));
            let text = format!(r#"{{"data":{{"v":"{padding}"}},"deviceId":"{device}","triggerTime":"{time}"}}"#);
            Document { id: row_key(n), text }
        };
        index.index(&(0..3_000).map(document).collect::<Vec<_>>()).await;
        let source = open_with(&tables, page_rows(100), &format!("{}/{}*", index.server, index.name));
        let mut rows = source.rows(all_of(device));
        let mut keys = Vec::new();
        let mut rolled_over = false;
        while let Some(batch) = rows.next().await.unwrap() {
            keys.extend(batch.iter().map(|row| row.position.key.to_string()));
            if !rolled_over {
                rolled_over = true;
                let second = format!("{}-2", index.name);
                index.create(&second, &json!({"properties": mapping()})).await;
                index.index_into(&second, &(3_000..3_500).map(document).collect::<Vec<_>>()).await;
            }
        }
        assert_eq!(keys, (0..3_500).map(row_key).collect::<Vec<_>>(), "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_deleted_on_the_way_is_an_error() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let second = format!("{}-2", index.name);
        index.create(&second, &json!({"properties": mapping()})).await;
        let device = Uuid::new_v4();
        let document = |n: i64| reading(&row_key(n), device, &time(1_547_211_780_000 + n * 1_000), n);
        index.index_into(&second, &(0..20_000).map(document).collect::<Vec<_>>()).await;
        let source = open_with(&tables, page_rows(100), &format!("{}/{second}", index.server));
        let mut rows = source.rows(all_of(device));
        assert!(rows.next().await.unwrap().is_some());
        ask(&server, Method::DELETE, &format!("/{second}"), None).await;
        loop {
            match rows.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{server}: an index that is gone was read to its end"),
                Err(_) => break,
            }
        }
        let error = try_read(&source, all_of(device)).await.unwrap_err();
        assert!(error.to_string().contains("no such index"), "{server}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_ends_now_waits_for_what_is_indexed_already() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let thing = Uuid::new_v4();
        let device = Uuid::new_v4();
        tables.add_device(thing, device, "应变计").await;
        let now = Utc::now();
        let document = reading("late", device, &time(now.timestamp_millis()), 1);
        // Indexed, and not to be found before the next refresh.
        let of_type = if index.is_typed().await { "doc" } else { "_doc" };
        let path = format!("/{}/{of_type}/late", index.name);
        ask(&server, Method::PUT, &path, Some(document.text)).await;
        let mut overrides = Overrides::default();
        tables.configure(&mut overrides);
        overrides.set(&["iota", "readings", "url"], index.url()).set(&["iota", "readings", "settle_seconds"], 2);
        let source = Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap();
        let mut opened = source.open(thing, Selection { to: now, ..all_of(device) });
        assert!(opened.device().await.unwrap().is_some());
        ask(&server, Method::POST, &format!("/{}/_refresh", index.name), None).await;
        let first = opened.rows.next().await.unwrap();
        assert_eq!(first.map(|rows| keys(&rows)), Some(vec!["late".to_owned()]), "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_no_json_is_quarantined_and_the_others_are_published() {
    for server in servers() {
        let (tables, index) = source_on(&server, &mapping()).await;
        let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
        tables.add_device(thing, device, "应变计").await;
        let of_type = if index.is_typed().await { "doc" } else { "_doc" };
        let good = |n: i64| crate::support::elastic::text(device, 1_547_211_780_000 + n, Some(&crate::support::doc(device, n)));
        for (id, text) in [("a", good(0)), ("c", good(2))] {
            ask(&server, Method::PUT, &format!("/{}/{of_type}/{id}", index.name), Some(text)).await;
        }
        let commented = good(1).replacen('{', "{ /* a \"comment\" } */ ", 1);
        let (status, _) = try_ask(&server, Method::PUT, &format!("/{}/{of_type}/b", index.name), Some(commented)).await;
        ask(&server, Method::POST, &format!("/{}/_refresh", index.name), None).await;
        let app = TestApp::start(tables).await;
        let (_, log) = app.publish(thing, &[device]).await;
        let last = message(log.last().unwrap()).to_owned();
        // Some versions refuse such a document.
        let expected = if status < 300 { "1 quarantined" } else { "2" };
        assert!(last.contains(expected), "{server}: {last}");
        assert_eq!(app.topic.read().await.len(), 2, "{server}");
    }
}
