//! The commands that speak to a service, run as by a shell against a real one.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
};
use uuid::Uuid;

use crate::{
    commands::{open_terminal, read_until},
    support::{TIMEOUT, TOKEN, TestApp, TestSource, program},
};

const RANGE: [&str; 4] = ["--from", "2019-01-11 21:03:00", "--to", "2019-01-15 14:30:00"];

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub fn command(address: &str, args: &[&str]) -> Command {
    let mut command = program();
    command.args(args).env("DATA_PATCH_URL", format!("http://{address}")).env("DATA_PATCH_TOKEN", TOKEN).env("LC_ALL", "C");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub async fn ended(child: Child) -> Ran {
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.expect("it does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub async fn run(app: &TestApp, args: &[&str]) -> Ran {
    ended(command(&app.http, args).spawn().unwrap()).await
}

/// A task that runs until it is cancelled: a row a second.
pub async fn endless(app: &TestApp) -> String {
    let (thing, device) = app.source.add_rows(1_000).await;
    let (thing, device) = (thing.to_string(), device.to_string());
    let args =
        [&["submit", &thing, &device, "--topic", &app.topic.name, "--rate", "1", "--detach", "--quiet"][..], &RANGE].concat();
    let submitted = run(app, &args).await;
    assert_eq!((submitted.code, submitted.err.as_str()), (Some(0), ""), "{submitted:?}");
    submitted.out.trim().to_owned()
}

#[tokio::test]
async fn a_submitted_task_is_watched_listed_and_shown() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let (thing, device) = (thing.to_string(), device.to_string());
    let submit = [&["submit", &thing, &device, "--topic", &app.topic.name, "--reason", "ticket 4711"][..], &RANGE].concat();
    let submitted = run(&app, &submit).await;
    assert_eq!((submitted.code, submitted.err.as_str()), (Some(0), ""), "{submitted:?}");
    assert!(submitted.out.contains("published(30 / 30)"), "{submitted:?}");
    let task = submitted.out.strip_prefix("task ").and_then(|rest| rest.get(..36)).expect("the task's id").to_owned();

    let listed = run(&app, &["tasks", "--state", "succeeded", "--since", "1 hour ago"]).await;
    let line = listed.out.lines().find(|line| line.starts_with(&task)).unwrap_or_else(|| panic!("{listed:?}"));
    assert!(line.contains("succeeded") && line.contains("1/1") && line.ends_with("ticket 4711"), "{line}");
    let listed = run(&app, &["tasks", "--thing", &thing, "--json"]).await.json();
    assert_eq!((&listed[0]["taskId"], listed.as_array().map(Vec::len)), (&json!(task), Some(1)));
    assert_eq!(run(&app, &["tasks", "--until", "1 hour ago", "--quiet"]).await.out, "", "it is newer");

    let shown = run(&app, &["show", &task]).await;
    for expected in ["ticket 4711", "30 published, 0 quarantined, 30 counted", &device] {
        assert!(shown.out.contains(expected), "{expected}: {shown:?}");
    }
    assert_eq!(run(&app, &["show", &task, "--quiet"]).await.out, "succeeded\n");
    let shown = run(&app, &["show", &task, "--json"]).await.json();
    assert_eq!((&shown["state"], &shown["jobs"][0]["published"]), (&json!("succeeded"), &json!(30)), "{shown}");
    assert!(!listed.to_string().contains('\u{1b}'), "no colours without a terminal");
    app.stop().await;
}

#[tokio::test]
async fn json_is_the_task_and_its_entries() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let (thing, device) = (thing.to_string(), device.to_string());
    let submitted = run(&app, &[&["submit", &thing, &device, "--topic", &app.topic.name, "--json"][..], &RANGE].concat()).await;
    let lines: Vec<Value> = submitted.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (task, entries) = lines.split_first().unwrap();
    assert_eq!(entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3], "{submitted:?}");
    assert_eq!((&entries[0]["event"]["kind"], &entries[2]["state"]), (&json!("counted"), &json!("succeeded")));
    let task = task["taskId"].as_str().unwrap();
    let rest = run(&app, &["watch", task, "--after", "2", "--json"]).await;
    assert_eq!((rest.code, rest.json()), (Some(0), entries[2].clone()));
    let nothing = run(&app, &["watch", task, "--after", "3"]).await;
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(0), ""), "{nothing:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_task_that_fails_ends_with_1_and_is_retried() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, good) = app.source.add_rows(3).await;
    let (missing, thing, good) = (Uuid::new_v4().to_string(), thing.to_string(), good.to_string());
    let mut submit = command(
        &app.http,
        &[&["submit", &thing, "--topic", &app.topic.name, "--devices-file", "-", "--quiet"][..], &RANGE].concat(),
    );
    let mut submit = submit.stdin(Stdio::piped()).spawn().unwrap();
    submit.stdin.take().unwrap().write_all(format!("# two\n{good}\n\n{missing}\n").as_bytes()).await.unwrap();
    let submitted = ended(submit).await;
    assert_eq!(submitted.code, Some(1), "{submitted:?}");
    assert!(submitted.err.contains(&missing), "it says what failed: {submitted:?}");
    let task = submitted.out.trim();
    let again = run(&app, &["retry", task, "--json"]).await;
    let view: Value = serde_json::from_str(again.out.lines().next().unwrap()).unwrap();
    assert_eq!((again.code, &view["retryOf"], &view["devices"]["total"]), (Some(1), &json!(task), &json!(1)), "{again:?}");
    let one = run(&app, &["retry", task, &good]).await;
    assert_eq!(one.code, Some(0), "{one:?}");
    let all = run(&app, &["retry", task, "--all", "--detach", "--json"]).await;
    assert_eq!((all.code, &all.json()["devices"]["total"]), (Some(0), &json!(2)), "{all:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_running_task_is_steered() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    for (args, expected) in [
        (&["pause", &task][..], "paused"),
        (&["rate", &task, "2"], "at most 2 rows/s"),
        (&["rate", &task, "1"], "at most 1 rows/s"),
    ] {
        let steered = run(&app, args).await;
        assert_eq!((steered.code, steered.out), (Some(0), format!("task {task}: {expected}\n")), "{args:?}");
    }
    assert_eq!(run(&app, &["show", &task, "--quiet"]).await.out, "paused\n");
    assert_eq!(run(&app, &["resume", &task, "--json"]).await.json()["paused"], json!(false));
    let cancelled = run(&app, &["cancel", &task, "--quiet"]).await;
    assert_eq!((cancelled.code, cancelled.out.as_str()), (Some(0), ""), "{cancelled:?}");
    let watched = run(&app, &["watch", &task]).await;
    assert_eq!(watched.code, Some(1), "a cancelled task has not succeeded: {watched:?}");
    assert_eq!(run(&app, &["show", &task, "--quiet"]).await.out, "cancelled\n");
    app.stop().await;
}

