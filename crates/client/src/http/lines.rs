//! Answers of JSON lines (`application/x-ndjson`).

use std::{marker::PhantomData, time::Duration};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{HttpError, transport::Transport};

/// The service sends at least an empty line every 15 seconds. After this long without one the
/// connection counts as lost.
const READ_TIMEOUT: Duration = Duration::from_secs(45);
/// The longest line.
const MAX_LINE_BYTES: usize = 16 << 20;

/// The lines of an answer, read as they arrive. Dropping it ends the work of the service.
pub struct JsonLines<T> {
    transport: Transport,
    body: Incoming,
    splitter: Splitter,
    is_ended: bool,
    lines: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(super) fn new(transport: Transport, body: Incoming) -> Self {
        Self { transport, body, splitter: Splitter::default(), is_ended: false, lines: PhantomData }
    }

    /// The next line; `None` after the last one. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost before the answer is complete, or a line is not what it should be.
    pub async fn next(&mut self) -> Result<Option<T>, HttpError> {
        loop {
            if let Some(line) = self.splitter.next_line(self.is_ended) {
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| self.transport.protocol(format!("a line is malformed: {error}")));
            }
            if self.is_ended {
                return Ok(None);
            }
            let frame = match timeout(READ_TIMEOUT, self.body.frame()).await {
                Err(_) => return Err(self.transport.unreachable("nothing was received for too long".to_owned())),
                Ok(None) => {
                    self.is_ended = true;
                    continue;
                }
                Ok(Some(Err(error))) => return Err(self.transport.unreachable(format!("the answer ended early: {error}"))),
                Ok(Some(Ok(frame))) => frame,
            };
            if let Some(bytes) = frame.data_ref() {
                self.splitter.feed(bytes).map_err(|error| self.transport.protocol(error))?;
            }
        }
    }
}

/// Splits parts of any size into lines.
#[derive(Default)]
struct Splitter {
    received: Vec<u8>,
    /// Up to here, `received` is consumed.
    start: usize,
    /// Between `start` and here there is no line break.
    searched: usize,
}

impl Splitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.received.drain(..self.start);
        (self.searched, self.start) = (self.searched - self.start, 0);
        if self.received.len() + bytes.len() > MAX_LINE_BYTES {
            return Err("a line is too long".to_owned());
        }
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    /// The next line that is not empty. The last one may lack its line break.
    fn next_line(&mut self, is_ended: bool) -> Option<Vec<u8>> {
        loop {
            let rest = self.received.get(self.searched..)?;
            let end = match rest.iter().position(|byte| *byte == b'\n') {
                Some(length) => self.searched + length,
                None if is_ended && self.start < self.received.len() => self.received.len(),
                None => {
                    self.searched = self.received.len();
                    return None;
                }
            };
            let line = self.received.get(self.start..end)?.trim_ascii().to_vec();
            self.start = (end + 1).min(self.received.len());
            self.searched = self.start;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, size: usize) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for part in text.as_bytes().chunks(size) {
            splitter.feed(part).unwrap();
            lines.extend(std::iter::from_fn(|| splitter.next_line(false)));
        }
        lines.extend(std::iter::from_fn(|| splitter.next_line(true)));
        lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_read_from_parts_of_any_size() {
        for text in ["{\"a\":1}\n\n\n{\"水\":2}\r\n[3]\n", "{\"a\":1}\n{\"水\":2}\n[3]"] {
            for size in [1, 2, 7, text.len()] {
                assert_eq!(lines(text, size), ["{\"a\":1}", "{\"水\":2}", "[3]"], "{size}");
            }
        }
        assert!(lines("", 1).is_empty() && lines("\n\n", 1).is_empty());
    }

    #[test]
    fn a_line_has_a_limit() {
        let mut splitter = Splitter::default();
        splitter.feed(&vec![b'x'; MAX_LINE_BYTES]).unwrap();
        assert!(splitter.next_line(false).is_none() && splitter.feed(b"x").is_err());
    }
}
