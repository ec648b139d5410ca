//! The commands and the configuration errors that stop them, as seen at a shell.

use std::{collections::BTreeMap, path::Path};

use data_patch::config::DEFAULTS;

use crate::support::{TestBroker, TestSource, program};

/// Runs the program; returns its exit code and output.
async fn run(args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = program().args(args).envs(variables.iter().copied()).output().await.unwrap();
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), printed)
}

#[tokio::test]
async fn configuration_errors_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[worker]\nconcurency = 4\n").unwrap();
    let damaged = folder.path().join("damaged.db");
    std::fs::write(&damaged, "no database at all, but long enough".repeat(100)).unwrap();
    let damaged = format!("sqlite://{}", damaged.display());
    let listen = ("DATA_PATCH_SERVER_LISTEN", "127.0.0.1:0");
    for (args, variables, expected) in [
        (vec!["serve"], vec![], "no token: start with --token"),
        (vec!["serve", "--token", ""], vec![], "the token is empty"),
        (vec!["serve", "--config", file.to_str().unwrap()], vec![("DATA_PATCH_TOKEN", "x")], "did you mean worker.concurrency?"),
        (vec!["serve", "--config", "/nowhere.toml"], vec![], "/nowhere.toml"),
        (vec!["serve", "--token", "x"], vec![("DATA_PATCH_WORKER_CONCURRENCY", "many")], "DATA_PATCH_WORKER_CONCURRENCY"),
        (vec!["serve", "--token", "x"], vec![("DATA_PATCH_TYPO", "1")], "DATA_PATCH_TYPO names no option"),
        (vec!["serve", "--token", "x"], vec![("DATA_PATCH_WORKER_CURSOR_MS", "20")], "DATA_PATCH_WORKER_CHECKPOINT_INTERVAL_MS"),
        (vec!["serve", "--token", "x"], vec![("DATA_PATCH_LOG_LEVEL", "info=loud=x")], "DATA_PATCH_LOG_LEVEL: log.level"),
        (vec!["serve", "--token", "x"], vec![listen, ("DATA_PATCH_QUEUE_URL", &damaged)], "is damaged or not an SQLite database"),
    ] {
        let (code, printed) = run(&args, &variables).await;
        assert_eq!(code, 1, "{args:?}: {printed}");
        assert!(printed.contains(expected), "{args:?}: {printed}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, printed) = run(&["serve", "--token", "x", "--listen", &address], &[]).await;
    assert_eq!(code, 1);
    assert!(printed.contains(&format!("can't listen on {address}")), "{printed}");
}

#[tokio::test]
async fn check_prints_findings_and_errors() {
    let (folder, source) = (tempfile::tempdir().unwrap(), TestSource::empty().await);
    let topic = TestBroker::start().await.topic().await;
    let queue = format!("sqlite://{}", folder.path().join("queue.db").display());
    let url = source.url();
    let mut variables = vec![
        ("DATA_PATCH_QUEUE_URL", queue.as_str()),
        ("DATA_PATCH_IOTA_URL", url.as_str()),
        ("DATA_PATCH_KAFKA_BROKERS", topic.broker.brokers()),
        ("DATA_PATCH_KAFKA_DEFAULT_TOPIC", topic.name.as_str()),
        ("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", "5"),
    ];
    let (code, printed) = run(&["check"], &variables).await;
    assert_eq!(code, 0, "{printed}");
    for expected in ["ok     queue", "ok     IoTA source", "\"raw_data\": key \"id\" (Integer)", "ok     Kafka", "all is well"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    variables.extend([("DATA_PATCH_IOTA_RAW_TABLE", "readings"), ("DATA_PATCH_KAFKA_DEFAULT_TOPIC", "nowhere")]);
    let (code, printed) = run(&["check"], &variables).await;
    assert_eq!(code, 1, "{printed}");
    for expected in ["WRONG  IoTA source", "there is no table \"readings\"", "topic nowhere does not exist", "2 of 3 parts"] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
}

#[tokio::test]
async fn help_has_examples() {
    let (code, printed) = run(&["--help"], &[]).await;
    assert_eq!(code, 0);
    assert!(printed.contains("data-patch serve --config config.toml --token 123456"), "{printed}");
}

/// The options of a page's tables, with their defaults as TOML.
fn options(page: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    rows.map(|(name, rest)| (name.to_owned(), rest.split_once("` | ").unwrap().0.to_owned())).collect()
}

/// All options of a table and of those in it, with their defaults as TOML.
fn flatten(table: &toml::Table, prefix: &str, options: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{name}."), options),
            value => assert_eq!(options.insert(name, value.to_string()), None),
        }
    }
}

#[test]
fn both_pages_have_all_options_with_their_defaults() {
    let mut defaults = BTreeMap::new();
    flatten(&toml::from_str(DEFAULTS).unwrap(), "", &mut defaults);
    assert!(defaults.len() > 50, "{defaults:?}");
    for page in ["docs/configuration.md", "docs/configuration.zh-CN.md"] {
        assert_eq!(options(page), defaults, "{page}");
    }
}
