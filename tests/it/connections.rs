//! Connections: kept alive, closed when idle or dead, counted, and closed at shutdown.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    MaybeTlsStream,
    tungstenite::{Error, Message},
};

use crate::support::{Client, TIMEOUT, TOKEN, TestApp, TestSource, eventually};

#[tokio::test]
async fn pings_are_repeated() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "ping_seconds"], 1);
    })
    .await;
    let mut client = app.client().await;
    for _ in 0..3 {
        let frame = tokio::time::timeout(TIMEOUT, client.socket.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(frame, Message::Ping(_)), "{frame:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_disconnected() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "ping_seconds"], 1);
    })
    .await;
    let mut stream = tokio::net::TcpStream::connect(&app.http).await.unwrap();
    let upgrade = "GET /data-patch/websocket HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.expect("it was not disconnected").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    app.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_1000() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "ping_seconds"], 1).set(&["server", "idle_seconds"], 1);
    })
    .await;
    assert_eq!(app.client().await.close_code().await, Some(1000));
    app.stop().await;
}

#[tokio::test]
async fn connections_are_limited_and_closed_ones_are_not_counted() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "max_connections"], 2);
    })
    .await;
    let (mut first, mut second) = (app.client().await, app.client().await);
    for client in [&mut first, &mut second] {
        // Only connections with the right token are kept when others arrive.
        client.attach(&uuid::Uuid::new_v4().to_string(), 0).await;
    }
    match tokio_tungstenite::connect_async(&app.url).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("not refused: {other:?}"),
    }
    drop(first);
    eventually("a place is free", || async { tokio_tungstenite::connect_async(&app.url).await.is_ok() }).await;
    app.stop().await;
}

#[tokio::test]
async fn a_shutdown_closes_with_1001_and_a_hint() {
    let app = TestApp::start(TestSource::empty().await).await;
    let mut client = app.client().await;
    app.request_stop();
    match client.next_frame().await {
        Some(Message::Close(Some(frame))) => {
            assert_eq!(u16::from(frame.code), 1001);
            assert!(frame.reason.contains("taskId"), "{}", frame.reason);
        }
        other => panic!("not closed: {other:?}"),
    }
    let started = std::time::Instant::now();
    app.stop().await;
    assert!(started.elapsed() < Duration::from_secs(15), "it waits although nothing is running");
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_connections_are_removed() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await;
    let (thing, device) = app.source.add_rows(20_000).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    for _ in 0..40 {
        let mut cut = app.client().await;
        // The log many times, so that the service is writing when the connection is aborted.
        for _ in 0..20 {
            cut.send(&serde_json::json!({"token": TOKEN, "taskId": task, "after": 0})).await;
        }
        let MaybeTlsStream::Plain(stream) = cut.socket.get_ref() else { panic!("no plain stream") };
        stream.set_zero_linger().unwrap();
    }
    drop(client);
    eventually("all are removed", || async {
        let (_, metrics) = app.get("/metrics").await;
        metrics.contains("data_patch_connections 0\n") && metrics.contains("data_patch_log_subscriptions 0\n")
    })
    .await;
    app.stop().await;
}

#[tokio::test]
async fn the_operators_endpoints() {
    let app = TestApp::start(TestSource::empty().await).await;
    assert_eq!(app.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(app.get("/readyz").await, (200, r#"{"queue":"ok","source":"ok","kafka":"ok"}"#.to_owned()));
    let (status, metrics) = app.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("data_patch_rows_published_total 0"), "{metrics}");
    let (status, document) = app.get("/data-patch/openapi.json").await;
    assert!(status == 200 && document.contains(r#""openapi":"3.1.0""#), "{document}");
    assert_eq!(app.get("/data-patch").await.0, 308, "the page is at /data-patch/");
    let (status, body) = app.get("/data").await;
    assert_eq!(status, 404);
    assert!(body.contains("/data-patch/websocket"), "{body}");
    let (status, body) = app.get("/data-patch/websocket").await;
    assert_eq!(status, 426);
    assert!(body.contains("ws://"), "{body}");
    app.stop().await;
}
