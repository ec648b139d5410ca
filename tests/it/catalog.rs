//! Things and devices to choose from: searched by name or id, in pages, from the source's tables.

use data_patch::config::Overrides;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{TestApp, TestSource};

/// The type of ids in the test's tables.
fn id_type(source: &TestSource) -> &'static str {
    if source.is_postgres() { "uuid" } else { "text" }
}

async fn add_things(source: &TestSource, things: &[(Uuid, &str)]) {
    source.execute(&format!("CREATE TABLE \"Thing\" (id {} PRIMARY KEY, name text)", id_type(source))).await;
    for (thing, name) in things {
        source.execute(&format!("INSERT INTO \"Thing\" VALUES ('{thing}', '{name}')")).await;
    }
}

fn with_things(overrides: &mut Overrides) {
    overrides.set(&["iota", "thing", "table"], "Thing");
}

/// All items of a list, read in pages of `limit`.
async fn all(app: &TestApp, path: &str, limit: usize) -> Vec<Value> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app.call("GET", &format!("{path}{separator}limit={limit}{cursor}"), &Value::Null).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let part = page["items"].as_array().unwrap();
        assert!(part.len() <= limit);
        items.extend(part.iter().cloned());
        match page["next"].as_str() {
            None => return items,
            Some(next) => cursor = format!("&cursor={next}"),
        }
    }
}

fn names(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["name"].as_str().unwrap_or("-")).collect()
}

#[tokio::test]
async fn things_and_devices_are_listed_by_name_and_searched() {
    let source = TestSource::sample().await;
    let (bridge, dam) = (data_patch::source::sample::BRIDGE.thing_id, data_patch::source::sample::DAM.thing_id);
    add_things(&source, &[(bridge, "Bridge 100%"), (Uuid::new_v4(), "without devices")]).await;
    let app = TestApp::start_with(source, with_things).await;

    let things = all(&app, "/things", 1).await;
    assert_eq!(
        things,
        [json!({"thingId": dam, "name": null, "devices": 11}), json!({"thingId": bridge, "name": "Bridge 100%", "devices": 7})]
    );
    for (searched, expected) in [("bridge", 1), ("100%25", 1), ("00%25%25", 0), ("_", 0), (&dam.to_string()[..7], 1), ("zzz", 0)]
    {
        assert_eq!(all(&app, &format!("/things?q={searched}"), 500).await.len(), expected, "{searched}");
    }

    let devices = all(&app, &format!("/things/{bridge}/devices"), 3).await;
    let listed = names(&devices);
    assert_eq!((listed.len(), listed[0], listed[6]), (7, "静力水准仪01", "静力水准仪07"), "{listed:?}");
    assert_eq!(devices, all(&app, &format!("/things/{bridge}/devices"), 500).await);
    let found = all(&app, &format!("/things/{bridge}/devices?q=%E4%BB%AA06"), 500).await;
    assert_eq!(found, [json!({"deviceId": data_patch::source::sample::LEVEL_06, "name": "静力水准仪06"})]);
    assert!(all(&app, &format!("/things/{}/devices", Uuid::new_v4()), 500).await.is_empty());
    app.stop().await;
}

#[tokio::test]
async fn every_device_is_listed_once_also_with_names_that_repeat_or_are_missing() {
    let source = TestSource::empty().await;
    let thing = Uuid::new_v4();
    let mut devices = Vec::new();
    for n in 0..1_200 {
        let name = if n % 3 == 0 { "NULL".to_owned() } else { format!("'{}{}'", "长".repeat(150), n % 7) };
        let device = Uuid::new_v4();
        devices.push(device.to_string());
        let insert = format!("INSERT INTO \"Device\" (id, name, \"thingId\") VALUES ('{device}', {name}, '{thing}');");
        source.execute(&insert).await;
    }
    let app = TestApp::start(source).await;
    for limit in [500, 7] {
        let listed = all(&app, &format!("/things/{thing}/devices"), limit).await;
        let mut ids: Vec<_> = listed.iter().map(|item| item["deviceId"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        devices.sort();
        assert_eq!(ids, devices, "{limit}");
    }
    assert_eq!(all(&app, "/things", 50).await, [json!({"thingId": thing, "name": null, "devices": 1_200})]);
    app.stop().await;
}

#[tokio::test]
async fn hostile_parameters_are_refused_or_searched_for_as_they_are() {
    let source = TestSource::empty().await;
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    source.add_device(thing, device, "it''s a \\ level").await;
    let app = TestApp::start(source).await;
    for (query, field) in [
        ("q=%00".to_owned(), "q"),
        (format!("q={}", "x".repeat(101)), "q"),
        ("q=a&q=b".to_owned(), "q"),
        ("cursor=x".to_owned(), "cursor"),
        ("cursor=WyJcdTAwMDAiLCIiXQ".to_owned(), "cursor"),
        ("limit=0".to_owned(), "limit"),
        ("limit=501".to_owned(), "limit"),
        ("name=x".to_owned(), "name"),
    ] {
        let answer = app.call("GET", &format!("/things/{thing}/devices?{query}"), &Value::Null).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (400, Some(field)), "{answer:?}");
    }
    let answer = app.call("GET", "/things/x/devices", &Value::Null).await;
    assert_eq!((answer.status, answer.json()["field"].as_str()), (400, Some("thingId")));
    for (searched, expected) in
        [("it%27s", 1), ("%5C", 1), ("%27%20OR%201=1--", 0), ("%5C%27", 0), ("!", 0), ("%25", 0), ("_", 0), ("S%20A", 1)]
    {
        let found = all(&app, &format!("/things/{thing}/devices?q={searched}"), 50).await;
        assert_eq!(found.len(), expected, "{searched}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_table_of_things_that_is_missing_costs_the_names_only() {
    let source = TestSource::empty().await;
    let (thing, device) = source.add_rows(3).await;
    let app = TestApp::start_with(source, with_things).await;
    assert_eq!(all(&app, "/things", 50).await, [json!({"thingId": thing, "name": null, "devices": 1})]);
    let (_, log) = app.publish(thing, &[device]).await;
    assert!(log.last().unwrap().to_string().contains("task finished: 1 of 1 device"), "{log:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_source_that_is_away_is_said() {
    let source = TestSource::empty().await;
    source.add_rows(1).await;
    let app = TestApp::start_with(source, |overrides| {
        overrides.set(&["iota", "timeout_seconds"], 1);
    })
    .await;
    let lock = app.source.lock().await;
    let answer = app.call("GET", "/things", &Value::Null).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("source_unavailable")), "{answer:?}");
    lock.release().await;
    assert_eq!(all(&app, "/things", 50).await.len(), 1);
    app.stop().await;
}
