//! Tokens with names and roles, and their file, which is read again when it changes.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use data_patch::{
    api::auth::{NamedToken, Tokens, entry},
    protocol::{Identity, Role, Token},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Client, Process, TIMEOUT, TOKEN, TestApp, TestBroker, TestSource, call, eventually, message, program};

const OPERATOR: &str = "operator-5b1f";
const VIEWER: &str = "viewer-c03d";

fn lines(name: &str, token: &str, role: Role) -> String {
    entry(&NamedToken { identity: Identity::new(name, role), token: Token::new(token) })
}

/// The lines of an operator and a viewer.
fn two() -> String {
    lines("night-duty", OPERATOR, Role::Operator) + &lines("大屏", VIEWER, Role::Viewer)
}

/// Replaces the file as an editor does.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// A service with a tokens file in its folder.
async fn serve(text: &str) -> TestApp {
    serve_with(text, &[]).await
}

/// The same, with other options.
async fn serve_with(text: &str, options: &[(&str, &str, &str)]) -> TestApp {
    let (folder, topic) = (Arc::new(tempfile::tempdir().unwrap()), TestBroker::start().await.topic().await);
    let path = folder.path().join("tokens.toml");
    write(&path, text);
    TestApp::start_on(folder, TestSource::empty().await, topic, |overrides| {
        overrides.set(&["server", "tokens_file"], path.to_str().unwrap());
        for (section, key, value) in options {
            overrides.set(&[section, key], *value);
        }
    })
    .await
}

fn with_token(mut request: Value, token: &str) -> Value {
    request["token"] = token.into();
    request
}

/// The code of the answer to an attach to a task that does not exist: `unknown_task` with a valid
/// token.
async fn code_of(client: &mut Client, token: &str) -> Value {
    client.send(&json!({"token": token, "taskId": Uuid::new_v4()})).await;
    // Log lines of a task that it watches come first.
    let replies = client.until(|reply| reply["payload"]["code"].is_string()).await;
    replies.last().unwrap()["payload"]["code"].clone()
}

#[tokio::test]
async fn an_operator_submits_watches_and_cancels() {
    let app = serve(&two()).await;
    let (thing, device) = app.source.add_rows(10).await;
    let mut client = app.client().await;
    // So many devices that the token is needed before the message is complete.
    let devices: Vec<_> = std::iter::once(device).chain((0..3_000).map(|_| Uuid::new_v4())).collect();
    let request = Client::request(thing, &devices, &app.topic.name);
    let text =
        format!("{{\"token\":\"{OPERATOR}\",{}", &request.to_string().replace(&format!(",\"token\":\"{TOKEN}\""), "")[1..]);
    client.send_text(&text).await;
    let created = client.next().await;
    assert_eq!(message(&created), "task created.", "{created}");
    let task = created["payload"]["taskId"].clone();
    client.until(|line| message(line).contains("published(10 / 10)")).await;
    client.send(&json!({"token": OPERATOR, "taskId": task, "cancel": true})).await;
    client.until(|line| line["type"] == "data-patch").await;
    let mut other = app.client().await;
    other.send(&json!({"token": OPERATOR, "taskId": task})).await;
    assert_eq!(message(&other.next().await), "task attached.");
    other.log().await;
    app.stop().await;
}

#[tokio::test]
async fn a_viewer_watches_and_is_told_what_it_may_not_do() {
    let app = serve(&two()).await;
    let (thing, device) = app.source.add_rows(10).await;
    let (task, log) = app.publish(thing, &[device]).await;
    let mut client = app.client().await;
    let request = with_token(Client::request(thing, &[device], &app.topic.name), VIEWER);
    for (refused, action) in
        [(request, "submit tasks"), (json!({"token": VIEWER, "taskId": task, "cancel": true}), "cancel tasks")]
    {
        client.send(&refused).await;
        let reply = client.next().await;
        assert_eq!(reply["payload"]["code"], "forbidden", "{reply}");
        let text = format!("the token 大屏 has the role viewer, which may not {action}; use a token with the role operator");
        assert_eq!(message(&reply), text);
    }
    client.send(&json!({"token": VIEWER, "taskId": task})).await;
    assert_eq!(message(&client.next().await), "task attached.");
    assert_eq!(client.log().await, log);
    // A preview publishes nothing.
    let mut body = Client::request(thing, &[device], &app.topic.name);
    body.as_object_mut().unwrap().remove("token");
    let bearer = format!("authorization: Bearer {VIEWER}");
    for (path, status) in [("/previews", 200), ("/tasks", 403)] {
        let answer = call(&app.http, "POST", path, &[&bearer], &body.to_string()).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    assert_eq!(app.topic.read().await.len(), 10, "nothing else was published");
    app.stop().await;
}

#[tokio::test]
async fn a_removed_token_ends_with_its_connections_and_an_added_one_begins() {
    let app = serve(&two()).await;
    let (mut removed, mut both, mut others) = (app.client().await, app.client().await, app.client().await);
    assert_eq!(code_of(&mut removed, VIEWER).await, "unknown_task");
    for token in [TOKEN, VIEWER] {
        assert_eq!(code_of(&mut both, token).await, "unknown_task");
    }
    for token in [TOKEN, OPERATOR] {
        assert_eq!(code_of(&mut others, token).await, "unknown_task");
    }
    // The operator gets the role of a viewer, and the viewer another token.
    let text = lines("night-duty", OPERATOR, Role::Viewer) + &lines("大屏", "viewer-2", Role::Viewer);
    write(&app.folder.path().join("tokens.toml"), &text);
    assert_eq!(removed.close_code().await, Some(1008));
    assert_eq!(both.close_code().await, Some(1008));
    assert_eq!(code_of(&mut others, TOKEN).await, "unknown_task");
    assert_eq!(code_of(&mut others, "viewer-2").await, "unknown_task");
    let request = Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &app.topic.name);
    others.send(&with_token(request, OPERATOR)).await;
    assert_eq!(others.next().await["payload"]["code"], "forbidden");
    assert_eq!(code_of(&mut others, VIEWER).await, "wrong_token");
    app.stop().await;
}

