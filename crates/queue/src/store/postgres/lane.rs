//! A lane commits requests one batch after the other: what arrives while a batch is being committed
//! is the next batch, so that many small changes share one transaction (group commit).

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    error::{Failure, Remedy},
};
use crate::{QueueError, failpoint};

/// The most requests in one transaction.
const MAX_BATCH: usize = 1_024;
/// The most rows that a transaction writes, unless a single request has more.
const MAX_WEIGHT: usize = 2_000;
/// Requests that may wait; senders of further ones wait.
const CAPACITY: usize = 4_096;
/// How often a batch is tried again that waited for another transaction which waited for it.
const MAX_REPEATS: u32 = 10;

/// A change that shares transactions with others of its kind.
pub trait Request: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;

    /// Commits a batch. The answers are in its order.
    fn commit(shared: &Shared, batch: &[&Self]) -> impl Future<Output = Result<Vec<Self::Answer>, Failure>> + Send;

    /// The rows that it writes, about.
    fn weight(&self) -> usize;

    /// Whether it must be in a later transaction than `earlier`.
    fn follows(&self, earlier: &Self) -> bool;
}

struct Pending<R: Request> {
    request: R,
    answer: oneshot::Sender<Result<R::Answer, QueueError>>,
}

/// The sending side of a lane.
pub struct Lane<R: Request> {
    requests: Mutex<Option<mpsc::Sender<Pending<R>>>>,
    stopped: CancellationToken,
}

impl<R: Request> Lane<R> {
    pub fn start(shared: Arc<Shared>) -> Self {
        let (requests, receiver) = mpsc::channel(CAPACITY);
        let stopped = CancellationToken::new();
        let guard = stopped.clone().drop_guard();
        tokio::spawn(async move {
            let _guard = guard;
            run(shared, receiver).await;
        });
        Self { requests: Mutex::new(Some(requests)), stopped }
    }

    /// Waits until the request is committed, together with others.
    pub async fn commit(&self, request: R) -> Result<R::Answer, QueueError> {
        let requests = self.requests.lock().await.clone().ok_or(QueueError::Closed)?;
        let (answer, answered) = oneshot::channel();
        requests.send(Pending { request, answer }).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }

    /// Rejects further requests and returns when the pending ones are done.
    pub async fn close(&self) {
        self.requests.lock().await.take();
        self.stopped.cancelled().await;
    }

    /// Waits until the lane ends without [`close`](Self::close), which means that it has panicked.
    pub async fn died(&self) {
        self.stopped.cancelled().await;
        if self.requests.lock().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

async fn run<R: Request>(shared: Arc<Shared>, mut receiver: mpsc::Receiver<Pending<R>>) {
    let mut waiting = VecDeque::new();
    while let Some(batch) = next_batch(&mut receiver, &mut waiting).await {
        let requests: Vec<&R> = batch.iter().map(|pending| &pending.request).collect();
        match commit(&shared, &requests).await {
            Ok(answers) => {
                for (pending, answer) in batch.into_iter().zip(answers) {
                    let _ = pending.answer.send(Ok(answer));
                }
            }
            Err(failure) if batch.len() > 1 && failure.remedy == Remedy::Separate => {
                // Each in a transaction of its own, so that the others do not fail with it.
                for Pending { request, answer } in batch {
                    let result = commit(&shared, &[&request]).await;
                    let _ = answer.send(shared.count_failure(result).map(|mut answers| answers.remove(0)));
                }
            }
            Err(failure) => {
                let Err(error) = shared.count_failure::<()>(Err(failure)) else { continue };
                for pending in batch {
                    let _ = pending.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// The requests that the next transaction takes; `None` when the lane is closed and empty.
async fn next_batch<R: Request>(
    receiver: &mut mpsc::Receiver<Pending<R>>,
    waiting: &mut VecDeque<Pending<R>>,
) -> Option<Vec<Pending<R>>> {
    if waiting.is_empty() {
        waiting.push_back(receiver.recv().await?);
    }
    while waiting.len() < CAPACITY
        && let Ok(pending) = receiver.try_recv()
    {
        waiting.push_back(pending);
    }
    let (mut batch, mut weight) = (Vec::<Pending<R>>::new(), 0);
    while let Some(next) = waiting.front() {
        weight += next.request.weight();
        let is_full = batch.len() >= MAX_BATCH || weight > MAX_WEIGHT;
        let follows = || batch.iter().any(|earlier| next.request.follows(&earlier.request));
        if !batch.is_empty() && (is_full || follows()) {
            break;
        }
        batch.extend(waiting.pop_front());
    }
    Some(batch)
}

async fn commit<R: Request>(shared: &Shared, batch: &[&R]) -> Result<Vec<R::Answer>, Failure> {
    failpoint::hit("commit");
    repeated(|| R::commit(shared, batch)).await
}

/// Makes a change again whose transaction was rolled back because of another one.
pub async fn repeated<T, F>(change: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut repeats = 0;
    loop {
        match change().await {
            Err(failure) if failure.remedy == Remedy::Repeat && repeats < MAX_REPEATS => repeats += 1,
            result => return result,
        }
    }
}
