//! Clients that mean ill, or that are broken: nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;
use uuid::Uuid;

use crate::support::{Client, TOKEN, TestApp, TestStore, message};

/// Attaches with a wrong token; returns how long the answer took.
async fn guess(app: &TestApp) -> Duration {
    let mut client = app.client().await;
    let begun = Instant::now();
    client.send(&json!({"token": "guess", "taskId": Uuid::new_v4()})).await;
    assert!(message(&client.next().await).starts_with("token is wrong"));
    let took = begun.elapsed();
    assert_eq!(client.close_code().await, Some(1008));
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_wait_longer_and_longer_and_the_right_one_does_not() {
    let app = TestApp::start(TestStore::empty().await).await;
    let (thing, device) = app.store.add_rows(1).await;
    let guesses: Vec<Duration> = join_all((0..7).map(|_| guess(&app))).await;
    let longest = guesses.into_iter().max().unwrap();
    assert!(longest >= Duration::from_secs(5), "{longest:?}");
    // The same address, and now a wrong one would wait for five seconds.
    let begun = Instant::now();
    let mut client = app.client().await;
    client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    client.log().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_many_wrong_tokens_gets_no_connection_for_a_while() {
    let app = TestApp::start(TestStore::empty().await).await;
    let mut right = app.client().await;
    let mut guessers = Vec::new();
    for _ in 0..40 {
        let Ok((socket, _)) = tokio_tungstenite::connect_async(&app.url).await else { break };
        let mut client = Client { socket };
        client.send(&json!({"token": "guess", "taskId": Uuid::new_v4()})).await;
        guessers.push(client);
    }
    crate::support::eventually("the address is turned away", || async {
        matches!(tokio_tungstenite::connect_async(&app.url).await, Err(Error::Http(response)) if response.status() == 429)
    })
    .await;
    // Who is in is served.
    right.send(&json!({"token": TOKEN, "taskId": Uuid::new_v4()})).await;
    assert_eq!(right.next().await["payload"]["code"], "unknown_task");
    for client in &mut guessers {
        assert_eq!(client.close_code().await, Some(1008));
    }
    assert!(tokio_tungstenite::connect_async(&app.url).await.is_ok(), "the address is let in again");
    app.stop().await;
}
