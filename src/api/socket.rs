//! One connection: what comes in is handed to the [`Session`], what goes out is written by whoever has it.
//!
//! A client that does not read keeps its own watches waiting, and nobody else notices.

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

/// What a client may take to let one frame through before it counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// What a question whether it is there may take.
const PING_TIMEOUT: Duration = Duration::from_millis(100);
/// What a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pings that are answered before the right token was sent: the answers wait in memory for a client that does not read.
const MAX_PINGS: u32 = 100;

/// Why a connection ends.
enum CloseReason {
    /// The client closed it, or is gone.
    Gone,
    /// We close it.
    Close(CloseCode, &'static str),
    /// We close it, and read nothing more: what comes is no frame, or one that is not taken.
    Fail(CloseCode, &'static str),
    /// We close it to make room, and do not wait for anything.
    Evicted,
}

/// The way out, for a connection's replies and all its watches.
pub struct Outbox {
    sink: Mutex<SplitSink<Socket, Message>>,
    /// The client takes nothing any more.
    closed: CancellationToken,
}

impl Outbox {
    /// Sends messages in one write, and waits until the client lets them through. `false`: it does not, or is gone.
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

    /// Says that the connection is closed, and why.
    async fn close(&self, code: CloseCode, reason: &'static str, patience: Duration) {
        let message = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let _ = timeout(patience, self.send([message])).await;
    }

    /// Asks whether the client is there, unless it has left so much unread that the question would only wait behind it.
    pub async fn ping(&self) {
        if let Ok(mut sink) = self.sink.try_lock() {
            let _ = timeout(PING_TIMEOUT, sink.send(Message::Ping(Bytes::new()))).await;
        }
    }
}

/// Serves a connection until one of the two ends it.
pub async fn serve(socket: Socket, inbound: &Inbound, address: IpAddr, place: &AdmissionGuard, context: &ServerState) {
    let (sink, mut stream) = socket.split();
    let outbox = Arc::new(Outbox { sink: Mutex::new(sink), closed: CancellationToken::new() });
    let mut session = Session::new(context, address, place, inbound, Arc::clone(&outbox));
    let end = read(&mut stream, &mut session, &outbox, inbound, place, context).await;
    // Its watches end with it, its tasks go on.
    drop(session);
    let closing = async {
        match end {
            CloseReason::Gone => {
                let _ = timeout(CLOSE_TIMEOUT, async { outbox.sink.lock().await.close().await }).await;
            }
            CloseReason::Close(code, reason) => {
                outbox.close(code, reason, CLOSE_TIMEOUT).await;
                // The client answers; what it sent before is read, or it would see a reset in place of the code.
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
        // Others need the place: at least the close frame was sent.
        () = async { place.evicted().await; tokio::time::sleep(PING_TIMEOUT).await } => {}
    }
}

async fn read(
    stream: &mut SplitStream<Socket>,
    session: &mut Session<'_>,
    outbox: &Outbox,
    inbound: &Inbound,
    place: &AdmissionGuard,
    context: &ServerState,
) -> CloseReason {
    let ping_every = Duration::from_secs(context.config.ping_seconds);
    let idle_after = Duration::from_secs(context.config.idle_seconds);
    let (mut heard, mut said) = (Instant::now(), Instant::now());
    let token_by = heard + Duration::from_secs(context.config.auth_seconds);
    let mut next_ping = heard + ping_every;
    let mut pings = 0;
    loop {
        // The token of a large message is known before the message has arrived.
        let waits_for_token = !session.is_authenticated() && !inbound.has_token();
        tokio::select! {
            biased;
            () = context.close_connections.cancelled() => {
                return CloseReason::Close(CloseCode::Away, "the service restarts; connect again and send taskId and after");
            }
            () = outbox.closed.cancelled() => return CloseReason::Gone,
            () = place.evicted(), if waits_for_token => {
                if !inbound.has_token() {
                    return CloseReason::Evicted;
                }
            }
            () = session.watch_ended() => said = Instant::now(),
            () = sleep_until(if waits_for_token { next_ping.min(token_by) } else { next_ping }) => {
                if waits_for_token && Instant::now() >= token_by && !inbound.has_token() {
                    return CloseReason::Close(CloseCode::Policy, "no message with the right token came in time (server.auth_seconds)");
                }
                if inbound.is_overdue() {
                    return CloseReason::Fail(CloseCode::Policy, "a message did not arrive whole within a minute");
                }
                if Instant::now() < next_ping {
                    continue;
                }
                if heard.elapsed() > ping_every.mul_f64(2.5) {
                    tracing::debug!("a connection is let go: nothing was heard of it");
                    return CloseReason::Gone;
                }
                if session.is_idle() && said.elapsed() >= idle_after {
                    return CloseReason::Close(CloseCode::Normal, "idle: no task is watched and nothing was said (server.idle_seconds)");
                }
                outbox.ping().await;
                next_ping = Instant::now() + ping_every;
            }
            message = stream.next() => {
                heard = Instant::now();
                let next = match message {
                    None | Some(Ok(Message::Close(_))) => return CloseReason::Gone,
                    Some(Err(error)) => return failure(&error, inbound),
                    // On the heap while it lasts: thousands of connections say nothing most of the time.
                    Some(Ok(Message::Text(text))) => Box::pin(session.handle_message(&text)).await,
                    Some(Ok(Message::Binary(_))) => Box::pin(session.reject(&RequestError::Binary)).await,
                    Some(Ok(Message::Ping(_))) if waits_for_token => {
                        pings += 1;
                        if pings > MAX_PINGS {
                            return CloseReason::Close(CloseCode::Policy, "ping after ping, and no message with the right token");
                        }
                        continue;
                    }
                    Some(Ok(_)) => continue,
                };
                inbound.handled();
                said = Instant::now();
                match next {
                    Flow::Continue => {}
                    Flow::WrongToken => return CloseReason::Close(CloseCode::Policy, "wrong token"),
                    Flow::NoToken => return CloseReason::Close(CloseCode::Policy, "message after message, and none with the right token"),
                    Flow::Gone => return CloseReason::Gone,
                }
            }
        }
    }
}

/// What a connection that can't be read any more is closed with (RFC 6455, section 7.4.1).
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
        (None, Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => CloseReason::Gone,
        (None, Error::Protocol(_)) => {
            CloseReason::Fail(CloseCode::Protocol, "what came is no frame of a WebSocket client (RFC 6455)")
        }
        (None, Error::Utf8(_)) => CloseReason::Fail(CloseCode::Invalid, "a text is not UTF-8"),
        (None, _) => CloseReason::Gone,
    }
}
