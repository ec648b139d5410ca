//! The typed client, over connections that are aborted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use data_patch::task::{Event, TaskState};
use data_patch_client::{Client, Error, LogLine, PATH, Request, RetryPolicy, TaskId};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};
use uuid::Uuid;

use crate::support::{TIMEOUT, TOKEN, TestApp, TestBroker, TestSource, TestTopic};

fn request(thing: Uuid, devices: &[Uuid], topic: &TestTopic) -> Request {
    Request::new(thing, devices, "2019-01-11T21:03:00.000+0800", "2022-01-15T14:30:00.000+0800").topic(&topic.name)
}

/// Reads all further entries.
async fn rest(client: &mut Client) -> Vec<LogLine> {
    let mut entries = Vec::new();
    let reading = async {
        while let Some(entry) = client.next().await.unwrap() {
            entries.push(entry);
        }
    };
    tokio::time::timeout(TIMEOUT, reading).await.expect("the log does not end");
    entries
}

fn seqs(entries: &[LogLine]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

/// A proxy that cuts the first WebSockets through it.
struct CuttingProxy {
    /// The service.
    to: String,
    /// How many WebSockets are cut, each after so many bytes from the service; the handshake is not
    /// counted.
    cut: usize,
    bytes: usize,
    opened: AtomicUsize,
    cuts: AtomicUsize,
}

impl CuttingProxy {
    /// Starts the proxy; returns it with its address.
    async fn start(to: &str, cut: usize, bytes: usize) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Arc::new(Self { to: to.to_owned(), cut, bytes, opened: AtomicUsize::new(0), cuts: AtomicUsize::new(0) });
        let accepting = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let proxy = Arc::clone(&accepting);
                tokio::spawn(async move { proxy.pass_on(near).await });
            }
        });
        (format!("ws://{address}{PATH}"), proxy)
    }

    /// How many WebSockets were cut so far.
    fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }

    async fn pass_on(&self, mut near: TcpStream) {
        let Ok(mut far) = TcpStream::connect(&self.to).await else { return };
        let (mut near_read, mut near_write) = near.split();
        let (far_read, mut far_write) = far.split();
        tokio::select! {
            _ = self.pass_down(far_read, &mut near_write) => {}
            _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
        }
    }

    async fn pass_down(&self, mut far: ReadHalf<'_>, near: &mut WriteHalf<'_>) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await?);
        }
        near.write_all(&head).await?;
        // A port that was free a moment ago may still be asked by clients of another test, such as
        // those of a broker that was stopped. They open no WebSocket.
        let is_cut = head.starts_with(b"HTTP/1.1 101 ") && self.opened.fetch_add(1, Ordering::SeqCst) < self.cut;
        let (mut left, mut buffer) = (if is_cut { self.bytes } else { usize::MAX }, [0; 1024]);
        loop {
            let read = far.read(&mut buffer).await?;
            near.write_all(&buffer[..read.min(left)]).await?;
            if read > left {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if read == 0 {
                return Ok(());
            }
            left -= read;
        }
    }
}

#[tokio::test]
async fn a_task_is_submitted_and_watched_to_its_end() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut client = Client::connect(&app.url, TOKEN).await.unwrap();
    let task = client.submit(&request(thing, &[device], &app.topic)).await.unwrap();
    let log = rest(&mut client).await;
    assert!(log.iter().all(|entry| entry.task == task && entry.text == entry.event.to_string()), "{log:#?}");
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert!(log.iter().any(|entry| entry.event == Event::Published { device, published: 3, total: 3 }), "{log:#?}");
    let states: Vec<_> = log.iter().rev().map(|entry| entry.state).collect();
    assert!(matches!(states[..], [Some(TaskState::Succeeded), None, ..]), "{states:?}");
    client.close().await;
    app.stop().await;
}

#[tokio::test]
async fn aborted_connections_lose_no_entry() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(150).await;
    let (url, proxy) = CuttingProxy::start(&app.http, usize::MAX, 8_000).await;
    let mut client = Client::connect(url, TOKEN).await.unwrap();
    client.submit(&request(thing, &devices, &app.topic)).await.unwrap();
    let log = rest(&mut client).await;
    assert_eq!(seqs(&log), (1..=301).collect::<Vec<_>>());
    assert!(proxy.cuts() > 4, "{} connections: it was not cut often", proxy.cuts());
    app.stop().await;
}

