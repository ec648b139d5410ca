//! One job: count a device's rows, read them, hold back what ET can't read, publish the rest, and report.
//!
//! Knows no queue: it is given a [`Report`] to tell how far it has got. What it needs may be away; then it ends with an
//! outage, and can go on later from what it has reported.

pub mod guard;
mod json;

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use guard::Guard;

use crate::{
    config::GuardMode,
    iota::{Beginning, Rows, Selection, Store, StoreError},
    kafka::{Flight, Kafka, KafkaError, Outgoing, Pace, Records, Sender},
    kill,
    task::{HeldRow, Position, TaskId},
};

/// A device of so many rows has little: it is over before the producer would have waited for more to send together.
const LITTLE: u64 = 1_000;

/// What is to be done; how far it has got, its [`Flight`] tells.
#[derive(Debug, Clone)]
pub struct Patch {
    pub task: TaskId,
    pub thing: Uuid,
    pub device: Uuid,
    pub topic: String,
    /// Both ends are included.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Rows, if they were counted before.
    pub total: Option<u64>,
}

/// How a job ended, when nobody took it away.
#[derive(Debug)]
pub enum Outcome {
    /// Every row is acknowledged or held back.
    Done,
    /// It was asked to stop, and everything sent is acknowledged.
    Stopped,
    /// Something is away; trying again later is right.
    Outage { part: Part, reason: String },
    /// It was told to wait no longer. Of the rows that were sent, so many at the most may have been on the wire with no answer.
    Abandoned { unanswered: u64 },
    /// Waiting does not help.
    Failed(String),
}

/// What can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Store,
    Topic,
}

/// What a job is told while it runs.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Stop reading, and wait for what is on its way.
    pub stop: CancellationToken,
    /// Wait no longer.
    pub abandon: CancellationToken,
}

/// Where a job tells how far it has got.
pub trait Report: Send + Sync {
    /// The rows were counted.
    fn counted(&self, name: Option<String>, total: u64);

    /// Whether it may send another row.
    ///
    /// # Errors
    /// It may not: a worker that was frozen may have lost the job to another.
    fn may_send(&self) -> Result<(), ReportError>;
}

/// The job must end at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReportError(pub String);

