//! Limits on clients without the token: memory, time, and connections.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use uuid::Uuid;

use crate::support::{Client, RawClient, TIMEOUT, TOKEN, TestApp, TestSource, message, raw};

/// A service with some options of `[server]` other than the defaults.
async fn serve(options: &[(&str, i64)]) -> TestApp {
    TestApp::start_with(TestSource::empty().await, |overrides| {
        for (name, value) in options {
            overrides.set(&["server", name], *value);
        }
    })
    .await
}

/// Sends the right token in a message that creates nothing.
async fn authenticate(client: &mut Client) {
    client.send(&json!({"token": TOKEN, "taskId": Uuid::new_v4()})).await;
    assert_eq!(client.next().await["payload"]["code"], "unknown_task");
}

#[tokio::test]
async fn an_incomplete_request_is_disconnected() {
    let app = serve(&[("handshake_seconds", 1)]).await;
    for sent in ["", "GET /data-patch/websocket HTTP/1.1\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "] {
        let mut client = RawClient::connect(&app.http).await;
        client.send(sent.as_bytes()).await;
        client.closed().await;
    }
    app.stop().await;
}

#[tokio::test]
async fn a_slow_request_is_disconnected() {
    let app = serve(&[("handshake_seconds", 1)]).await;
    let mut client = RawClient::connect(&app.http).await;
    let dripping = async {
        loop {
            client.send(b"G").await;
            if !client.is_open().await {
                return;
            }
        }
    };
    tokio::time::timeout(TIMEOUT, dripping).await.expect("it is not let go");
    app.stop().await;
}

#[tokio::test]
async fn connections_without_the_right_token_are_closed_in_time() {
    let app = serve(&[("auth_seconds", 1)]).await;
    let (mut with, mut without) = (app.client().await, app.client().await);
    authenticate(&mut with).await;
    without.send_text("no JSON").await;
    assert_eq!(without.close_code().await, Some(1008));
    authenticate(&mut with).await;
    app.stop().await;
}

#[tokio::test]
async fn messages_without_a_token_are_limited() {
    let app = serve(&[]).await;
    let mut client = app.client().await;
    for _ in 0..10 {
        client.send_text("{}").await;
    }
    assert_eq!(client.close_code().await, Some(1008));
    app.stop().await;
}

/// Each pong is buffered until the client reads it.
#[tokio::test]
async fn pings_without_a_token_are_limited() {
    let app = serve(&[]).await;
    let mut client = RawClient::open(&app.http, &[]).await;
    client.send(&raw::frame_of(0x89, 125, &[b'x'; 125]).repeat(101)).await;
    assert_eq!(client.close_code().await, 1008);
    app.stop().await;
}

#[tokio::test]
async fn a_message_may_have_64_kib_before_its_token() {
    let app = serve(&[]).await;
    let whole = "x".repeat(70_000);
    let announced = raw::frame_of(0x81, 1_000_000, &whole.as_bytes()[..70_000]);
    let pieces =
        [raw::frame_of(0x01, 40_000, &whole.as_bytes()[..40_000]), raw::frame_of(0x00, 30_000, &whole.as_bytes()[..30_000])];
    for (what, bytes) in [("whole", raw::text(&whole)), ("announced", announced), ("in pieces", pieces.concat())] {
        let mut client = RawClient::open(&app.http, &[]).await;
        client.send(&bytes).await;
        assert_eq!(client.close_code().await, 1009, "{what}");
    }
    app.stop().await;
}

/// Ten thousand devices take 390 KB, and existing clients send the token in the same message.
#[tokio::test]
async fn the_first_message_may_be_large_if_its_token_comes_early() {
    let app = serve(&[]).await;
    // As in the contract, the token comes before the devices.
    let message_of = |devices: &[Uuid]| {
        format!(
            r#"{{"src":"iota","token":"{TOKEN}","topic":"{}","thingId":"{}","devices":{},"from":"2019-01-11 21:03:00","to":"2019-01-12 21:03:00"}}"#,
            app.topic.name,
            Uuid::new_v4(),
            json!(devices)
        )
    };
    let devices: Vec<Uuid> = (0..10_000).map(|_| Uuid::new_v4()).collect();
    let mut client = app.client().await;
    client.send_text(&message_of(&devices)).await;
    assert_eq!(message(&client.next().await), "task created.");

    let text = message_of(&devices[..3_000]);
    let mut in_pieces = RawClient::open(&app.http, &[]).await;
    for (n, piece) in text.as_bytes().chunks(30_000).enumerate() {
        in_pieces.send(&raw::frame_of(u8::from(n == 0), piece.len(), piece)).await;
    }
    in_pieces.send(&raw::frame_of(0x80, 0, b"")).await;
    assert!(in_pieces.text().await.contains("task created."));
    app.stop().await;
}

