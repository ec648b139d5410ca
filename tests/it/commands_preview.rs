//! The commands that choose devices, preview a request, and ask before it is submitted.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use uuid::Uuid;

use crate::{
    commands::{open_terminal, read_until},
    commands_api::{command, run},
    support::{TIMEOUT, TestApp, TestSource},
};

const RANGE: [&str; 4] = ["--from", "2019-01-11 21:03:00", "--to", "2019-01-11 21:13:00"];

/// A thing with two devices, of 30 and of 12 rows.
async fn two_devices(app: &TestApp) -> (String, [Uuid; 2]) {
    let (thing, first) = app.source.add_rows(30).await;
    (thing.to_string(), [first, app.source.add_device_with_rows(thing, 1_000, 12).await])
}

#[tokio::test]
async fn things_and_devices_are_listed() {
    let app = TestApp::start(TestSource::sample().await).await;
    let bridge = data_patch::source::sample::BRIDGE.thing_id.to_string();
    let things = run(&app, &["things"]).await;
    assert_eq!((things.code, things.out.lines().count(), things.err.as_str()), (Some(0), 4, ""), "{things:?}");
    assert!(things.out.contains(&bridge), "{things:?}");
    assert_eq!(run(&app, &["things", &bridge[..8], "--quiet"]).await.out, format!("{bridge}\n"));
    let devices = run(&app, &["devices", &bridge, "仪06", "--json"]).await.json();
    assert_eq!(devices, json!([{"deviceId": data_patch::source::sample::LEVEL_06, "name": "静力水准仪06"}]));
    let some = run(&app, &["devices", &bridge, "--limit", "2"]).await;
    assert!(some.out.contains("静力水准仪02") && !some.out.contains("静力水准仪03"), "{some:?}");
    assert!(some.err.contains("there are more"), "{some:?}");
    let none = run(&app, &["devices", &bridge, "no such name"]).await;
    assert_eq!((none.code, none.out.as_str()), (Some(0), ""), "{none:?}");
    assert!(none.err.contains("no device"), "{none:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_preview_is_a_table_or_json_lines() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, [first, second]) = two_devices(&app).await;
    let previewed = run(&app, &[&["preview", &thing, "--all", "--rate", "21"][..], &RANGE].concat()).await;
    assert_eq!((previewed.code, previewed.err.as_str()), (Some(0), ""), "{previewed:?}");
    for expected in [first.to_string().as_str(), "30  2019-01-11T13:03:00Z", "2 devices, 42 rows, about", "about 2 seconds"] {
        assert!(previewed.out.contains(expected), "{expected}: {previewed:?}");
    }
    assert!(!previewed.out.contains('\u{1b}'), "no colours without a terminal");
    let second = second.to_string();
    let missing = Uuid::new_v4().to_string();
    let lines = run(&app, &[&["preview", &thing, &second, &missing, "--json"][..], &RANGE].concat()).await;
    assert_eq!(lines.code, Some(1), "a device is missing: {lines:?}");
    let lines: Vec<Value> = lines.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["rows"].as_u64().unwrap())).collect();
    assert_eq!(seen, [("device", 12), ("device", 0), ("summary", 12)]);
    assert_eq!(run(&app, &[&["preview", &thing, &second, "--quiet"][..], &RANGE].concat()).await.out, "12\n");
    let refused = run(&app, &["preview", &thing, &second, "--from", "2019-01-12", "--to", "2019"]).await;
    assert!(refused.code == Some(4) && refused.err.contains("invalid_field"), "{refused:?}");
    assert_eq!(run(&app, &["tasks", "--quiet"]).await.out, "", "nothing was submitted");
    app.stop().await;
}

#[tokio::test]
async fn all_devices_of_a_thing_are_submitted() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, _) = two_devices(&app).await;
    let submitted = run(&app, &[&["submit", &thing, "--all", "--topic", &app.topic.name][..], &RANGE].concat()).await;
    assert_eq!((submitted.code, submitted.err.as_str()), (Some(0), ""), "without a terminal nobody is asked: {submitted:?}");
    assert!(submitted.out.contains("2 of 2 devices") && submitted.out.contains("42 rows published"), "{submitted:?}");
    let unknown = Uuid::new_v4().to_string();
    let none = run(&app, &[&["submit", &unknown, "--all"][..], &RANGE].concat()).await;
    assert!(none.code == Some(2) && none.err.contains("has no devices"), "{none:?}");
    app.stop().await;
}

#[tokio::test]
async fn on_a_terminal_a_submit_shows_a_preview_and_asks() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, [device, _]) = two_devices(&app).await;
    let device = device.to_string();
    let args = [&["submit", &thing, &device, "--topic", &app.topic.name][..], &RANGE].concat();
    for (answer, code, tasks) in [("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, 1)] {
        let (mut terminal, side, _) = open_terminal();
        let mut submit = command(&app.http, &args);
        submit.env("TERM", "xterm-256color").stdin(side.try_clone().unwrap()).stdout(side.try_clone().unwrap()).stderr(side);
        let mut submit = submit.spawn().unwrap();
        let shown = read_until(&mut terminal, "[y/N]").await;
        for expected in ["应变计", "█", "1 device, 30 rows", &format!("publish to {}?", app.topic.name)] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        terminal.write_all(answer.as_bytes()).await.unwrap();
        tokio::spawn(async move { tokio::io::copy(&mut terminal, &mut tokio::io::sink()).await });
        let status = tokio::time::timeout(TIMEOUT, submit.wait()).await.expect("it does not end").unwrap();
        assert_eq!(status.code(), Some(code), "{answer:?}");
        assert_eq!(run(&app, &["tasks", "--quiet"]).await.out.lines().count(), tasks, "{answer:?}");
    }
    // The second time the first one overlaps.
    let (mut terminal, side, _) = open_terminal();
    let mut preview = command(&app.http, &[&["preview"][..], &args[1..]].concat());
    preview.env("TERM", "xterm-256color").stdin(Stdio::null()).stdout(side.try_clone().unwrap()).stderr(side);
    let mut preview = preview.spawn().unwrap();
    let shown = read_until(&mut terminal, "overlaps task ").await;
    assert!(shown.contains("应变计"), "{shown}");
    tokio::time::timeout(TIMEOUT, preview.wait()).await.expect("it does not end").unwrap();

    let (mut terminal, side, _) = open_terminal();
    let mut submit = command(&app.http, &[&args[..], &["--yes"]].concat());
    submit.env("TERM", "xterm-256color").stdin(side.try_clone().unwrap()).stdout(side.try_clone().unwrap()).stderr(side);
    let mut submit = submit.spawn().unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut terminal, &mut tokio::io::sink()).await });
    let status = tokio::time::timeout(TIMEOUT, submit.wait()).await.expect("it asks").unwrap();
    assert_eq!(status.code(), Some(0));
    app.stop().await;
}