#[tokio::test]
async fn a_submit_whose_reply_was_lost_creates_one_task() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(5).await;
    let (url, proxy) = CuttingProxy::start(&app.http, 1, 0).await;
    let mut client = Client::connect(url, TOKEN).await.unwrap();
    client.submit(&request(thing, &[device], &app.topic)).await.unwrap();
    rest(&mut client).await;
    // The client may have connected more often: it gives a connection up that a busy machine is slow
    // to open.
    assert_eq!(proxy.cuts(), 1, "the reply was lost");
    let tasks = app.call("GET", "/tasks", &Value::Null).await.json();
    assert_eq!(tasks["items"].as_array().unwrap().len(), 1, "{tasks:#}");
    assert_eq!(app.topic.read().await.len(), 5);
    app.stop().await;
}

#[tokio::test]
async fn a_restart_of_the_service_loses_no_entry() {
    let (folder, topic) = (Arc::new(tempfile::tempdir().unwrap()), TestBroker::start().await.topic().await);
    let first = TestApp::start_on(Arc::clone(&folder), TestSource::empty().await, topic.clone(), |_| {}).await;
    let (thing, devices) = first.source.add_devices_of_one_row(150).await;
    let (source, address) = (first.source.clone(), first.http.parse::<SocketAddr>().unwrap());
    let retry = RetryPolicy { max_attempts: 1_000, max_delay: Duration::from_millis(100), ..RetryPolicy::default() };
    let mut client = Client::new(&first.url, TOKEN, retry);
    client.submit(&request(thing, &devices, &topic)).await.unwrap();
    let mut log = vec![client.next().await.unwrap().unwrap()];
    let restart = async {
        first.stop().await;
        TestApp::start_on(folder, source, topic, |overrides| {
            overrides.set(&["server", "listen"], address.to_string());
        })
        .await
    };
    let (second, more) = tokio::join!(restart, rest(&mut client));
    log.extend(more);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert_eq!(log.last().unwrap().state, Some(TaskState::Succeeded));
    second.stop().await;
}

#[tokio::test]
async fn the_log_of_a_finished_task_is_sent_from_any_entry_and_ends() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(5).await;
    let mut client = Client::connect(&app.url, TOKEN).await.unwrap();
    let task = client.submit(&request(thing, &devices, &app.topic)).await.unwrap();
    let log = rest(&mut client).await;
    for after in [0, 4, log.len() - 1, log.len()] {
        assert_eq!(client.attach(task, after as u64).await.unwrap(), TaskState::Succeeded);
        assert_eq!(rest(&mut client).await, log[after..], "after {after}");
    }
    app.stop().await;
}

#[tokio::test]
async fn refusals_have_their_code() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let good = request(thing, &[device], &app.topic);
    let mut stranger = Client::connect(&app.url, "654321").await.unwrap();
    let mut client = Client::connect(&app.url, TOKEN).await.unwrap();
    for (error, code) in [
        (stranger.submit(&good).await.map(|_| ()), "wrong_token"),
        (client.submit(&Request::new(thing, [device], "yesterday", "today")).await.map(|_| ()), "invalid_field"),
        (client.attach(TaskId(Uuid::new_v4()), 0).await.map(|_| ()), "unknown_task"),
        (client.cancel(TaskId(Uuid::new_v4())).await.map(|_| ()), "unknown_task"),
    ] {
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Refused { text, .. } if !text.is_empty()), "{error}");
        assert_eq!(error.code(), Some(code), "{error}");
    }
    client.submit(&good).await.expect("a refusal costs no connection");
    app.stop().await;
}

#[tokio::test]
async fn a_cancel_is_answered_while_entries_arrive() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(150).await;
    let mut client = Client::connect(&app.url, TOKEN).await.unwrap();
    let task = client.submit(&request(thing, &devices, &app.topic)).await.unwrap();
    client.cancel(task).await.unwrap();
    let log = rest(&mut client).await;
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert!(client.cancel(task).await.unwrap().already_finished);
    app.stop().await;
}

#[tokio::test]
async fn an_unreachable_service_is_reported_after_the_last_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}{PATH}", listener.local_addr().unwrap());
    drop(listener);
    let retry = RetryPolicy { max_attempts: 3, initial_delay: Duration::from_millis(1), max_delay: Duration::from_millis(1) };
    let error = Client::new(url, TOKEN, retry).attach(TaskId(Uuid::new_v4()), 0).await.unwrap_err();
    assert!(matches!(error, Error::Connection { attempts: 3, .. }), "{error}");
}
