//! A minimal WebSocket client, independent of the service's own.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message},
};
use uuid::Uuid;

use super::{TIMEOUT, TOKEN};

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// The text of a log line or reply.
pub fn message(reply: &Value) -> &str {
    reply["payload"]["msg"].as_str().or_else(|| reply["payload"]["ex"].as_str()).unwrap_or_default()
}

/// Whether this is the last line of a task.
pub fn is_end(reply: &Value) -> bool {
    reply["type"] == "theme-data" && reply["payload"]["state"].is_string()
}

/// The sequence numbers of log lines.
pub fn seqs(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["payload"]["seq"].as_u64().unwrap()).collect()
}

impl Client {
    pub async fn connect(url: &str) -> Self {
        Self { socket: connect_async(url).await.unwrap().0 }
    }

    /// A request for all rows of devices.
    pub fn request(thing: Uuid, devices: &[Uuid], topic: &str) -> Value {
        json!({
            "src": "iota", "token": TOKEN, "topic": topic, "thingId": thing, "devices": devices,
            "from": "2019-01-11T21:03:00.000+0800", "to": "2022-01-15T14:30:00.000+0800",
        })
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Submits, and returns the task's id.
    pub async fn submit(&mut self, request: &Value) -> String {
        self.send(request).await;
        let reply = self.next().await;
        assert_eq!(message(&reply), "task created.", "{reply}");
        reply["payload"]["taskId"].as_str().unwrap().to_owned()
    }

    /// Attaches, and returns the reply.
    pub async fn attach(&mut self, task: &str, after: u64) -> Value {
        self.send(&json!({"token": TOKEN, "taskId": task, "after": after})).await;
        self.next().await
    }

    /// The next text, as JSON.
    pub async fn next(&mut self) -> Value {
        match self.next_frame().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// The next frame other than a ping or pong.
    pub async fn next_frame(&mut self) -> Option<Message> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return Some(message),
                    Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) | None => return None,
                    Some(Err(error)) => panic!("{error}"),
                }
            }
        };
        // Pings do not count: an idle service sends them too.
        tokio::time::timeout(TIMEOUT, next).await.expect("no message arrived")
    }

    /// Skips other frames, and returns the code that the connection is closed with.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.next_frame().await {
                Some(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// The log up to a matching line, inclusive.
    pub async fn until(&mut self, matches: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.next().await;
            let last = matches(&line);
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    /// The log to its end.
    pub async fn log(&mut self) -> Vec<Value> {
        self.until(is_end).await
    }
}
