//! One connection: what comes in is handed to the [`Session`], what goes out waits in a short queue.
//!
//! A client that does not read fills its queue, its watches wait, and nobody else notices.

use std::{net::IpAddr, time::Duration};

use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Bytes, Error, Message,
    error::CapacityError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    Context,
    session::{Next, Session},
    upgrade::Socket,
};
use crate::protocol::{Refusal, reply};

/// Frames that wait to be sent.
const OUTBOX: usize = 32;
/// What a client may take to let one frame through before it counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// What a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ends.
enum End {
    /// The client closed it, or is gone.
    Gone,
    /// We close it.
    Close(CloseCode, &'static str),
    /// A frame over the limit is still on its way; it is not read.
    TooBig,
}

/// Serves a connection until one of the two ends it.
pub async fn serve(socket: Socket, address: IpAddr, context: &Context) {
    let (sink, mut stream) = socket.split();
    let (outbox, waiting) = mpsc::channel(OUTBOX);
    let mut sending = tokio::spawn(write(sink, waiting));
    let mut session = Session::new(context, address, outbox.clone());
    let end = read(&mut stream, &mut session, &outbox, context).await;
    // Its watches end with it, its tasks go on.
    drop(session);
    let closes = match end {
        End::Gone => None,
        End::Close(code, reason) => Some((code, reason)),
        End::TooBig => Some((CloseCode::Size, "the message is over the limit (server.max_message_bytes)")),
    };
    if let Some((code, reason)) = closes {
        let message = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let _ = timeout(CLOSE_TIMEOUT, outbox.send(message)).await;
    }
    drop(outbox);
    if timeout(CLOSE_TIMEOUT, &mut sending).await.is_err() {
        sending.abort();
    }
    match end {
        End::Gone => {}
        // The client answers a close; what it sent before is read, or it would see a reset in place of the code.
        End::Close(..) => {
            let _ = timeout(CLOSE_TIMEOUT, async { while let Some(Ok(_)) = stream.next().await {} }).await;
        }
        End::TooBig => tokio::time::sleep(Duration::from_secs(1)).await,
    }
}

async fn read(
    stream: &mut SplitStream<Socket>,
    session: &mut Session<'_>,
    outbox: &mpsc::Sender<Message>,
    context: &Context,
) -> End {
    let ping_every = Duration::from_secs(context.config.ping_seconds);
    let idle_after = Duration::from_secs(context.config.idle_seconds);
    let (mut heard, mut said) = (Instant::now(), Instant::now());
    let mut next_ping = heard + ping_every;
    loop {
        tokio::select! {
            biased;
            () = context.disconnect.cancelled() => {
                return End::Close(CloseCode::Away, "the service restarts; connect again and send taskId and after");
            }
            // The writer has given up: the client does not take what it is sent.
            () = outbox.closed() => return End::Gone,
            () = session.watch_ended() => said = Instant::now(),
            () = sleep_until(next_ping) => {
                if heard.elapsed() > ping_every.mul_f64(2.5) {
                    tracing::debug!("a connection is let go: nothing was heard of it");
                    return End::Gone;
                }
                if session.is_idle() && said.elapsed() >= idle_after {
                    return End::Close(CloseCode::Normal, "idle: no task is watched and nothing was said (server.idle_seconds)");
                }
                session.ping();
                next_ping = Instant::now() + ping_every;
            }
            message = stream.next() => {
                heard = Instant::now();
                let next = match message {
                    Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. }))) => return End::TooBig,
                    None | Some(Err(_) | Ok(Message::Close(_))) => return End::Gone,
                    // On the heap while it lasts: thousands of connections say nothing most of the time.
                    Some(Ok(Message::Text(text))) => Box::pin(session.hear(&text)).await,
                    Some(Ok(Message::Binary(_))) => session.refuse(&Refusal::Binary).await,
                    Some(Ok(_)) => continue,
                };
                said = Instant::now();
                match next {
                    Next::GoOn => {}
                    Next::WrongToken => return End::Close(CloseCode::Policy, "wrong token"),
                    Next::Gone => return End::Gone,
                }
            }
        }
    }
}

/// Sends what waits, until it is closed, or the client does not take it.
async fn write(mut sink: SplitSink<Socket, Message>, mut waiting: mpsc::Receiver<Message>) {
    while let Some(message) = waiting.recv().await {
        let closes = message.is_close();
        let sent = async {
            sink.feed(message).await?;
            // What waits already goes out in one write.
            while let Ok(message) = waiting.try_recv() {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        if !matches!(timeout(WRITE_TIMEOUT, sent).await, Ok(Ok(()))) || closes {
            return;
        }
    }
    let _ = timeout(WRITE_TIMEOUT, sink.close()).await;
}

/// A question whether the client is there.
pub fn ping() -> Message {
    Message::Ping(Bytes::new())
}

/// What a log line is on the wire.
pub fn frame(event: &crate::task::LogEvent) -> Message {
    Message::text(reply::log(event))
}