#[tokio::test]
async fn exit_codes_tell_usage_unreachable_and_refused_apart() {
    let app = TestApp::start(TestSource::empty().await).await;
    let id = Uuid::new_v4().to_string();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let (closed, other) = (closed.as_str(), format!("http://{}/elsewhere", app.http));
    for (args, code, says) in [
        (&["watch", "x"][..], 2, "it must be a UUID"),
        (&["submit", &id, "--from", "now", "--to", "now"], 2, "DEVICE"),
        (&["submit", &id, "--devices-file", "/none", "--from", "now", "--to", "now"], 2, "/none cannot be read"),
        (&["tasks", "--token-file", "/none"], 2, "/none cannot be read"),
        (&["tasks", "--url", "127.0.0.1"], 2, "a URL is like"),
        (&["tasks", "--since", "5 moons ago"], 2, "is no time"),
        (&["rate", &id, "0"], 2, "or none"),
        (&["tasks", "--url", closed], 3, "is not reachable: Connection refused"),
        (&["watch", &id, "--url", closed], 3, "is not reachable"),
        (&["tasks", "--url", &other], 3, "does not answer as data-patch does"),
        (&["watch", &id], 4, "unknown_task"),
        (&["cancel", &id], 4, "unknown_task"),
        (&["tasks", "--since", "2019"], 4, "invalid_field"),
    ] {
        let ran = run(&app, args).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(says), "{args:?}: {ran:?}");
    }
    let wrong = ended(command(&app.http, &["tasks"]).env("DATA_PATCH_TOKEN", "wrong").spawn().unwrap()).await;
    assert!(wrong.code == Some(4) && wrong.err.contains("wrong_token"), "{wrong:?}");
    let none = ended(command(&app.http, &["tasks"]).env_remove("DATA_PATCH_TOKEN").spawn().unwrap()).await;
    assert!(none.code == Some(2) && none.err.contains("no token"), "{none:?}");
    app.stop().await;
}

