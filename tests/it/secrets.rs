//! Token and passwords appear in no log (at the finest level), reply, event, metric or error.

use serde_json::json;
use uuid::Uuid;

use crate::support::{Client, Process, TOKEN, TestBroker, TestSource, get, message, program};

const PASSWORD: &str = "pass-7f3a";
const GUESS: &str = "guess-91bc";

#[tokio::test(flavor = "multi_thread")]
async fn a_running_service_reveals_no_secret() {
    check_no_secret_is_revealed(&format!("postgres://reader:{PASSWORD}@127.0.0.1:9/iota?application_name=x")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_the_urls_query_is_not_revealed() {
    check_no_secret_is_revealed(&format!("postgres://127.0.0.1:9/iota?user=reader&p%61ssword={PASSWORD}")).await;
}

/// A service whose source is not reachable at `url`, so that errors with the URL are logged.
async fn check_no_secret_is_revealed(url: &str) {
    let (folder, topic) = (tempfile::tempdir().unwrap(), TestBroker::start().await.topic().await);
    let more = [
        ("DATA_PATCH_IOTA_URL", url),
        ("DATA_PATCH_LOG_LEVEL", "trace,librdkafka=trace,rdkafka=trace"),
        ("DATA_PATCH_IOTA_TIMEOUT_SECONDS", "1"),
    ];
    let process = Process::serve(&folder, &TestSource::empty().await, &topic, &more).await;
    let mut received = Vec::new();
    let mut client = Client::connect(&process.url).await;
    client.submit(&Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &topic.name)).await;
    received.extend(client.until(|line| message(line).contains("source is unavailable")).await);
    client.send(&json!({"token": TOKEN, "taskId": "no id"})).await;
    received.extend(client.until(|line| message(line).contains("taskId")).await);
    client.send(&json!({"token": GUESS, "taskId": Uuid::new_v4()})).await;
    received.extend(client.until(|line| message(line).contains("token is wrong")).await);
    let address = process.address.to_string();
    let (_, metrics) = get(&address, "/metrics").await;
    let (status, readiness) = get(&address, "/readyz").await;
    assert_eq!(status, 503, "the source is unavailable");
    process.terminate().await;

    let log = Process::log(&folder);
    assert!(log.contains("TRACE"), "the finest level is on");
    let queue = std::fs::read(folder.path().join("queue.db")).unwrap();
    let queue = String::from_utf8_lossy(&queue);
    for secret in [TOKEN, PASSWORD, GUESS] {
        // The digits of a short token may occur in an id, but not as a separate word.
        let quoted = [format!("\"{secret}\""), format!("={secret}"), format!(":{secret}"), format!(" {secret}")];
        let replies = format!("{received:?}");
        let places = [("log", &*log), ("replies", &replies), ("queue", &queue), ("metrics", &metrics), ("readiness", &readiness)];
        for (place, text) in places {
            assert!(!quoted.iter().any(|secret| text.contains(secret)), "{secret} is in the {place}");
        }
    }
}

#[tokio::test]
async fn configuration_errors_reveal_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    for text in [
        format!("[kafka.properties]\n\"sasl.password\" = \"{PASSWORD}\n"),
        format!("[kafka.properties]\n\"sasl.password\" = [\"{PASSWORD}\"]\n"),
        format!("[kafka.properties]\n\"security.protocol\" = \"nothing\"\n\"sasl.password\" = \"{PASSWORD}\"\n"),
        format!("[iota]\nurl = \"postgres://u:{PASSWORD}@h:notaport/db\"\n"),
        format!("[iota]\nurl = \"mysql://u:{PASSWORD}@h/db\"\n"),
        format!("[iota]\nurl = \"postgres:/u:{PASSWORD}@h/db\"\n"),
        format!("[iota]\nurl = \"postgres://h:notaport/db?PASSWORD={PASSWORD}\"\n"),
        // A secret in the wrong option.
        format!("[kafka]\nproperties = \"sasl.password={PASSWORD}\"\n"),
        format!("[iota]\ntimeout_seconds = \"{PASSWORD}\"\n"),
        format!("iota = \"postgres://u:{PASSWORD}@h/db\"\n"),
        format!("[iota]\nurls = \"postgres://u:{PASSWORD}@h/db\"\n"),
        format!("[iota]\nurl = [\"postgres://u:{PASSWORD}@h/db\"]\n"),
        format!("[kafka]\nallow_compacted = \"{PASSWORD}\"\n"),
        format!("[queue]\nurl = \"postgres://u:{PASSWORD}@h/db\"\n"),
    ] {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, &text).unwrap();
        let queue = format!("sqlite://{}", folder.path().join("queue.db").display());
        let mut program = program();
        program.args(["serve", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]).env("DATA_PATCH_TOKEN", GUESS);
        if !text.contains("[queue]") {
            program.env("DATA_PATCH_QUEUE_URL", queue);
        }
        let output = program.output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}");
        assert!(!printed.contains(PASSWORD) && !printed.contains(GUESS), "{text}: {printed}");
    }
}
