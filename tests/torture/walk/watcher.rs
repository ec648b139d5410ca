//! A client that follows a task to its end, and reconnects to any running service.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};

use crate::support::{Client, TOKEN, is_end, message};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The addresses of the running services.
pub type Services = watch::Receiver<Vec<String>>;

/// How a connection is closed by the client.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// With a reset (RST).
    Reset,
    /// With a FIN, without a close frame.
    Drop,
}

/// Follows the log of a task.
pub struct Watcher {
    /// Number of the task in the walk.
    pub task: usize,
    /// The sequence number after which it started.
    pub after: u64,
    lines: Arc<Mutex<Vec<Value>>>,
    cuts: mpsc::UnboundedSender<Cut>,
    /// `None` once the last line was received.
    following: Option<JoinHandle<()>>,
}

struct Follower {
    id: String,
    after: u64,
    /// Index of the service that it prefers.
    preferred: usize,
    services: Services,
    lines: Arc<Mutex<Vec<Value>>>,
    cuts: mpsc::UnboundedReceiver<Cut>,
}

/// Why reading from a connection ended.
enum ReadEnd {
    Ended,
    Cut(Cut),
    Broken,
}

impl Watcher {
    /// Follows a task after an entry; first on `client`, if given, which is attached already.
    pub fn start(task: usize, id: String, after: u64, preferred: usize, services: Services, client: Option<Client>) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, cuts) = mpsc::unbounded_channel();
        let follower = Follower { id, after, preferred, services, lines: Arc::clone(&lines), cuts };
        let following = tokio::spawn(follower.follow(client.map(|client| client.socket)));
        Self { task, after, lines, cuts: sender, following: Some(following) }
    }

    /// Closes its current or next connection; no effect after the last line.
    pub fn cut(&self, cut: Cut) {
        let _ = self.cuts.send(cut);
    }

    pub fn count(&self) -> u64 {
        self.lines.lock().unwrap().len() as u64
    }

    /// Whether it has received the last line. Panics if the watcher has failed.
    pub async fn is_done(&mut self) -> bool {
        if let Some(following) = self.following.take_if(|following| following.is_finished()) {
            following.await.expect("a watcher failed");
        }
        self.following.is_none()
    }

    /// All lines after `after`.
    pub fn log(self) -> Vec<Value> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

impl Follower {
    async fn follow(mut self, mut open: Option<Socket>) {
        loop {
            let mut socket = match open.take() {
                Some(socket) => socket,
                None => self.attach().await,
            };
            match self.read_entries(&mut socket).await {
                ReadEnd::Ended => return,
                ReadEnd::Cut(Cut::Reset) => {
                    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
                        // The connection may have broken meanwhile.
                        let _ = stream.set_zero_linger();
                    }
                }
                ReadEnd::Cut(Cut::Drop) | ReadEnd::Broken => {}
            }
        }
    }

    fn last_seq(&self) -> u64 {
        self.after + self.lines.lock().unwrap().len() as u64
    }

    async fn attach(&mut self) -> Socket {
        /// Delay before the next attempt, unless a service starts earlier.
        const RETRY_DELAY: Duration = Duration::from_millis(100);
        loop {
            let url = {
                let services = self.services.borrow_and_update();
                services[self.preferred % services.len()].clone()
            };
            if let Some(socket) = self.try_attach(&url).await {
                return socket;
            }
            let _ = tokio::time::timeout(RETRY_DELAY, self.services.changed()).await;
        }
    }

    async fn try_attach(&self, url: &str) -> Option<Socket> {
        let mut socket = connect_async(url).await.ok()?.0;
        let attach = json!({"token": TOKEN, "taskId": self.id, "after": self.last_seq()});
        socket.send(Message::text(attach.to_string())).await.ok()?;
        loop {
            match socket.next().await? {
                Ok(Message::Text(text)) => {
                    let reply: Value = serde_json::from_str(&text).unwrap();
                    if message(&reply) == "task attached." {
                        return Some(socket);
                    }
                    // A stopping service may answer this; the task and the entry are known to all.
                    let code = reply["payload"]["code"].as_str();
                    assert!(matches!(code, Some("shutting_down" | "queue_unavailable")), "{attach} is answered with {reply}");
                    return None;
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Reads lines, which must be consecutive.
    async fn read_entries(&mut self, socket: &mut Socket) -> ReadEnd {
        loop {
            let received = tokio::select! {
                biased;
                Some(cut) = self.cuts.recv() => return ReadEnd::Cut(cut),
                message = socket.next() => message,
            };
            match received {
                Some(Ok(Message::Text(text))) => {
                    let line: Value = serde_json::from_str(&text).unwrap();
                    let next = self.last_seq() + 1;
                    assert_eq!(line["payload"]["seq"], next, "task {}: line {next} is expected, not {line}", self.id);
                    assert_eq!(line["payload"]["taskId"], self.id, "{line}");
                    let ended = is_end(&line);
                    self.lines.lock().unwrap().push(line);
                    if ended {
                        return ReadEnd::Ended;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_))) | None => {
                    return ReadEnd::Broken;
                }
                Some(Err(error)) => panic!("task {}: {error}", self.id),
            }
        }
    }
}
