//! The typed client, over connections that are aborted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use data_patch::task::{Event, TaskState};
use data_patch_client::{Client, Error, LogLine, PATH, Request, RetryPolicy, TaskId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

use crate::support::{TIMEOUT, TOKEN, TestApp, TestBroker, TestSource, TestTopic};

fn request(thing: Uuid, devices: &[Uuid], topic: &TestTopic) -> Request {
    Request::new(thing, devices, "2019-01-11T21:03:00.000+0800", "2029-01-15T14:30:00.000+0800").topic(&topic.name)
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

/// Starts a proxy that aborts its first `cut` connections after `bytes` from the service, not
/// counting the handshake. Returns its address and the number of accepted connections.
async fn cutting_proxy(to: &str, cut: usize, bytes: usize) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (to, taken) = (to.to_owned(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let counter = Arc::clone(&taken);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let number = counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let far = TcpStream::connect(&to).await.unwrap();
            tokio::spawn(pass_on(near, far, if number < cut { bytes } else { usize::MAX }));
        }
    });
    (format!("ws://{address}{PATH}"), taken)
}

async fn pass_on(mut near: TcpStream, mut far: TcpStream, bytes: usize) {
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let down = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far_read.read_u8().await?);
        }
        near_write.write_all(&head).await?;
        let (mut left, mut buffer) = (bytes, [0; 1024]);
        loop {
            let read = far_read.read(&mut buffer).await?;
            near_write.write_all(&buffer[..read.min(left)]).await?;
            if read == 0 || read > left {
                return Ok::<_, std::io::Error>(());
            }
            left -= read;
        }
    };
    tokio::select! {
        _ = down => {}
        _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
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
    let (url, taken) = cutting_proxy(&app.http, usize::MAX, 8_000).await;
    let mut client = Client::connect(url, TOKEN).await.unwrap();
    client.submit(&request(thing, &devices, &app.topic)).await.unwrap();
    let log = rest(&mut client).await;
    assert_eq!(seqs(&log), (1..=301).collect::<Vec<_>>());
    let taken = taken.load(std::sync::atomic::Ordering::SeqCst);
    assert!(taken > 5, "{taken} connections: it was not cut often");
    app.stop().await;
}

#[tokio::test]
async fn a_submit_whose_reply_was_lost_creates_one_task() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(5).await;
    let (url, taken) = cutting_proxy(&app.http, 1, 0).await;
    let mut client = Client::connect(url, TOKEN).await.unwrap();
    client.submit(&request(thing, &[device], &app.topic)).await.unwrap();
    rest(&mut client).await;
    assert_eq!(taken.load(std::sync::atomic::Ordering::SeqCst), 2, "the first connection was cut");
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
