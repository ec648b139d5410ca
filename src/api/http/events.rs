//! The log of a task: in pages, or as a stream of server-sent events.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use warp::{
    Reply,
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

use super::{ApiError, Call, ServerState, json, query};
use crate::{
    api::Encoding,
    protocol::{Attach, Token},
    queue::{LogTail, QueueError, log_hub::EncodedEntry},
    service::event_view,
    task::{Language, TaskId},
    telemetry::GaugeGuard,
};

/// A comment is sent when nothing else was for this long, so that proxies keep the stream open, and
/// the client notices when it is cut.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long the client should wait before it connects again, in milliseconds.
const RECONNECT_MS: u32 = 2_000;
/// Messages that wait for a slow client. One that is further behind is served from the queue.
const BUFFERED_MESSAGES: usize = 64;
const SEQ: &str = "it must be the seq of the last entry that you have, or 0 for all";

impl Call<'_> {
    /// `GET /tasks/{id}/events`
    pub async fn events(&self, id: TaskId) -> Result<Response, ApiError> {
        self.query.check(&["after", "limit", "cursor"])?;
        let language = query::language(&self.headers);
        let after = match (self.query.parsed("after", SEQ)?, self.query.parsed("cursor", SEQ)?) {
            (Some(_), Some(cursor)) => {
                return Err(ApiError::invalid("cursor", &u64::to_string(&cursor), "send it or after, not both"));
            }
            (after, cursor) => after.or(cursor),
        };
        if !self.accepts("text/event-stream") {
            let page = self.state.tasks.events(id, after.unwrap_or(0), self.query.limit()?, language).await?;
            return Ok(json(StatusCode::OK, &page));
        }
        // A browser that reconnects sends the id of the last event that it has.
        let last_event_id = match self.headers.get("last-event-id") {
            None => None,
            Some(value) => {
                let text = value.to_str().unwrap_or_default();
                Some(text.parse().map_err(|_| ApiError::invalid("Last-Event-ID", text, SEQ))?)
            }
        };
        let after = last_event_id.or(after).unwrap_or(0);
        let task = self.state.tasks.attach(&Attach { task: id, after }).await?;
        let (sender, mut receiver) = mpsc::channel(BUFFERED_MESSAGES);
        // All that there is has been read: a client that reconnects after the end is told so, with
        // a status that tells an EventSource not to come back.
        if task.state.is_final() && after == task.last_seq && last_event_id.is_some() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        if !self.is_head {
            let tail = self.state.tasks.tail(id, after);
            let stream = EventStream { state: Arc::clone(self.state), token: self.token.clone(), language, sender };
            self.state.streams.spawn(stream.run(tail));
        }
        let messages =
            stream::poll_fn(move |context| receiver.poll_recv(context).map(|message| message.map(Ok::<_, std::io::Error>)));
        let mut response = warp::reply::stream(messages).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

/// Sends the log of a task to one client.
struct EventStream {
    state: Arc<ServerState>,
    token: Token,
    language: Language,
    sender: mpsc::Sender<Bytes>,
}

impl EventStream {
    async fn run(self, mut tail: LogTail) {
        const READ_RETRY_DELAY: Duration = Duration::from_secs(1);
        let _subscription = GaugeGuard::new(&self.state.metrics.log_subscriptions);
        if !self.send(format!("retry: {RECONNECT_MS}\n\n").into()).await {
            return;
        }
        loop {
            let next = tokio::select! {
                biased;
                () = self.state.close_connections.cancelled() => return,
                () = self.sender.closed() => return,
                next = tokio::time::timeout(KEEP_ALIVE_INTERVAL, tail.next()) => next,
            };
            // A token that was removed sees nothing more.
            if !self.state.tokens.accepts(&self.token) {
                return;
            }
            let message = match next {
                Err(_) => Bytes::from_static(b": nothing new\n\n"),
                Ok(Ok(Some(event))) => {
                    if let Some(committed_at) = event.committed_at {
                        self.state.metrics.log_delay.observe(committed_at.elapsed());
                    }
                    message(&event, self.language)
                }
                Ok(Ok(None) | Err(QueueError::Closed)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a watched log cannot be read; retrying");
                    tokio::time::sleep(READ_RETRY_DELAY).await;
                    continue;
                }
            };
            if !self.send(message).await {
                return;
            }
        }
    }

    /// Returns `false` if the client has disconnected.
    async fn send(&self, message: Bytes) -> bool {
        self.sender.send(message).await.is_ok()
    }
}

/// A log entry as a server-sent event; the streams that follow a log in one language share it.
fn message(entry: &EncodedEntry, language: Language) -> Bytes {
    let encoding = match language {
        Language::English => Encoding::EnglishStream,
        Language::Chinese => Encoding::ChineseStream,
    };
    entry.encoded(encoding as usize, |entry| {
        let data = serde_json::to_string(&event_view(entry, language)).unwrap_or_default();
        format!("id: {}\ndata: {data}\n\n", entry.seq)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::reply,
        task::{Event, LogEntry},
    };

    #[test]
    fn streams_of_a_language_share_the_bytes_of_an_entry() {
        let event = Event::Published { device: uuid::Uuid::nil(), published: 1, total: 2 };
        let event = EncodedEntry::stored(LogEntry { task: TaskId::new(), seq: 7, at_ms: 0, event, final_state: None });
        let english = message(&event, Language::English);
        assert!(english.starts_with(b"id: 7\ndata: {") && english.ends_with(b"}\n\n"), "{english:?}");
        assert_eq!(message(&event, Language::English).as_ptr(), english.as_ptr());
        let chinese = message(&event, Language::Chinese);
        assert_eq!(message(&event, Language::Chinese).as_ptr(), chinese.as_ptr());
        let websocket = event.encoded(Encoding::Message as usize, reply::log);
        assert!(chinese != english && websocket != english && websocket != chinese);
    }
}