#[tokio::test]
async fn a_watcher_whose_token_is_removed_is_disconnected() {
    // Nothing listens on this port, so the task does not end.
    let app = serve_with(&two(), &[("iota", "url", "postgres://127.0.0.1:9/iota")]).await;
    let mut operator = app.client().await;
    let task = operator.submit(&Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &app.topic.name)).await;
    let mut viewer = app.client().await;
    viewer.send(&json!({"token": VIEWER, "taskId": task})).await;
    viewer.until(|line| message(line).contains("source is unavailable")).await;
    write(&app.folder.path().join("tokens.toml"), "");
    // Log lines would keep it waiting for ever.
    let closed = tokio::time::timeout(TIMEOUT, viewer.close_code()).await.expect("it watches on");
    assert_eq!(closed, Some(1008));
    assert_eq!(code_of(&mut operator, OPERATOR).await, "wrong_token");
    app.stop().await;
}

#[tokio::test]
async fn a_file_with_a_problem_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    for (text, problem) in [
        (None, "cannot be read: No such file"),
        (Some("[[token]\n".to_owned()), "line 1: it is not valid TOML"),
        (
            Some(lines("default", OPERATOR, Role::Operator)),
            "line 2: name is \"default\", the name of the token that the service is",
        ),
        (Some(two() + &lines("大屏", "other", Role::Viewer)), "line 9: there is another token with the name 大屏; rename"),
        (Some(lines("a", TOKEN, Role::Viewer)), "line 1: the token a has the same sha256 as the token default; make another"),
        (Some(format!("[[token]]\nname = \"a\"\nsha256 = \"{OPERATOR}\"\n")), "line 3: sha256 of the token a is not a digest"),
    ] {
        if let Some(text) = &text {
            write(&path, text);
        }
        let output = program()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("DATA_PATCH_TOKEN", TOKEN)
            .env("DATA_PATCH_QUEUE_URL", format!("sqlite://{}", folder.path().join("queue.db").display()))
            .env("DATA_PATCH_SERVER_TOKENS_FILE", &path)
            .output();
        let output = tokio::time::timeout(TIMEOUT, output).await.expect("it starts").unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert!(printed.contains(path.to_str().unwrap()) && printed.contains(problem), "{problem}: {printed}");
        assert!(!printed.contains(OPERATOR), "{printed}");
        assert!(!folder.path().join("queue.db").exists(), "the file is read first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_at_a_reload_is_logged_once_and_the_tokens_stay() {
    const PROBLEM: &str = "the tokens file has a problem";
    let (folder, topic) = (tempfile::tempdir().unwrap(), TestBroker::start().await.topic().await);
    let path = folder.path().join("tokens.toml");
    write(&path, &two());
    let more = [
        ("DATA_PATCH_SERVER_TOKENS_FILE", path.to_str().unwrap()),
        ("DATA_PATCH_LOG_LEVEL", "trace,librdkafka=trace,rdkafka=trace"),
    ];
    let process = Process::serve(&folder, &TestSource::empty().await, &topic, &more).await;
    let mut client = Client::connect(&process.url).await;
    client.submit(&with_token(Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &topic.name), OPERATOR)).await;
    let logged = async |text: &str| eventually(text, async || Process::log(&folder).contains(text)).await;

    write(&path, &two().replace("viewer", "spectator"));
    logged(PROBLEM).await;
    logged("line 8: role of the token 大屏 is not known; it must be").await;
    // Two more readings of the same text: that nothing is logged takes time to see.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    std::fs::remove_file(&path).unwrap();
    logged("cannot be read: No such file").await;
    assert_eq!(code_of(&mut client, OPERATOR).await, "unknown_task", "the previous tokens stay, and their connections too");
    write(&path, &lines("night-duty", OPERATOR, Role::Operator));
    logged("the tokens file can be read again").await;
    logged("removed=\"大屏\"").await;
    let mut viewer = Client::connect(&process.url).await;
    assert_eq!(code_of(&mut viewer, VIEWER).await, "wrong_token");
    process.terminate().await;

    let log = Process::log(&folder);
    assert_eq!(log.matches(PROBLEM).count(), 2, "{log}");
    let created = log.lines().find(|line| line.contains("a task was created")).unwrap();
    assert!(created.contains("token=\"night-duty\" address=127.0.0.1"), "{created}");
    assert!(log.contains("TRACE"), "the finest level is on");
    let queue = std::fs::read(folder.path().join("queue.db")).unwrap();
    for secret in [OPERATOR, VIEWER, &Token::new(OPERATOR).sha256(), &Token::new(VIEWER).sha256()] {
        assert!(!log.contains(secret) && !String::from_utf8_lossy(&queue).contains(secret), "{secret} is shown");
    }
}

