//! The real service on a free port.

use std::{sync::Arc, time::Duration};

use data_patch::{
    api,
    app::{self, queue_options},
    config::{self, Config, Overrides},
    protocol::{PATH, Token},
    queue::{Clock, Queue},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Client, TestBroker, TestSource, TestTopic, queue_url};

pub const TOKEN: &str = "123456";

/// A configuration with this source and broker, a queue in `folder`, and short timeouts.
pub fn config(folder: &TempDir, source: &TestSource, broker: &TestBroker, tweak: impl FnOnce(&mut Overrides)) -> Config {
    let mut overrides = Overrides::default();
    source.configure(&mut overrides);
    overrides
        .set(&["server", "listen"], "127.0.0.1:0")
        .set(&["queue", "url"], queue_url(folder))
        .set(&["kafka", "brokers"], if broker.is_real() { broker.brokers() } else { "embedded" })
        .set(&["worker", "lease_seconds"], 4)
        .set(&["worker", "retry_max_ms"], 1_000);
    tweak(&mut overrides);
    config::load(None, std::iter::empty(), overrides).unwrap()
}

/// Opens the queue in `folder`.
pub async fn open_queue(folder: &TempDir, clock: Clock) -> Queue {
    let mut overrides = Overrides::default();
    overrides.set(&["queue", "url"], queue_url(folder));
    let config = config::load(None, std::iter::empty(), overrides).unwrap();
    Queue::open(&queue_options(&config.queue), clock).await.unwrap()
}

pub struct TestApp {
    pub url: String,
    pub http: String,
    pub source: TestSource,
    pub topic: TestTopic,
    pub folder: Arc<TempDir>,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl TestApp {
    pub async fn start(source: TestSource) -> Self {
        Self::start_with(source, |_| {}).await
    }

    pub async fn start_with(source: TestSource, tweak: impl FnOnce(&mut Overrides)) -> Self {
        let topic = TestBroker::start().await.topic().await;
        Self::start_on(Arc::new(tempfile::tempdir().unwrap()), source, topic, tweak).await
    }

    pub async fn start_on(
        folder: Arc<TempDir>,
        source: TestSource,
        topic: TestTopic,
        tweak: impl FnOnce(&mut Overrides),
    ) -> Self {
        let config = config(&folder, &source, &topic.broker, tweak);
        let listener = api::listen(config.server.listen).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(app::run(config, Token::new(TOKEN), listener, topic.broker.embedded(), stop.clone()));
        let app = Self { url: format!("ws://{address}{PATH}"), http: address.to_string(), source, topic, folder, stop, running };
        // The listener accepts connections before the service does.
        app.get("/healthz").await;
        app
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url).await
    }

    /// Runs a task with all rows of some devices; returns its id and log.
    pub async fn publish(&self, thing: Uuid, devices: &[Uuid]) -> (String, Vec<Value>) {
        let mut client = self.client().await;
        let task = client.submit(&Client::request(thing, devices, &self.topic.name)).await;
        (task, client.log().await)
    }

    /// Opens another handle to the queue's file.
    pub async fn queue(&self) -> Queue {
        open_queue(&self.folder, Clock::System).await
    }

    /// Sends an HTTP GET; returns status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.http, path).await
    }

    /// Sends a request to the HTTP API ([`call`]).
    pub async fn call(&self, method: &str, path: &str, body: &serde_json::Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        call(&self.http, method, path, &[], &body).await
    }

    /// Starts the shutdown without waiting for it.
    pub fn request_stop(&self) {
        self.stop.cancel();
    }

    /// Stops the service gracefully.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// Sends an HTTP GET; returns status and body.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    let (head, body) = get_with(address, path, "accept: */*").await;
    (head[9..12].parse().unwrap(), body)
}

/// Sends an HTTP GET with this header; returns the head in lower case, and the body.
pub async fn get_with(address: &str, path: &str, header: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{header}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

/// The answer to an HTTP request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request with the test's token to the HTTP API; `path` is below its prefix. `headers` are
/// complete lines and may replace the token.
pub async fn call(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut lines = vec![
        format!("{method} /data-patch/api/v1{path} HTTP/1.1"),
        "host: test".to_owned(),
        "connection: close".to_owned(),
        format!("content-length: {}", body.len()),
    ];
    let has = |name: &str| headers.iter().any(|line| line.to_lowercase().starts_with(name));
    if !has("authorization:") {
        lines.push(format!("authorization: Bearer {}", super::TOKEN));
    }
    if !body.is_empty() && !has("content-type:") {
        lines.push("content-type: application/json".to_owned());
    }
    lines.extend(headers.iter().map(|line| (*line).to_owned()));
    stream.write_all(format!("{}\r\n\r\n{body}", lines.join("\r\n")).as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Answer { status: head[9..12].parse().unwrap(), head: head.to_lowercase(), body: body.to_owned() }
}
