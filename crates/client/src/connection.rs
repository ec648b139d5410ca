//! A WebSocket connection to the service.

use std::time::Duration;

use data_patch_protocol::reply::Reply;
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Bytes, Message},
};

use crate::error::{ConnectionError, Error, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// If nothing is received for this long, a ping is sent; after the same time without an answer, the
/// connection counts as lost. This detects a peer that disappears without closing the connection.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    is_pinged: bool,
}

impl Connection {
    pub async fn open(url: &str) -> Result<Self, ConnectionError> {
        let (socket, _) = timeout(CONNECT_TIMEOUT, connect_async(url)).await.map_err(|_| ConnectionError::TimedOut)??;
        Ok(Self { socket, is_pinged: false })
    }

    pub async fn send(&mut self, text: &str) -> Result<(), ConnectionError> {
        timeout(READ_TIMEOUT * 2, self.socket.send(Message::text(text))).await.map_err(|_| ConnectionError::TimedOut)??;
        Ok(())
    }

    /// The next message. Cancel-safe.
    pub async fn read(&mut self) -> Result<Reply, Failure> {
        loop {
            let Ok(frame) = timeout(READ_TIMEOUT, self.socket.next()).await else {
                if std::mem::replace(&mut self.is_pinged, true) {
                    return Err(ConnectionError::TimedOut.into());
                }
                timeout(READ_TIMEOUT, self.socket.send(Message::Ping(Bytes::new())))
                    .await
                    .map_err(|_| ConnectionError::TimedOut)??;
                continue;
            };
            self.is_pinged = false;
            match frame.transpose()? {
                Some(Message::Text(text)) => {
                    return Reply::parse(&text).map_err(|error| Failure::Final(Error::Protocol(error.to_string())));
                }
                Some(Message::Close(Some(frame))) => {
                    return Err(ConnectionError::Closed { code: frame.code.into(), reason: frame.reason.to_string() }.into());
                }
                None | Some(Message::Close(None)) => return Err(ConnectionError::Ended.into()),
                Some(_) => {}
            }
        }
    }

    /// Closes the connection; waits only shortly for the service.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }
}