/// Why the work ended before its end.
enum Interrupted {
    Stopped,
    NoDevice,
    Store(StoreError),
    Kafka(KafkaError),
    Abandoned(ReportError),
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<KafkaError> for Interrupted {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl From<ReportError> for Interrupted {
    fn from(error: ReportError) -> Self {
        Self::Abandoned(error)
    }
}

impl Outcome {
    fn of(part: Part, outage: bool, reason: String) -> Self {
        if outage { Self::Outage { part, reason } } else { Self::Failed(reason) }
    }
}

/// What jobs work with; clones share it.
#[derive(Clone)]
pub struct Patcher {
    pub store: Store,
    pub kafka: Kafka,
    pub guard: GuardMode,
}

impl Patcher {
    /// Works on a job until it is done, is asked to stop, or can't go on; then nothing of it is on its way any more. The
    /// account of its rows is in `flight` all the time, so that its cursor can be stored while it goes on.
    ///
    /// # Errors
    /// It was taken away.
    pub async fn run(
        &self,
        patch: &Patch,
        flight: &Arc<Flight>,
        report: &impl Report,
        signals: &Signals,
    ) -> Result<Outcome, ReportError> {
        tokio::select! {
            outcome = self.run_to_end(patch, flight, report, &signals.stop) => outcome,
            () = signals.abandon.cancelled() => Ok(Outcome::Abandoned { unanswered: flight.in_flight() }),
        }
    }

    async fn run_to_end(
        &self,
        patch: &Patch,
        flight: &Arc<Flight>,
        report: &impl Report,
        stop: &CancellationToken,
    ) -> Result<Outcome, ReportError> {
        let mut careful = false;
        let (ended, settled) = loop {
            let ended = self.publish(patch, flight, report, stop, careful).await;
            let settled = flight.settled().await;
            if settled != Err(KafkaError::BatchTooLarge) || careful {
                break (ended, settled);
            }
            // Which of the batch's messages is too large shows when they are sent one by one.
            flight.restart();
            careful = true;
        };
        match (ended, settled) {
            (Err(Interrupted::Abandoned(error)), _) => Err(error),
            (_, Err(error)) => {
                if matches!(error, KafkaError::NoTopic(_)) {
                    self.kafka.forget(&patch.topic);
                }
                Ok(Outcome::of(Part::Topic, error.is_outage(), error.to_string()))
            }
            (Err(Interrupted::Store(error)), Ok(())) => Ok(Outcome::of(Part::Store, error.is_outage(), error.to_string())),
            (Err(Interrupted::Kafka(error)), Ok(())) => Ok(Outcome::of(Part::Topic, error.is_outage(), error.to_string())),
            (Err(Interrupted::NoDevice), Ok(())) => {
                Ok(Outcome::Failed(format!("there is no such device on thing {}", patch.thing)))
            }
            (Err(Interrupted::Stopped), Ok(())) => Ok(Outcome::Stopped),
            (Ok(()), Ok(())) => Ok(Outcome::Done),
        }
    }

    /// Looks up topic and device, begins to read, and counts the rows where they are not counted yet.
    async fn prepare(
        &self,
        patch: &Patch,
        flight: &Flight,
        report: &impl Report,
        careful: bool,
    ) -> Result<(Sender, Rows), Interrupted> {
        self.kafka.look_up(&patch.topic).await?;
        let selection = Selection { device: patch.device, from: patch.from, to: patch.to, after: flight.cursor() };
        let (pace, rows) = if patch.total.is_some() || selection.after.is_some() || careful {
            (if careful { Pace::Careful } else { Pace::Much }, self.store.rows(selection))
        } else {
            self.begin(patch, selection, report).await?
        };
        let sender = self.kafka.sender(&patch.topic, Records::new(patch.task, patch.device), pace).await?;
        Ok((sender, rows))
    }

    /// Begins with a device of which nothing is known yet.
    async fn begin(&self, patch: &Patch, selection: Selection, report: &impl Report) -> Result<(Pace, Rows), Interrupted> {
        let mut opened = self.store.open(patch.thing, selection.clone());
        let device = opened.device().await?.ok_or(Interrupted::NoDevice)?;
        let mut rows = opened.rows;
        let total = match rows.begin().await {
            // What was read is all there is: no need to ask.
            Ok(Beginning { rows, is_all: true }) => rows,
            Ok(Beginning { is_all: false, .. }) => self.store.count(&selection).await?,
            Err(error) if error.is_outage() => return Err(error.into()),
            Err(error) => {
                // Counting may tell what is wrong more exactly.
                self.store.count(&selection).await?;
                return Err(error.into());
            }
        };
        report.counted(device.name, total);
        Ok((if total <= LITTLE { Pace::Little } else { Pace::Much }, rows))
    }

    /// Sends rows until there are no more.
    async fn publish(
        &self,
        patch: &Patch,
        flight: &Arc<Flight>,
        report: &impl Report,
        stop: &CancellationToken,
        careful: bool,
    ) -> Result<(), Interrupted> {
        // Nothing is on its way yet, so a stop need not wait for the answers.
        let prepared = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Interrupted::Stopped),
            prepared = self.prepare(patch, flight, report, careful) => prepared?,
        };
        let (mut sender, mut rows) = prepared;
        let guard = Guard::new(self.guard, patch.device);
        let time = self.store.mapping().await?.time;
        loop {
            let batch = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Interrupted::Stopped),
                batch = rows.next() => batch?,
            };
            let Some(batch) = batch else { return Ok(()) };
            kill::point("read");
            let doc_bytes = batch.iter().map(|row| row.doc.as_ref().map_or(0, Bytes::len)).sum();
            let room = sender.room(flight, batch.len(), doc_bytes).await?;
            for row in batch {
                if stop.is_cancelled() {
                    return Err(Interrupted::Stopped);
                }
                match guard.check(row.doc) {
                    Ok(doc) => {
                        // For each, since any wait may have been long.
                        report.may_send()?;
                        let instant_us = time.instant_us(row.time_us);
                        let outgoing = Outgoing { instant_us, time_us: row.time_us, key: row.key, doc };
                        sender.send(outgoing, &room).await?;
                        kill::point("produced");
                    }
                    Err(fault) => {
                        let position = Position { time_us: row.time_us, key: row.key.to_string() };
                        flight.hold(HeldRow { position, reason: fault.to_string() }).await?;
                    }
                }
            }
            // Where rows and room are always there, nothing above would let the heartbeat and other jobs have their turn.
            tokio::task::yield_now().await;
        }
    }
}
