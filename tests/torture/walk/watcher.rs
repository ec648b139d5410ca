//! A client that follows a task to its end, however often it is cut off and whichever service lives.

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

/// The addresses of the services that there are, as they come and go.
pub type Services = watch::Receiver<Vec<String>>;

/// How a connection is cut.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// With a reset, as when a machine dies and comes back.
    Reset,
    /// With an end, but without a close.
    Drop,
}

/// Follows the log of a task.
pub struct Watcher {
    /// Number of the task in the walk.
    pub task: usize,
    /// The line after which it began.
    pub after: u64,
    lines: Arc<Mutex<Vec<Value>>>,
    cuts: mpsc::UnboundedSender<Cut>,
    /// Until it has seen the end.
    following: Option<JoinHandle<()>>,
}

struct Follower {
    id: String,
    after: u64,
    /// Which of the services it likes best.
    home: usize,
    services: Services,
    lines: Arc<Mutex<Vec<Value>>>,
    cuts: mpsc::UnboundedReceiver<Cut>,
}

/// Why nothing more is read from a connection.
enum Over {
    Ended,
    Cut(Cut),
    Broken,
}

impl Watcher {
    /// Follows a task after some line, at first on `client`, which is attached already, if there is one.
    pub fn start(task: usize, id: String, after: u64, home: usize, services: Services, client: Option<Client>) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, cuts) = mpsc::unbounded_channel();
        let follower = Follower { id, after, home, services, lines: Arc::clone(&lines), cuts };
        let following = tokio::spawn(follower.follow(client.map(|client| client.socket)));
        Self { task, after, lines, cuts: sender, following: Some(following) }
    }

    /// Cuts the connection that it has, or will have; nothing if it has seen the end.
    pub fn cut(&self, cut: Cut) {
        let _ = self.cuts.send(cut);
    }

    pub fn count(&self) -> u64 {
        self.lines.lock().unwrap().len() as u64
    }

    /// Whether it has seen the last line; one that saw something wrong fails the walk here.
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
            match self.hear(&mut socket).await {
                Over::Ended => return,
                Over::Cut(Cut::Reset) => {
                    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
                        // It may be broken by itself at this moment.
                        let _ = stream.set_zero_linger();
                    }
                }
                Over::Cut(Cut::Drop) | Over::Broken => {}
            }
        }
    }

    fn last_seq(&self) -> u64 {
        self.after + self.lines.lock().unwrap().len() as u64
    }

    async fn attach(&mut self) -> Socket {
        /// Services that refuse are asked again so soon, or when another has come.
        const AGAIN: Duration = Duration::from_millis(100);
        loop {
            let url = {
                let services = self.services.borrow_and_update();
                services[self.home % services.len()].clone()
            };
            if let Some(socket) = self.try_attach(&url).await {
                return socket;
            }
            let _ = tokio::time::timeout(AGAIN, self.services.changed()).await;
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
                    // A service that stops may answer so; none may say that the task or the line is unknown.
                    let code = reply["payload"]["code"].as_str();
                    assert!(matches!(code, Some("shutting_down" | "queue_unavailable")), "{attach} is answered with {reply}");
                    return None;
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Reads lines, each of which must be the one that comes next.
    async fn hear(&mut self, socket: &mut Socket) -> Over {
        loop {
            let heard = tokio::select! {
                biased;
                Some(cut) = self.cuts.recv() => return Over::Cut(cut),
                heard = socket.next() => heard,
            };
            match heard {
                Some(Ok(Message::Text(text))) => {
                    let line: Value = serde_json::from_str(&text).unwrap();
                    let next = self.last_seq() + 1;
                    assert_eq!(line["payload"]["seq"], next, "task {}: line {next} was to come, not {line}", self.id);
                    assert_eq!(line["payload"]["taskId"], self.id, "{line}");
                    let ended = is_end(&line);
                    self.lines.lock().unwrap().push(line);
                    if ended {
                        return Over::Ended;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) | Error::Protocol(_))) | None => {
                    return Over::Broken;
                }
                Some(Err(error)) => panic!("task {}: {error}", self.id),
            }
        }
    }
}
