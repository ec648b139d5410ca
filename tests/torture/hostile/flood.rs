//! Thousands of connections of clients without a token, or with one and unfinished messages: other
//! clients are served, and memory does not grow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use super::{Client, Fixture, ROWS, TOKEN, max_delay, message};
use crate::{
    support::{RawClient, TIMEOUT, get, program_with_files, raw},
    table::TestResult,
};

/// Connects from one of the loopback addresses.
async fn connect_from(n: usize, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let [.., high, low] = (n as u32).to_be_bytes();
    socket.bind((Ipv4Addr::new(127, 1, high, low.max(1)), 0).into())?;
    timeout(TIMEOUT, socket.connect(to)).await.expect("no connection is accepted")
}

fn open_files(fixture: &Fixture) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", fixture.process.pid())).unwrap().count()
}

/// Sends an operator's requests and a client's with the token; returns how long the answers took.
async fn response_time(fixture: &Fixture) -> Duration {
    let started = Instant::now();
    let address = fixture.process.address.to_string();
    assert_eq!(get(&address, "/healthz").await.0, 200);
    assert_eq!(get(&address, "/readyz").await.0, 200);
    drop(fixture.client().await);
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn more_connections_than_there_are_descriptors() {
    const FLOOD: usize = 12_000;
    const FILES: u32 = 1_024;
    let fixture = Fixture::with(program_with_files(FILES), &[]).await;
    // A watched task continues, and new clients are admitted.
    let mut watcher = fixture.client().await;
    watcher.submit(&fixture.request()).await;
    let watching = tokio::spawn(async move { max_delay(&mut watcher).await.0 });
    let (mut connections, mut longest, mut most_files) = (Vec::new(), Duration::ZERO, 0);
    for n in 0..FLOOD {
        // Half of them from one address, the others from many.
        let from = if n % 2 == 0 { 1 } else { n };
        let Ok(mut stream) = connect_from(from, fixture.process.address).await else { continue };
        let upgrade = format!("GET /data-patch/websocket HTTP/1.1\r\n{}\r\n\r\n", raw::HANDSHAKE.join("\r\n"));
        let _ = match n % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: ").await,
            _ => stream.write_all(upgrade.as_bytes()).await,
        };
        connections.push(stream);
        if n % 200 == 0 {
            longest = longest.max(response_time(&fixture).await);
            most_files = most_files.max(open_files(&fixture));
        }
    }
    let line_delay = timeout(TIMEOUT, watching).await.expect("the watched task does not end").unwrap();
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(line_delay < Duration::from_secs(2), "{line_delay:?}");
    let log = crate::support::Process::log(&fixture.folder);
    assert!(!log.contains("Too many open files"), "it ran out of descriptors");
    let note = format!(
        "health, readiness and a client with the token were answered within {longest:?} in all; a log line took {line_delay:?} at most; {most_files} of {FILES} descriptors"
    );
    TestResult {
        what: "12,000 connections without a token at 1,024 descriptors",
        times: FLOOD,
        rows: ROWS as usize,
        note,
        ..TestResult::default()
    }
    .write();
    drop(connections);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn unfinished_messages() {
    const UNFINISHED: usize = 1_000;
    let fixture = Fixture::new().await;
    let before = fixture.memory();
    let whole = "x".repeat(1_000_000);
    // The maximum without a token: as a large frame, and as a fragment of a message.
    let announced = raw::frame_of(0x81, 1_000_000, &whole.as_bytes()[..60_000]);
    let fragment = raw::frame_of(0x01, 60_000, &whole.as_bytes()[..60_000]);
    let mut connections = Vec::new();
    for n in 0..UNFINISHED {
        let mut client = RawClient { stream: connect_from(n, fixture.process.address).await.unwrap() };
        client.ask("HTTP/1.1", &raw::HANDSHAKE).await;
        client.send(if n % 2 == 0 { &announced } else { &fragment }).await;
        connections.push(client);
    }
    let without = fixture.memory().saturating_sub(before) / 1_024;
    let beside = response_time(&fixture).await;
    drop(connections);

    let mut connections = Vec::new();
    for n in 0..UNFINISHED {
        let mut client = RawClient { stream: connect_from(n, fixture.process.address).await.unwrap() };
        client.ask("HTTP/1.1", &raw::HANDSHAKE).await;
        client.send(&raw::text(&format!("{{\"token\":\"{TOKEN}\",\"taskId\":\"x\"}}"))).await;
        client.text().await;
        client.send(&raw::frame_of(0x81, 1_000_000, &whole.as_bytes()[..999_999])).await;
        connections.push(client);
    }
    let with = fixture.memory().saturating_sub(before) / 1_024;
    // A client with the token and small messages is served.
    let mut client: Client = fixture.client().await;
    client.send_text("no JSON").await;
    assert!(message(&client.next().await).contains("not JSON"));
    assert!(without < 64 && with < 128, "{without} MiB without a token, {with} MiB with it");
    let note = format!(
        "{without} MiB more without a token, {with} MiB with it; health, readiness and a new client beside them took {beside:?}"
    );
    TestResult {
        what: "1,000 connections, each with an unfinished message of 1 MB",
        times: 2 * UNFINISHED,
        note,
        ..TestResult::default()
    }
    .write();
    drop(connections);
    fixture.end().await;
}

/// Without descriptors for the reserve the service runs out of them: it logs that, and accepts
/// connections again as soon as it can.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn no_descriptor_left() {
    const FILES: u32 = 120;
    let fixture = Fixture::with(program_with_files(FILES), &[("DATA_PATCH_SERVER_HANDSHAKE_SECONDS", "2")]).await;
    let mut connections = Vec::new();
    for n in 0..2 * FILES as usize {
        // The kernel accepts them even if the service does not.
        connections.extend(connect_from(n, fixture.process.address).await);
    }
    let is_logged =
        || async { crate::support::Process::log(&fixture.folder).contains("connections cannot be accepted; trying again") };
    crate::support::eventually("the error is logged", is_logged).await;
    drop(connections);
    let took = response_time(&fixture).await;
    let note = format!("after they were closed, it answered within {took:?}");
    TestResult { what: "240 connections at 120 descriptors", times: 2 * FILES as usize, note, ..TestResult::default() }.write();
    fixture.end().await;
}
