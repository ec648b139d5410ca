//! Answers of JSON lines (`application/x-ndjson`), sent as they are produced.

use std::{io, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warp::{
    Reply,
    http::{HeaderValue, header},
    reply::Response,
};

use super::Call;

/// An empty line is sent when nothing else was for this long, so that proxies keep the connection
/// open, and a client that is gone is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Lines that wait for a slow client. The producer waits when there are more.
const BUFFERED_LINES: usize = 16;
/// Lines that are ready together are sent together up to about this size.
const CHUNK_BYTES: usize = 16 * 1_024;

impl Call<'_> {
    /// Answers with the lines that a task sends, until it returns. The task is aborted when the
    /// client leaves, when its token is removed, and when the service stops; in the last two cases
    /// the answer ends with an error, so that no client takes it for complete.
    pub fn json_lines<T, F>(&self, produce: impl FnOnce(mpsc::Sender<T>) -> F) -> Response
    where
        T: Serialize + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (state, token) = (self.state.clone(), self.token.clone());
        let close = state.close_connections.clone();
        let is_accepted = move || state.tokens.accepts(&token);
        json_lines(&self.state.streams, close, KEEP_ALIVE_INTERVAL, is_accepted, produce)
    }
}

fn json_lines<T, F>(
    tracker: &TaskTracker,
    close: CancellationToken,
    keep_alive_interval: Duration,
    is_accepted: impl Fn() -> bool + Send + Sync + 'static,
    produce: impl FnOnce(mpsc::Sender<T>) -> F,
) -> Response
where
    T: Serialize + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BUFFERED_LINES);
    // A task of its own: a client that does not read must not stop the producer at a moment when it
    // holds what others wait for.
    let (producing, closed) = (produce(sender), close.clone().cancelled_owned());
    let task = tracker.spawn(async move {
        tokio::select! {
            () = closed => {}
            () = producing => {}
        }
    });
    let lines = Lines { receiver, task: AbortOnDrop(task), close, keep_alive_interval, is_accepted };
    let chunks = stream::try_unfold(lines, |mut lines| async move { lines.next().await.map(|chunk| Some((chunk?, lines))) });
    let mut response = warp::reply::stream(Box::pin(chunks)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Lines<T, A> {
    receiver: mpsc::Receiver<T>,
    task: AbortOnDrop,
    close: CancellationToken,
    keep_alive_interval: Duration,
    is_accepted: A,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: Serialize, A: Fn() -> bool> Lines<T, A> {
    /// The next lines; `None` once the producer has returned.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = async {
            match self.receiver.recv().await {
                Some(line) => Ok(Some(line)),
                // Fails if the producer has panicked.
                None => (&mut self.task.0).await.map(|()| None).map_err(io::Error::other),
            }
        };
        let line = tokio::select! {
            biased;
            () = self.close.cancelled() => return Err(io::Error::other("the service is stopping")),
            line = tokio::time::timeout(self.keep_alive_interval, next) => line,
        };
        if !(self.is_accepted)() {
            return Err(io::Error::other("the token was removed"));
        }
        let line = match line {
            Err(_) => return Ok(Some(Bytes::from_static(b"\n"))),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(line))) => line,
        };
        let mut chunk = BytesMut::new();
        write_line(&mut chunk, &line)?;
        while chunk.len() < CHUNK_BYTES
            && let Ok(line) = self.receiver.try_recv()
        {
            write_line(&mut chunk, &line)?;
        }
        Ok(Some(chunk.freeze()))
    }
}

fn write_line(chunk: &mut BytesMut, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(chunk.writer(), line)?;
    chunk.put_u8(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn respond<F>(produce: impl FnOnce(mpsc::Sender<u64>) -> F) -> (TaskTracker, CancellationToken, Response)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tracker, close) = (TaskTracker::new(), CancellationToken::new());
        let response = json_lines(&tracker, close.clone(), Duration::from_millis(50), || true, produce);
        tracker.close();
        (tracker, close, response)
    }

    #[tokio::test]
    async fn every_line_is_sent_in_order_to_the_end() {
        let (tracker, _close, response) = respond(|sender| async move {
            for number in 0..10_000 {
                sender.send(number).await.unwrap();
            }
        });
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let lines: Vec<u64> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines, (0..10_000).collect::<Vec<_>>());
        tracker.wait().await;
    }

    /// Notifies when it is dropped.
    struct Notify(Option<oneshot::Sender<()>>);

    impl Drop for Notify {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_drops_the_producer() {
        let (dropped_tx, dropped) = oneshot::channel();
        let notify = Notify(Some(dropped_tx));
        let (tracker, _close, response) = respond(|sender| async move {
            let _notify = notify;
            sender.send(1).await.unwrap();
            std::future::pending::<()>().await;
        });
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "1\n");
        drop(body);
        dropped.await.unwrap();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn an_answer_is_kept_open_and_never_looks_complete_when_it_is_not() {
        let (tracker, close, response) = respond(|_sender| std::future::pending());
        let mut body = response.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "\n");
        close.cancel();
        assert!(body.frame().await.unwrap().is_err());
        tracker.wait().await;

        let (_, _close, response) = respond(|_sender| async { panic!("a test of a producer that dies") });
        assert!(response.into_body().collect().await.is_err());

        let (tracker, close) = (TaskTracker::new(), CancellationToken::new());
        let response = json_lines::<u64, _>(
            &tracker,
            close,
            KEEP_ALIVE_INTERVAL,
            || false,
            |sender| async move {
                sender.send(1).await.unwrap();
            },
        );
        assert!(response.into_body().collect().await.is_err());
    }
}
