//! `data-patch check` runs the queries of a job, and ends soon if a server does not answer.

use std::time::{Duration, Instant};

use crate::support::{TestBroker, TestSource, program, real};

async fn check(variables: &[(&str, &str)]) -> (bool, String) {
    let output = program().arg("check").envs(variables.iter().copied()).output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn check_ends_soon_with_the_systems_error_if_nothing_listens() {
    let folder = tempfile::tempdir().unwrap();
    let queue = format!("sqlite://{}", folder.path().join("queue.db").display());
    // A free port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (url, brokers) = (format!("postgres://iota@127.0.0.1:{port}/iota"), format!("127.0.0.1:{port}"));
    let started = Instant::now();
    let (well, printed) =
        check(&[("DATA_PATCH_QUEUE_URL", &queue), ("DATA_PATCH_IOTA_URL", &url), ("DATA_PATCH_KAFKA_BROKERS", &brokers)]).await;
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    assert!(!well);
    assert_eq!(printed.matches("Connection refused (os error 111)").count(), 2, "{printed}");
}

#[tokio::test]
async fn check_runs_the_queries_of_a_job() {
    if real("READINGS").is_some() {
        return; // It is about tables.
    }
    let (folder, source) = (tempfile::tempdir().unwrap(), TestSource::empty().await);
    let topic = TestBroker::start().await.topic().await;
    let queue = format!("sqlite://{}", folder.path().join("queue.db").display());
    let url = source.url();
    let variables = [
        ("DATA_PATCH_QUEUE_URL", queue.as_str()),
        ("DATA_PATCH_IOTA_URL", url.as_str()),
        ("DATA_PATCH_KAFKA_BROKERS", topic.broker.brokers()),
        ("DATA_PATCH_KAFKA_DEFAULT_TOPIC", topic.name.as_str()),
        ("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", "5"),
    ];
    let (well, printed) = check(&variables).await;
    assert!(well && printed.contains("a reading there is none"), "{printed}");
    let (_, device) = source.add_rows(3).await;
    let (well, printed) = check(&variables).await;
    assert!(well, "{printed}");
    let reading = format!("a reading of device {device}, key 1 at 2019-01-11T13:03:00Z");
    for expected in [format!("a device  {device} 应变计").as_str(), &reading] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    if !source.is_postgres() {
        return;
    }
    assert!(printed.contains("counting  by an index"), "{printed}");
    source.execute("DROP INDEX raw_data_read").await;
    let (well, printed) = check(&variables).await;
    assert!(well && printed.contains("counting  with no index: each device reads the whole table"), "{printed}");
    // Names of another type are read as text; a document of a type that no job can read is refused.
    source.execute("ALTER TABLE \"Device\" ALTER name TYPE bigint USING 6").await;
    let (well, printed) = check(&variables).await;
    assert!(well && printed.contains(&format!("a device  {device} 6")), "{printed}");
    source.execute("ALTER TABLE raw_data ALTER \"deviceId\" TYPE text USING 'no uuid'").await;
    let (well, printed) = check(&variables).await;
    assert!(!well && printed.contains("column deviceId holds \"no uuid\""), "{printed}");
}
