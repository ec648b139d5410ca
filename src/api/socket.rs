//! One WebSocket: incoming messages are passed to the [`Session`]; the [`Outbox`] serialises
//! outgoing messages.
//!
//! A client that does not read blocks only its own log tails.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message,
    error::{CapacityError, ProtocolError},
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

use super::{
    ServerState,
    admission::AdmissionGuard,
    inbound::{Excess, Inbound},
    session::{Flow, Session},
    upgrade::Socket,
};
use crate::protocol::RequestError;

/// Timeout for one write, after which the client counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for sending a ping.
const PING_TIMEOUT: Duration = Duration::from_millis(100);
/// Timeout for the close handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum pings before the right token: the pongs are buffered for a client that does not read.
const MAX_PINGS: u32 = 100;

/// Why a connection ends.
enum CloseReason {
    /// The client closed it, or has disconnected.
    Disconnected,
    /// The server closes it.
    Close(CloseCode, &'static str),
    /// The server closes it and reads nothing more, after an invalid frame or one over a limit.
    Fail(CloseCode, &'static str),
    /// The server closes it in favour of another, without a handshake.
    Evicted,
}

/// The sending half, shared by the replies and all log tails.
pub struct Outbox {
    sink: Mutex<SplitSink<Socket, Message>>,
    /// The client accepts no more messages.
    closed: CancellationToken,
}

impl Outbox {
    /// Sends messages in one write, and waits until they are flushed. Returns false if the client
    /// does not read, or has disconnected.
    pub async fn send(&self, messages: impl IntoIterator<Item = Message>) -> bool {
        if self.closed.is_cancelled() {
            return false;
        }
        let sent = async {
            let mut sink = self.sink.lock().await;
            for message in messages {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        let sent = matches!(timeout(WRITE_TIMEOUT, sent).await, Ok(Ok(())));
        if !sent {
            self.closed.cancel();
        }
        sent
    }

    /// Sends a close frame.
    async fn close(&self, code: CloseCode, reason: &'static str, close_timeout: Duration) {
        let message = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let _ = timeout(close_timeout, self.send([message])).await;
    }

    /// Sends a ping, unless a write is blocked: the ping would only wait behind it.
    pub async fn ping(&self) {
        if let Ok(mut sink) = self.sink.try_lock() {
            let _ = timeout(PING_TIMEOUT, sink.send(Message::Ping(Bytes::new()))).await;
        }
    }
}

/// Serves a connection until the client or the server closes it.
pub async fn serve(socket: Socket, inbound: &Inbound, address: IpAddr, guard: &AdmissionGuard, state: &ServerState) {
    let (sink, mut stream) = socket.split();
    let outbox = Arc::new(Outbox { sink: Mutex::new(sink), closed: CancellationToken::new() });
    let mut session = Session::new(state, address, guard, inbound, Arc::clone(&outbox));
    let close_reason = read(&mut stream, &mut session, &outbox, inbound, guard, state).await;
    // This stops its log tails; its tasks continue.
    drop(session);
    let closing = async {
        match close_reason {
            CloseReason::Disconnected => {
                let _ = timeout(CLOSE_TIMEOUT, async { outbox.sink.lock().await.close().await }).await;
            }
            CloseReason::Close(code, reason) => {
                outbox.close(code, reason, CLOSE_TIMEOUT).await;
                // Reads until the client's close frame: closing with unread data would reset the
                // connection before the client sees the code.
                let _ = timeout(CLOSE_TIMEOUT, async { while let Some(Ok(_)) = stream.next().await {} }).await;
            }
            CloseReason::Fail(code, reason) => {
                outbox.close(code, reason, CLOSE_TIMEOUT).await;
                tokio::time::sleep(CLOSE_TIMEOUT).await;
            }
            CloseReason::Evicted => {
                let reason = "too many connections have sent no token; connect again and send it at once";
                outbox.close(CloseCode::Again, reason, PING_TIMEOUT).await;
            }
        }
    };
    tokio::select! {
        () = closing => {}
        // Evicted while closing: the close frame has been sent.
        () = async { guard.evicted().await; tokio::time::sleep(PING_TIMEOUT).await } => {}
    }
}

async fn read(
    stream: &mut SplitStream<Socket>,
    session: &mut Session<'_>,
    outbox: &Outbox,
    inbound: &Inbound,
    guard: &AdmissionGuard,
    state: &ServerState,
) -> CloseReason {
    let ping_interval = Duration::from_secs(state.config.ping_seconds);
    let idle_timeout = Duration::from_secs(state.config.idle_seconds);
    let (mut last_received, mut last_activity) = (Instant::now(), Instant::now());
    let token_deadline = last_received + Duration::from_secs(state.config.auth_seconds);
    let mut next_ping = last_received + ping_interval;
    let mut pings = 0;
    let mut token_changes = state.tokens.subscribe();
    loop {
        // The token of a large message is known before the message is complete.
        let awaits_token = !session.is_authenticated() && !inbound.has_token();
        tokio::select! {
            biased;
            () = state.close_connections.cancelled() => {
                return CloseReason::Close(CloseCode::Away, "the service restarts; connect again and send taskId and after");
            }
            () = outbox.closed.cancelled() => return CloseReason::Disconnected,
            () = guard.evicted(), if awaits_token => {
                if !inbound.has_token() {
                    return CloseReason::Evicted;
                }
            }
            Ok(()) = token_changes.changed() => {
                if session.lost_token() {
                    return CloseReason::Close(CloseCode::Policy, "the token was removed from the service");
                }
            }
            () = session.tail_ended() => last_activity = Instant::now(),
            () = sleep_until(if awaits_token { next_ping.min(token_deadline) } else { next_ping }) => {
                if awaits_token && Instant::now() >= token_deadline && !inbound.has_token() {
                    return CloseReason::Close(CloseCode::Policy, "no message with the right token came in time (server.auth_seconds)");
                }
                if inbound.is_overdue() {
                    return CloseReason::Fail(CloseCode::Policy, "a message did not arrive completely within a minute");
                }
                if Instant::now() < next_ping {
                    continue;
                }
                if last_received.elapsed() > ping_interval.mul_f64(2.5) {
                    tracing::debug!("a connection is closed: nothing was received from it");
                    return CloseReason::Disconnected;
                }
                if session.has_no_tails() && last_activity.elapsed() >= idle_timeout {
                    return CloseReason::Close(CloseCode::Normal, "idle: no task is watched and no message was received (server.idle_seconds)");
                }
                outbox.ping().await;
                next_ping = Instant::now() + ping_interval;
            }
            message = stream.next() => {
                last_received = Instant::now();
                let flow = match message {
                    None | Some(Ok(Message::Close(_))) => return CloseReason::Disconnected,
                    Some(Err(error)) => return failure(&error, inbound),
                    // Boxed: most of thousands of connections are idle most of the time.
                    Some(Ok(Message::Text(text))) => Box::pin(session.handle_message(&text)).await,
                    Some(Ok(Message::Binary(_))) => Box::pin(session.reject(&RequestError::Binary)).await,
                    Some(Ok(Message::Ping(_))) if awaits_token => {
                        pings += 1;
                        if pings > MAX_PINGS {
                            return CloseReason::Close(CloseCode::Policy, "too many pings before a message with the right token");
                        }
                        continue;
                    }
                    Some(Ok(_)) => continue,
                };
                inbound.handled();
                last_activity = Instant::now();
                match flow {
                    Flow::Continue => {}
                    Flow::WrongToken => return CloseReason::Close(CloseCode::Policy, "wrong token"),
                    Flow::NoToken => return CloseReason::Close(CloseCode::Policy, "too many messages without the right token"),
                    Flow::Disconnected => return CloseReason::Disconnected,
                }
            }
        }
    }
}

/// The close code for a failed read (RFC 6455, section 7.4.1).
fn failure(error: &Error, inbound: &Inbound) -> CloseReason {
    match (inbound.excess(), error) {
        (Some(Excess::Message), _) | (None, Error::Capacity(CapacityError::MessageTooLong { .. })) => {
            CloseReason::Fail(CloseCode::Size, "the message is over the limit (server.max_message_bytes)")
        }
        (Some(Excess::BeforeToken), _) => {
            CloseReason::Fail(CloseCode::Size, "a message of more than 65536 bytes must have its token within the first of them")
        }
        (Some(Excess::Budget), _) => {
            CloseReason::Fail(CloseCode::Again, "too much is being received; send the message again in a moment")
        }
        (None, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => CloseReason::Disconnected,
        (None, Error::Protocol(_)) => {
            CloseReason::Fail(CloseCode::Protocol, "not a valid frame of a WebSocket client (RFC 6455)")
        }
        (None, Error::Utf8(_)) => CloseReason::Fail(CloseCode::Invalid, "a text message is not valid UTF-8"),
        (None, _) => CloseReason::Disconnected,
    }
}
