//! The row counters in `/metrics` while jobs run.

use crate::support::{Client, TestApp, TestSource, eventually};

/// The sum of a counter over all label values.
async fn counter(app: &TestApp, name: &str) -> u64 {
    let (_, text) = app.get("/metrics").await;
    let value = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix(name)?;
        let value = rest.split_once('}').map_or(rest, |(_, value)| value);
        value.split_whitespace().next()?.trim_end_matches(".0").parse().ok()
    };
    let values: Vec<u64> = text.lines().filter_map(value).collect();
    assert!(!values.is_empty(), "no {name}: {text}");
    values.into_iter().sum()
}

const PUBLISHED: &str = "data_patch_rows_published_total";

// If rows were counted at the end of a job, the rate of a large device would look like an outage.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_counted_while_their_job_runs() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        // Slow enough to be observed.
        overrides.set(&["iota", "page_rows"], 100).set(&["kafka", "in_flight_bytes"], 65_536);
    })
    .await;
    let (thing, device) = app.source.add_rows(50_000).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    eventually("rows are counted", async || counter(&app, PUBLISHED).await > 0).await;
    let reply = app.client().await.attach(&task, 0).await;
    assert_eq!(reply["payload"]["state"], "running", "they are counted, and their job is over: {reply}");
    app.stop().await;
}

#[tokio::test]
async fn each_row_is_counted_once() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1_000).await;
    app.publish(thing, &[device]).await;
    app.publish(thing, &[device]).await;
    eventually("all are counted", async || counter(&app, PUBLISHED).await >= 2_000).await;
    assert_eq!(counter(&app, PUBLISHED).await, 2_000);
    app.stop().await;
}
