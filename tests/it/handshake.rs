//! The WebSocket handshake, and the close codes for protocol errors, by RFC 6455.

use crate::support::{
    RawClient, TestApp, TestSource,
    raw::{self, HANDSHAKE},
};

/// The response to a valid handshake with one header replaced.
async fn answer(app: &TestApp, version: &str, name: &str, values: &[&str]) -> String {
    let mut headers: Vec<&str> = HANDSHAKE.into_iter().filter(|header| !header.starts_with(name)).collect();
    headers.extend(values);
    RawClient::connect(&app.http).await.ask(version, &headers).await
}

#[tokio::test]
async fn another_version_is_answered_with_the_supported_one() {
    let app = TestApp::start(TestSource::empty().await).await;
    let head = answer(&app, "HTTP/1.1", "Sec-WebSocket-Version", &["Sec-WebSocket-Version: 8"]).await;
    assert!(head.starts_with("HTTP/1.1 426 ") && head.contains("sec-websocket-version: 13\r\n"), "{head}");
    app.stop().await;
}

#[tokio::test]
async fn an_invalid_handshake_is_rejected() {
    let app = TestApp::start(TestSource::empty().await).await;
    for (version, name, values, status) in [
        ("HTTP/1.1", "Sec-WebSocket-Key", &["Sec-WebSocket-Key: c2hvcnQ="][..], "400"),
        ("HTTP/1.1", "Sec-WebSocket-Key", &[], "400"),
        ("HTTP/1.1", "Host", &[], "400"),
        ("HTTP/1.1", "Connection", &[], "426"),
        ("HTTP/1.1", "Upgrade", &["Upgrade: h2c"], "426"),
        ("HTTP/1.0", "-", &[], "505"),
    ] {
        let head = answer(&app, version, name, values).await;
        assert_eq!(&head[9..12], status, "{version} {name} {values:?}: {head}");
    }
    app.stop().await;
}

#[tokio::test]
async fn lists_and_repeated_headers_are_read_in_any_order() {
    let app = TestApp::start(TestSource::empty().await).await;
    for (name, values) in [
        ("Connection", &["Connection: keep-alive", "Connection: Upgrade"][..]),
        ("Connection", &["Connection: Upgrade", "Connection: keep-alive"]),
        ("Connection", &["Connection: keep-alive, upgrade"]),
        ("Upgrade", &["Upgrade: h2c, WebSocket"]),
    ] {
        let head = answer(&app, "HTTP/1.1", name, values).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{values:?}: {head}");
        // The key of the RFC's own example.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("close"), "{head}");
    }
    app.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_can_be_rejected() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides.set(&["server", "allowed_origins"], vec!["https://et.example.com"]);
    })
    .await;
    for (origin, status) in
        [(&[][..], "101"), (&["Origin: https://et.example.com"], "101"), (&["Origin: https://evil.example"], "403")]
    {
        let head = answer(&app, "HTTP/1.1", "Origin", origin).await;
        assert_eq!(&head[9..12], status, "{origin:?}: {head}");
    }
    app.stop().await;
}

#[tokio::test]
async fn protocol_errors_close_with_1002_or_1007() {
    let app = TestApp::start(TestSource::empty().await).await;
    for (what, bytes, code) in [
        ("an unmasked frame", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("a reserved bit", raw::frame_of(0xc1, 2, b"{}"), 1002),
        ("an unknown opcode", raw::frame_of(0x83, 2, b"{}"), 1002),
        ("a ping in pieces", raw::frame_of(0x09, 2, b"{}"), 1002),
        ("a piece of nothing", raw::frame_of(0x80, 2, b"{}"), 1002),
        ("no UTF-8", raw::frame_of(0x81, 2, &[0xc3, 0x28]), 1007),
    ] {
        let mut client = RawClient::open(&app.http, &[]).await;
        client.send(&bytes).await;
        assert_eq!(client.close_code().await, code, "{what}");
    }
    app.stop().await;
}
