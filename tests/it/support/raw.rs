//! A client that sends raw bytes, valid or not.

use std::time::Duration;

use data_patch::protocol::PATH;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::TIMEOUT;

pub struct RawClient {
    pub stream: TcpStream,
}

/// The headers of a valid handshake.
pub const HANDSHAKE: [&str; 5] = [
    "Host: test",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

impl RawClient {
    pub async fn connect(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    /// A WebSocket.
    pub async fn open(address: &str, more: &[&str]) -> Self {
        let mut client = Self::connect(address).await;
        let head = client.ask("HTTP/1.1", &[&HANDSHAKE, more].concat()).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The connection may be closed already; the test then sees that when it reads.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends an upgrade request; returns the head of the response, in lower case except for its
    /// first line.
    pub async fn ask(&mut self, version: &str, headers: &[&str]) -> String {
        self.send(format!("GET {PATH} {version}\r\n{}\r\n\r\n", headers.join("\r\n")).as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::time::timeout(TIMEOUT, self.stream.read_u8()).await.expect("no answer").expect("closed"));
        }
        let head = String::from_utf8(head).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap();
        format!("{first}\r\n{}", rest.to_lowercase())
    }

    /// Waits until the service closes the connection.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(TIMEOUT, self.stream.read_to_end(&mut rest)).await;
        // It may be a reset.
        let _ = closed.expect("it is not closed");
    }

    /// Whether the service has not closed the connection within a moment.
    pub async fn is_open(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.stream.peek(&mut [0])).await.is_err()
    }

    /// The next frame: opcode and payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let frame = async {
            let opcode = self.stream.read_u8().await.expect("closed without a word") & 0x0f;
            let len = match self.stream.read_u8().await.unwrap() {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap() as usize,
                len => usize::from(len),
            };
            let mut payload = vec![0; len];
            self.stream.read_exact(&mut payload).await.unwrap();
            (opcode, payload)
        };
        tokio::time::timeout(TIMEOUT, frame).await.expect("nothing comes")
    }

    /// Skips other frames, and returns the close code.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let (8, payload) = self.frame().await {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }

    /// The next text.
    pub async fn text(&mut self) -> String {
        loop {
            if let (1, payload) = self.frame().await {
                return String::from_utf8(payload).unwrap();
            }
        }
    }
}

/// A masked frame that announces `len` bytes and has only `payload`; `first` is its first byte.
pub fn frame_of(first: u8, len: usize, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 1, 9, 3];
    let mut frame = vec![first];
    match len {
        0..126 => frame.push(0x80 | len as u8),
        126..65_536 => {
            frame.push(0xfe);
            frame.extend((len as u16).to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(mask_from(payload, 0));
    frame
}

/// The masked payload of such a frame from an offset.
pub fn mask_from(payload: &[u8], at: usize) -> Vec<u8> {
    payload.iter().zip([7, 1, 9, 3].into_iter().cycle().skip(at % 4)).map(|(byte, mask)| byte ^ mask).collect()
}

/// A whole text message.
pub fn text(payload: &str) -> Vec<u8> {
    frame_of(0x81, payload.len(), payload.as_bytes())
}