#[tokio::test]
async fn ctrl_c_ends_the_watching_and_not_the_task() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    let mut watch = command(&app.http, &["watch", &task]).spawn().unwrap();
    let mut out = BufReader::new(watch.stdout.take().unwrap());
    tokio::time::timeout(TIMEOUT, out.read_line(&mut String::new())).await.expect("it prints nothing").unwrap();
    let pid = watch.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let watched = ended(watch).await;
    assert_eq!(watched.code, Some(130), "{watched:?}");
    assert!(watched.err.contains(&format!("data-patch watch {task} --after ")), "{watched:?}");
    assert_eq!(run(&app, &["show", &task, "--quiet"]).await.out, "running\n");
    app.stop().await;
}

#[tokio::test]
async fn a_reader_that_leaves_ends_the_watching_quietly() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    let mut watch = command(&app.http, &["watch", &task]).spawn().unwrap();
    drop(watch.stdout.take());
    let watched = ended(watch).await;
    assert_eq!((watched.code, watched.err.as_str()), (Some(141), ""), "{watched:?}");
    app.stop().await;
}

#[tokio::test]
async fn on_a_terminal_a_running_device_has_a_bar() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    let (mut terminal, side, _) = open_terminal();
    let mut watch = command(&app.http, &["watch", &task]);
    watch.env("TERM", "xterm-256color").stdout(side.try_clone().unwrap()).stderr(side);
    let mut watch = watch.spawn().unwrap();
    let output = read_until(&mut terminal, " of 1,000").await;
    assert!(output.contains("running: 0 of 1 device "), "{output}");
    tokio::spawn(async move { tokio::io::copy(&mut terminal, &mut tokio::io::sink()).await });
    let cancelled = run(&app, &["cancel", &task]).await;
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let status = tokio::time::timeout(TIMEOUT, watch.wait()).await.expect("it does not end").unwrap();
    assert_eq!(status.code(), Some(1));
    app.stop().await;
}

/// Forwards connections to a service; all of them are cut when `cut` changes.
async fn proxy(to: String, cut: watch::Receiver<u32>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (to, mut cut) = (to.clone(), cut.clone());
            cut.mark_unchanged();
            tokio::spawn(async move {
                let mut service = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut service) => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_lost_connection_loses_no_entry() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    let (cut, is_cut) = watch::channel(0);
    let address = proxy(app.http.clone(), is_cut).await;
    let mut watch = command(&address, &["watch", &task, "--json"]).spawn().unwrap();
    let mut out = BufReader::new(watch.stdout.take().unwrap());
    let mut printed = String::new();
    for _ in 0..3 {
        out.read_line(&mut printed).await.unwrap();
        cut.send_modify(|cuts| *cuts += 1);
    }
    assert_eq!(run(&app, &["cancel", &task]).await.code, Some(0));
    tokio::time::timeout(TIMEOUT, out.read_to_string(&mut printed)).await.expect("it does not end").unwrap();
    let watched = ended(watch).await;
    assert_eq!(watched.code, Some(1), "{watched:?}");
    assert!(watched.err.contains("connecting again"), "the connection was cut: {watched:?}");
    let entries: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<_> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(entries.last().unwrap()["state"], json!("cancelled"));
    app.stop().await;
}