#[tokio::test]
async fn memory_for_arriving_messages_is_limited_for_all_connections() {
    // Three quarters of 128 KiB are for clients with a token: one message of 60,000 bytes.
    let app = serve(&[("max_message_bytes", 65_536), ("max_buffered_bytes", 131_072)]).await;
    let text = format!("{{\"token\":\"{TOKEN}\",\"taskId\":\"{}\"{}}}", Uuid::new_v4(), " ".repeat(59_900));
    let begin = raw::frame_of(0x81, text.len(), &text.as_bytes()[..5_000]);
    let mut first = RawClient::open(&app.http, &[]).await;
    first.send(&begin).await;
    let refused = async {
        loop {
            // The later of the two is rejected.
            let mut second = RawClient::open(&app.http, &[]).await;
            second.send(&begin).await;
            if !second.is_open().await {
                return second.close_code().await;
            }
        }
    };
    assert_eq!(tokio::time::timeout(TIMEOUT, refused).await.expect("it is not refused"), 1013);
    // The first message is completed, and releases its memory.
    first.send(&raw::mask_from(&text.as_bytes()[5_000..], 5_000)).await;
    assert!(first.text().await.contains("unknown_task"));
    let mut third = app.client().await;
    third.send_text(&text).await;
    assert_eq!(third.next().await["payload"]["code"], "unknown_task");
    app.stop().await;
}

#[tokio::test]
async fn the_oldest_connection_of_an_address_without_a_token_is_closed() {
    let app = serve(&[("max_unauthenticated_per_address", 2)]).await;
    let mut with = app.client().await;
    authenticate(&mut with).await;
    let (mut first, mut second, _third) = (app.client().await, app.client().await, app.client().await);
    assert_eq!(first.close_code().await, Some(1013));
    authenticate(&mut second).await;
    authenticate(&mut with).await;
    app.stop().await;
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_address() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "max_unauthenticated_per_address"], 1).set(&["server", "trusted_proxies"], vec!["127.0.0.0/8"]);
    })
    .await;
    let connect = async |client: &str| {
        let mut request = app.url.as_str().into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        Client { socket: tokio_tungstenite::connect_async(request).await.unwrap().0 }
    };
    let (mut one, mut other) = (connect("203.0.113.9, 192.0.2.1").await, connect("192.0.2.2").await);
    let _again = connect("192.0.2.1").await;
    assert_eq!(one.close_code().await, Some(1013));
    authenticate(&mut other).await;
    app.stop().await;
}

/// Idle connections from one address: a new connection may have the right token.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_no_client_out() {
    let app = serve(&[("max_connections", 8)]).await;
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut client = RawClient::connect(&app.http).await;
        if n % 2 == 0 {
            client.send(b"GET /healthz HTTP/1.1\r\n").await;
        }
        silent.push(client);
        if n % 10 == 0 {
            assert_eq!(app.get("/healthz").await.0, 200);
        }
    }
    let mut clients = join_all((0..4).map(|_| app.client())).await;
    for client in &mut clients {
        authenticate(client).await;
    }
    app.stop().await;
}

#[tokio::test]
async fn operators_are_answered_at_the_connection_limit() {
    let app = serve(&[("max_connections", 2)]).await;
    let mut clients = [app.client().await, app.client().await];
    for client in &mut clients {
        authenticate(client).await;
    }
    let silent = join_all((0..50).map(|_| RawClient::connect(&app.http))).await;
    assert_eq!(app.get("/healthz").await.0, 200);
    assert_eq!(app.get("/metrics").await.0, 200);
    let head = RawClient::connect(&app.http).await.ask("HTTP/1.1", &raw::HANDSHAKE).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    drop(silent);
    for client in &mut clients {
        authenticate(client).await;
    }
    app.stop().await;
}

/// Behind a proxy that is not trusted, all clients have the same address.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_token_is_accepted_beside_wrong_ones_of_its_address() {
    let app = serve(&[]).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let guessers: Vec<_> = (0..48)
        .map(|_| {
            let (url, stop) = (app.url.clone(), stop.clone());
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                loop {
                    // The result does not matter.
                    let Ok((socket, _)) = tokio_tungstenite::connect_async(&url).await else { continue };
                    let mut client = Client { socket };
                    let guess = Message::text(json!({"token": "guess", "taskId": Uuid::new_v4()}).to_string());
                    let _ = futures_util::SinkExt::send(&mut client.socket, guess).await;
                    while let Some(Ok(_)) = futures_util::StreamExt::next(&mut client.socket).await {}
                }
            }))
        })
        .collect();
    let started = std::time::Instant::now();
    for n in 0..100 {
        let (socket, _) = tokio_tungstenite::connect_async(&app.url).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        authenticate(&mut Client { socket }).await;
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    stop.cancel();
    for guesser in guessers {
        guesser.await.unwrap();
    }
    app.stop().await;
}
