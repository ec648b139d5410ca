//! Hostile and broken clients do not affect others.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::support::{TestApp, TestSource, message};

/// Attaches with a wrong token; returns how long the answer took.
async fn wrong_token_delay(app: &TestApp) -> Duration {
    let mut client = app.client().await;
    let started = Instant::now();
    client.send(&json!({"token": "wrong", "taskId": Uuid::new_v4()})).await;
    assert!(message(&client.next().await).starts_with("token is wrong"));
    let took = started.elapsed();
    assert_eq!(client.close_code().await, Some(1008));
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_delayed_and_the_right_one_is_not() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let delays: Vec<Duration> = join_all((0..7).map(|_| wrong_token_delay(&app))).await;
    let longest = delays.into_iter().max().unwrap();
    assert!(longest >= Duration::from_secs(5), "{longest:?}");
    // From the same address, where a wrong token would be delayed by five seconds.
    let started = Instant::now();
    app.publish(thing, &[device]).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    app.stop().await;
}