/// Also a change that keeps the file's size and time.
#[tokio::test]
async fn every_change_of_the_file_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    std::fs::write(&path, lines("a", "one", Role::Viewer)).unwrap();
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let tokens = Arc::new(Tokens::load(Token::new(TOKEN), Some(&path)).unwrap());
    let (mut changes, stop) = (tokens.subscribe(), CancellationToken::new());
    let following = tokio::spawn(Arc::clone(&tokens).follow_file(stop.clone()));
    for token in ["two", "three"] {
        std::fs::write(&path, lines("a", token, Role::Viewer)).unwrap();
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(modified).unwrap();
        tokio::time::timeout(TIMEOUT, changes.changed()).await.expect("it is not noticed").unwrap();
        assert_eq!(tokens.authenticate(token), Some(Identity::new("a", Role::Viewer)));
        assert_eq!(tokens.authenticate("one"), None);
    }
    assert_eq!(tokens.authenticate(TOKEN), Some(Identity::new("default", Role::Operator)));
    stop.cancel();
    following.await.unwrap();
}

/// Runs `data-patch token …`; returns the exit code, standard output and standard error.
async fn token(args: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = program();
    command.arg("token").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads nothing may have closed it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.expect("it does not end").unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn what_the_commands_print_works_in_the_file() {
    let (code, new, explained) = token(&["new", "night-duty", "--role", "operator"], "").await;
    assert_eq!(code, Some(0), "{explained}");
    let new = new.strip_suffix('\n').unwrap();
    assert_eq!(new.len(), 43, "32 bytes in base64url");
    assert!(new.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) && !explained.contains(new), "{new}");
    let (_, new_lines) = explained.split_once("[[token]]").unwrap();

    let (code, json, nothing) = token(&["new", "大屏", "--json"], "").await;
    assert_eq!((code, &*nothing), (Some(0), ""));
    let json: Value = serde_json::from_str(&json).unwrap();
    let viewer = json["token"].as_str().unwrap();
    assert_eq!((&json["name"], &json["role"]), (&json!("大屏"), &json!("viewer")));
    assert_eq!(json["sha256"], Token::new(viewer).sha256());
    assert_ne!(viewer, new);

    let (code, hashed, nothing) = token(&["hash", "大屏"], &format!("{viewer}\nmore\n")).await;
    assert_eq!((code, &*nothing), (Some(0), ""));
    // As `>>` appends it to a file whose last line has no end.
    let app = serve(&format!("[[token]]{}{hashed}", new_lines.trim_end())).await;
    let mut client = app.client().await;
    let request = Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &app.topic.name);
    client.send(&with_token(request.clone(), viewer)).await;
    assert_eq!(client.next().await["payload"]["code"], "forbidden");
    client.submit(&with_token(request, new)).await;
    app.stop().await;
}

#[tokio::test]
async fn the_commands_refuse_what_the_file_would_not_take() {
    for (args, input, expected_code, expected) in [
        (&["new", "default"][..], "", 2, "is \"default\", the name of the token that the service is started with"),
        (&["new", "night duty"], "", 2, "has the character ' '"),
        (&["new", "a", "--role", "admin"], "", 2, "it must be viewer or operator"),
        (&["hash", "a"], "", 1, "the token is empty"),
        (&["hash", "a"], "\n", 1, "the token is empty"),
        (&["hash", "a"], "123456\n", 0, "the token is short"),
    ] {
        let (code, _, printed) = token(args, input).await;
        assert_eq!(code, Some(expected_code), "{args:?}: {printed}");
        assert!(printed.contains(expected) && !printed.contains("123456"), "{args:?}: {printed}");
    }
}

#[tokio::test]
async fn check_reads_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tokens.toml");
    for (text, expected) in [(two(), "ok     tokens file"), ("[token]\n".to_owned(), "WRONG  tokens file")] {
        write(&path, &text);
        let queue = format!("sqlite://{}", folder.path().join("queue.db").display());
        let output = program()
            .arg("check")
            .env("DATA_PATCH_QUEUE_URL", queue)
            .env("DATA_PATCH_IOTA_URL", format!("sqlite://{}", folder.path().join("none.db").display()))
            .env("DATA_PATCH_KAFKA_BROKERS", "embedded")
            .env("DATA_PATCH_SERVER_TOKENS_FILE", &path)
            .output();
        let output = tokio::time::timeout(TIMEOUT, output).await.expect("it does not end").unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.contains(expected), "{printed}");
    }
}
