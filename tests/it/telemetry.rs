//! `/metrics`: the values, the requested format, and the conventions of Prometheus.

use std::{io::Write as _, process::Stdio};

use serde_json::json;

use crate::support::{Client, TOKEN, TestApp, TestSource, eventually, get_with, message};

/// The value of a sample, by its name and labels without the prefix.
fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix("data_patch_")?.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(line.parse().unwrap_or_else(|_| panic!("{sample}: {line}")))
}

async fn metrics(app: &TestApp) -> String {
    let (status, text) = app.get("/metrics").await;
    assert_eq!(status, 200, "{text}");
    text
}

/// A service with a finished, a rejected and a failed request.
async fn a_busy_service() -> TestApp {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        let properties = toml::Table::from_iter([("statistics.interval.ms".to_owned(), 100.into())]);
        overrides.set(&["kafka", "properties"], properties);
    })
    .await;
    let (thing, device) = app.source.add_rows(300).await;
    let mut client = app.client().await;
    client.send(&json!({"token": TOKEN, "what": "is this"})).await;
    client.next().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    assert!(message(client.log().await.last().unwrap()).contains("300 rows published"));
    client.submit(&Client::request(thing, &[device], "no-such-topic")).await;
    client.log().await;
    app
}

#[tokio::test]
async fn what_was_done_is_counted() {
    let app = a_busy_service().await;
    let metrics = metrics(&app).await;
    for (sample, expected) in [
        ("rows_published_total", 300.0),
        ("rows_quarantined_total", 0.0),
        ("tasks_created_total", 2.0),
        (r#"requests_rejected_total{code="unknown_field"}"#, 1.0),
        (r#"job_attempts_total{outcome="succeeded"}"#, 1.0),
        (r#"job_attempts_total{outcome="failed"}"#, 1.0),
        (r#"job_attempts_total{outcome="lost"}"#, 0.0),
        (r#"kafka_errors_total{cause="unknown_topic"}"#, 1.0),
        ("leases_lost_total", 0.0),
        ("jobs_unfinished", 0.0),
        ("oldest_waiting_job_seconds", 0.0),
        ("in_flight_bytes", 0.0),
        (r#"circuit_breakers_open{dependency="source"}"#, 0.0),
        (r#"circuit_breakers_open{dependency="topic"}"#, 0.0),
    ] {
        assert_eq!(value(&metrics, sample), Some(expected), "{sample}\n{metrics}");
    }
    for sample in ["queue_commit_seconds_count", "queue_claim_seconds_count", "log_delay_seconds_count"] {
        assert!(value(&metrics, sample).is_some_and(|count| count >= 2.0), "{sample}\n{metrics}");
    }
    assert!(value(&metrics, "kafka_acknowledgement_seconds_count").is_some_and(|count| count >= 1.0), "{metrics}");
    assert!(value(&metrics, "queue_size_bytes").is_some_and(|bytes| bytes > 4_096.0), "{metrics}");
    assert!(metrics.contains(&format!("data_patch_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"))), "{metrics}");
    app.stop().await;
}

#[tokio::test]
async fn what_librdkafka_says_is_there() {
    let app = a_busy_service().await;
    eventually("librdkafka has reported statistics", || async {
        let metrics = metrics(&app).await;
        let requests = value(&metrics, "kafka_client_requests_total").unwrap();
        requests > 0.0 && metrics.contains("data_patch_kafka_client_round_trip_seconds{broker=\"")
    })
    .await;
    let metrics = metrics(&app).await;
    assert!(value(&metrics, "kafka_client_producers").is_some_and(|count| count >= 1.0), "{metrics}");
    assert!(value(&metrics, "kafka_client_sent_bytes_total").is_some_and(|bytes| bytes > 0.0), "{metrics}");
    assert_eq!(value(&metrics, "kafka_client_queued_messages"), Some(0.0), "{metrics}");
    app.stop().await;
}

#[tokio::test]
async fn an_outage_is_seen_in_the_dependency_its_breaker_and_its_errors() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        // Nothing listens on port 1.
        overrides.set(&["iota", "url"], "postgres://nobody@127.0.0.1:1/none");
    })
    .await;
    let (thing, device) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    eventually("the outage is seen", || async {
        let metrics = metrics(&app).await;
        let is = |sample, expected| value(&metrics, sample) == Some(expected);
        is(r#"circuit_breakers_open{dependency="source"}"#, 1.0)
            && is(r#"dependency_up{dependency="source"}"#, 0.0)
            && is(r#"dependency_up{dependency="kafka"}"#, 1.0)
            && is(r#"dependency_up{dependency="queue"}"#, 1.0)
            && value(&metrics, r#"source_errors_total{cause="unavailable"}"#).is_some_and(|errors| errors >= 1.0)
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn the_process_tells_of_itself_under_the_usual_names() {
    let app = TestApp::start(TestSource::empty().await).await;
    let metrics = metrics(&app).await;
    let process = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}\n{metrics}")).parse().unwrap()
    };
    assert!(process("process_resident_memory_bytes") > 1_048_576.0, "{metrics}");
    assert!(process("process_cpu_seconds_total") > 0.0, "{metrics}");
    let fds = process("process_open_fds");
    assert!(fds > 3.0 && fds < process("process_max_fds"), "{metrics}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - process("process_start_time_seconds");
    // The kernel counts in hundredths of a second.
    assert!((-0.1..600.0).contains(&age), "{age}");
    app.stop().await;
}

#[tokio::test]
async fn the_format_is_the_one_that_is_accepted() {
    let app = TestApp::start(TestSource::empty().await).await;
    for (accept, content_type, described, is_open_metrics) in [
        ("*/*", "text/plain; version=0.0.4", "rows_published_total counter\n", false),
        ("application/openmetrics-text;q=0.9,*/*;q=0.1", "application/openmetrics-text", "rows_published counter\n", true),
    ] {
        let (head, body) = get_with(&app.http, "/metrics", &format!("accept: {accept}")).await;
        assert!(head.contains(&format!("content-type: {content_type}")), "{head}");
        assert!(body.contains(&format!("# TYPE data_patch_{described}")), "{body}");
        assert_eq!(body.ends_with("# EOF\n"), is_open_metrics, "{body}");
    }
    app.stop().await;
}

/// Checks names, units, types and format with promtool.
#[tokio::test]
async fn promtool_reports_nothing() {
    // Required if it is configured.
    let named = std::env::var("DATA_PATCH_TEST_PROMTOOL").ok();
    let mut command = std::process::Command::new(named.as_deref().unwrap_or("promtool"));
    let command = command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match command.spawn() {
        Ok(promtool) => promtool,
        Err(error) if named.is_none() => {
            println!("NOT RUN: promtool ({error}); it is in Debian's package prometheus, which .ci/run installs");
            return;
        }
        Err(error) => panic!("promtool: {error}"),
    };
    let app = a_busy_service().await;
    promtool.stdin.take().unwrap().write_all(metrics(&app).await.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success() && printed.trim().is_empty(), "{printed}");
    app.stop().await;
}
