//! The log of a task as server-sent events.

use std::{collections::VecDeque, time::Duration};

use data_patch_protocol::{http::EventView, task::TaskId};
use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode, body::Incoming};
use tokio::time::{Instant, sleep, timeout};

use super::{
    HttpError,
    transport::{Call, Transport},
};
use crate::RetryPolicy;

/// The service sends at least a comment every 15 seconds. After this long without one the connection
/// counts as lost.
const READ_TIMEOUT: Duration = Duration::from_secs(45);
/// A connection that lasted so long was no failed attempt: proxies cut idle ones after a minute.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// The longest event.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// What a stream yields.
#[derive(Debug)]
pub enum StreamItem {
    Event(Box<EventView>),
    /// The connection is lost; the next call waits, and connects again.
    Interrupted(HttpError),
}

/// The log of a task: gapless, each entry once. A lost connection is restored after the last entry
/// that was received.
pub struct EventStream {
    transport: Transport,
    task: TaskId,
    /// The `seq` of the last entry.
    last: u64,
    policy: RetryPolicy,
    failures: u32,
    connected_at: Instant,
    body: Option<Incoming>,
    parser: Parser,
    pending: VecDeque<EventView>,
    is_ended: bool,
}

impl EventStream {
    pub(super) fn new(transport: Transport, task: TaskId, after: u64, policy: RetryPolicy) -> Self {
        let (parser, pending) = (Parser::default(), VecDeque::new());
        let connected_at = Instant::now();
        Self { transport, task, last: after, policy, failures: 0, connected_at, body: None, parser, pending, is_ended: false }
    }

    /// The `seq` of the last entry that was received.
    pub fn last_seq(&self) -> u64 {
        self.last
    }

    /// The next entry; `None` after the last one of a finished task. Not cancel-safe while it
    /// connects: a call that is dropped then starts again.
    ///
    /// # Errors
    /// The service refuses, does not follow the protocol, or was unreachable as often as the retry
    /// policy allows.
    pub async fn next(&mut self) -> Result<Option<StreamItem>, HttpError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                // A proxy may repeat what it has buffered.
                if event.seq <= self.last {
                    continue;
                }
                self.last = event.seq;
                self.failures = 0;
                self.is_ended = event.state.is_some();
                return Ok(Some(StreamItem::Event(Box::new(event))));
            }
            if self.is_ended {
                return Ok(None);
            }
            if let Err(error) = self.read().await {
                if self.body.take().is_some() && self.connected_at.elapsed() > STABLE_AFTER {
                    self.failures = 0;
                }
                self.parser = Parser::default();
                self.failures += 1;
                if !error.is_retryable() || self.failures >= self.policy.max_attempts {
                    return Err(error);
                }
                return Ok(Some(StreamItem::Interrupted(error)));
            }
        }
    }

    /// Reads a part of the stream, after connecting if it is not connected.
    async fn read(&mut self) -> Result<(), HttpError> {
        let Some(body) = &mut self.body else { return self.connect().await };
        let frame = match timeout(READ_TIMEOUT, body.frame()).await {
            Err(_) => return Err(self.transport.unreachable("nothing was received for too long".to_owned())),
            Ok(None) => return Err(self.transport.unreachable("the connection ended".to_owned())),
            Ok(Some(Err(error))) => return Err(self.transport.unreachable(error.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(bytes) = frame.data_ref() else { return Ok(()) };
        let events = self.parser.feed(bytes).map_err(|error| self.transport.protocol(error))?;
        self.pending.extend(events);
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), HttpError> {
        if self.failures > 0 {
            sleep(self.policy.delay(self.failures)).await;
        }
        let mut call = Call::new(Method::GET, format!("/tasks/{}/events", self.task));
        (call.accept, call.last_event_id) = ("text/event-stream", Some(self.last));
        let response = self.transport.send(&call).await?;
        // The task is finished, and there is nothing after the last entry.
        if response.status() == StatusCode::NO_CONTENT {
            self.is_ended = true;
            return Ok(());
        }
        (self.body, self.connected_at) = (Some(response.into_body()), Instant::now());
        Ok(())
    }
}

/// Reads the `data` of server-sent events from parts of any size.
#[derive(Default)]
struct Parser {
    /// The line that is not complete.
    line: Vec<u8>,
    data: String,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<EventView>, String> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err("an event is too long".to_owned());
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                events.extend(self.end_of_line(&line)?);
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self, line: &[u8]) -> Result<Option<EventView>, String> {
        let line = std::str::from_utf8(line).map_err(|error| error.to_string())?.trim_end_matches(['\r', '\n']);
        if let Some(data) = line.strip_prefix("data:") {
            self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            self.data.push('\n');
        } else if line.is_empty() && !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return serde_json::from_str(&data).map(Some).map_err(|error| format!("an event is malformed: {error}"));
        }
        // `id` is the entry's `seq`; `retry` is for browsers; other lines are comments.
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = concat!(
        "retry: 2000\n\n: nothing new\n\nid: 1\ndata: {\"seq\":1,\"time\":\"2026-01-01T00:00:00Z\",\"isError\":false,",
        "\"text\":\"水\",\"event\":{\"kind\":\"text\",\"text\":\"水\",\"isError\":false}}\n\n",
        "id: 2\r\ndata: {\"seq\":2,\"time\":\"2026-01-01T00:00:00Z\",\"isError\":false,\r\n",
        "data: \"text\":\"b\",\"event\":{\"kind\":\"text\",\"text\":\"b\",\"isError\":false},\"state\":\"failed\"}\r\n\r\n",
    );

    #[test]
    fn events_are_read_from_parts_of_any_size() {
        for size in [1, 2, 7, STREAM.len()] {
            let mut parser = Parser::default();
            let events: Vec<_> = STREAM.as_bytes().chunks(size).flat_map(|part| parser.feed(part).unwrap()).collect();
            let seen: Vec<_> = events.iter().map(|event| (event.seq, event.text.as_str(), event.state.is_some())).collect();
            assert_eq!(seen, [(1, "水", false), (2, "b", true)], "{size}");
        }
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        assert!(Parser::default().feed(b"data: x\n\n").is_err());
        assert!(Parser::default().feed(b"data: \xff\n\n").is_err());
        assert!(Parser::default().feed(&vec![b'x'; MAX_EVENT_BYTES + 1]).is_err());
    }
}
