//! One job: count a device's rows, read them, hold back what ET can't read, publish the rest, and report.
//!
//! Knows no queue: it is given a [`JobContext`] to tell how far it has got. What it needs may be away; then it ends with an
//! outage, and can go on later from what it has reported.

mod outcome;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use outcome::{Dependency, Outcome};

use crate::{
    config, failpoint,
    sink::kafka::{AckTracker, BatchMode, Kafka, KafkaError, OutgoingRow, RecordBuilder, Sender},
    source::{FirstRows, Mapping, Row, Rows, Selection, Source, SourceError, TimeType},
    task::{Position, QuarantinedRow, TaskId},
    validate::Validator,
};

/// A device of so many rows has little: it is over before the producer would have waited for more to send together.
const SMALL_DEVICE_ROWS: u64 = 1_000;

/// So many restarts in a row with no row acknowledged or held back in between, and the job waits as in an outage. Halving a
/// batch down to single rows takes seven.
const MAX_RESTARTS: u32 = 20;

/// Before each restart in a row, as much longer.
const RESTART_DELAY: Duration = Duration::from_millis(20);

/// How the work on a job is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop reading, and wait for what is on its way.
    pub stop: CancellationToken,
    /// Wait no longer: drop what was not sent.
    pub abort: CancellationToken,
}

/// What is to be done; how far it has got, its [`AckTracker`] tells.
#[derive(Debug, Clone)]
pub struct Replay {
    pub task: TaskId,
    pub thing: Uuid,
    pub device: Uuid,
    pub topic: String,
    /// Both ends are included.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Rows, if they were counted before.
    pub total: Option<u64>,
    /// How the store was laid out when the cursor was stored that is gone on from, where that is known.
    pub layout: Option<String>,
}

/// Where a job tells how far it has got.
pub trait JobContext: Send + Sync {
    /// The rows were counted.
    fn counted(&self, name: Option<String>, total: u64);

    /// How the store is laid out that cursors are in from now on ([`crate::source::Mapping::layout`]).
    fn layout(&self, _layout: String) {}

    /// Something about the store that the task's log should say.
    fn note(&self, _text: String) {}

    /// It has rows that it may have waited for, and is about to do something with them: returns when it may.
    fn resume(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Whether it may send another row.
    ///
    /// # Errors
    /// It may not: a worker that was frozen may have lost the job to another.
    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired>;
}

/// The job must end at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LeaseExpired(pub String);

/// Why the work ended before its end.
enum Interrupted {
    Stopped,
    NoDevice,
    Store(SourceError),
    Kafka(KafkaError),
    Abandoned(LeaseExpired),
    /// More rows were held back than one device may have.
    TooManyInvalid {
        held: u64,
    },
}

impl From<SourceError> for Interrupted {
    fn from(error: SourceError) -> Self {
        Self::Store(error)
    }
}

impl From<KafkaError> for Interrupted {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl From<LeaseExpired> for Interrupted {
    fn from(error: LeaseExpired) -> Self {
        Self::Abandoned(error)
    }
}

/// What jobs work with; clones share it.
#[derive(Clone)]
pub struct ReplayRunner {
    pub store: Source,
    pub kafka: Kafka,
    pub validation: config::Validation,
}

impl ReplayRunner {
    /// Works on a job until it is done, is asked to stop, or can't go on; then nothing of it is on its way any more, unless it
    /// was abandoned. The account of its rows is in `flight` all the time, so that its cursor can be stored while it goes on.
    ///
    /// # Errors
    /// It was taken away.
    pub async fn run(
        &self,
        patch: &Replay,
        flight: &Arc<AckTracker>,
        report: &impl JobContext,
        signals: &Signals,
    ) -> Result<Outcome, LeaseExpired> {
        tokio::select! {
            biased;
            outcome = self.replay(patch, flight, report, &signals.stop) => outcome,
            () = signals.abort.cancelled() => Ok(if flight.has_in_flight() {
                Outcome::Abandoned { unanswered: flight.abort().await }
            } else {
                Outcome::Stopped
            }),
        }
    }

    /// Publishes, and goes on from the last safe row where the rows must go another way: through a new producer, or in
    /// smaller batches.
    async fn replay(
        &self,
        patch: &Replay,
        flight: &Arc<AckTracker>,
        report: &impl JobContext,
        stop: &CancellationToken,
    ) -> Result<Outcome, LeaseExpired> {
        let (mut restarts, mut reached) = (0, 0);
        let pace = OnceLock::new();
        loop {
            let ended = self.publish(patch, flight, report, &pace, stop).await;
            let settled = flight.drained().await;
            match (ended, settled) {
                (Err(Interrupted::Abandoned(error)), _) => return Err(error),
                (Err(Interrupted::Stopped), Err(error)) if error.is_restart() => {
                    flight.restart();
                    return Ok(Outcome::Stopped);
                }
                (_, Err(error)) if error.is_restart() && restarts < MAX_RESTARTS => {
                    let rows = flight.rows();
                    restarts = if rows > reached { 1 } else { restarts + 1 };
                    reached = rows;
                    self.kafka.count_error(&error);
                    flight.restart();
                    if let KafkaError::BatchTooLarge { bytes } = error
                        && let Err(error) = self.kafka.batch_refused(&patch.topic, bytes).await
                    {
                        return Ok(self.outcome_of(error).await);
                    }
                    tokio::time::sleep(RESTART_DELAY * (restarts - 1)).await;
                }
                (_, Err(error)) => {
                    if matches!(error, KafkaError::UnknownTopic(_)) {
                        self.kafka.invalidate(&patch.topic).await;
                    }
                    return Ok(self.outcome_of(error).await);
                }
                (Err(Interrupted::Store(error)), Ok(())) => {
                    self.store.count_error(&error);
                    return Ok(error.into());
                }
                (Err(Interrupted::Kafka(error)), Ok(())) => return Ok(self.outcome_of(error).await),
                (Err(Interrupted::TooManyInvalid { held }), Ok(())) => return Ok(Outcome::Failed(self.too_many_invalid(held))),
                (Err(Interrupted::NoDevice), Ok(())) => {
                    return Ok(Outcome::Failed(format!("there is no such device on thing {}", patch.thing)));
                }
                (Err(Interrupted::Stopped), Ok(())) => return Ok(Outcome::Stopped),
                (Ok(()), Ok(())) => return Ok(Outcome::Done),
            }
        }
    }

    async fn outcome_of(&self, error: KafkaError) -> Outcome {
        let error = self.kafka.explain(error).await;
        self.kafka.count_error(&error);
        error.into()
    }

    fn too_many_invalid(&self, held: u64) -> String {
        format!(
            "{held} of its rows were quarantined, more than validation.max_quarantined = {}. So many rows are seldom wrong: the rule is likely \
             wrong for them (validation.mode). The lines above and the quarantine say why; set the rule right, and submit the device again",
            self.validation.max_quarantined
        )
    }

    /// Looks up topic and device, begins to read, and counts the rows where they are not counted yet.
    /// `known` is the pace of an earlier try.
    async fn prepare(
        &self,
        patch: &Replay,
        flight: &AckTracker,
        report: &impl JobContext,
        known: &OnceLock<BatchMode>,
    ) -> Result<(Sender, Rows, Arc<Mapping>), Interrupted> {
        self.kafka.look_up(&patch.topic).await?;
        let mapping = self.store.mapping().await?;
        Self::check_layout(patch, flight, report, &mapping);
        let selection = Selection { device: patch.device, from: patch.from, to: patch.to, after: flight.cursor() };
        let (pace, rows) = if let Some(pace) = known.get() {
            (*pace, self.store.rows(selection))
        } else if patch.total.is_some() || selection.after.is_some() {
            (BatchMode::Throughput, self.store.rows(selection))
        } else {
            self.open_device(patch, selection, report).await?
        };
        let pace = *known.get_or_init(|| pace);
        let sender = self.kafka.sender(&patch.topic, RecordBuilder::new(patch.task, patch.device), pace).await?;
        Ok((sender, rows, mapping))
    }

    /// A cursor means something only in the layout that it was stored in: in another one the range is begun again.
    fn check_layout(patch: &Replay, flight: &AckTracker, report: &impl JobContext, mapping: &Mapping) {
        let layout = mapping.layout();
        if let Some(before) = patch.layout.as_ref().filter(|before| **before != layout)
            && flight.cursor().is_some_and(|cursor| cursor != mapping.position_before(patch.from, patch.to))
        {
            flight.restart_from(mapping.position_before(patch.from, patch.to));
            report.note(format!(
                "the IoTA store's table was {before} (time/key) when the work stopped and is {layout} now, so the device is published again from the beginning of its range"
            ));
        }
        if patch.total.is_none()
            && let Some(doubt) = mapping.ambiguity_note(patch.from, patch.to)
        {
            report.note(doubt);
        }
        report.layout(layout);
    }

    /// Begins with a device of which nothing is known yet.
    async fn open_device(
        &self,
        patch: &Replay,
        selection: Selection,
        report: &impl JobContext,
    ) -> Result<(BatchMode, Rows), Interrupted> {
        let mut opened = self.store.open(patch.thing, selection.clone());
        let device = opened.device().await?.ok_or(Interrupted::NoDevice)?;
        let mut rows = opened.rows;
        let total = match rows.peek().await {
            // What was read is all there is: no need to ask.
            Ok(FirstRows { rows, is_all: true }) => rows,
            Ok(FirstRows { is_all: false, .. }) => self.store.count(&selection).await?,
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                // Counting may tell what is wrong more exactly.
                self.store.count(&selection).await?;
                return Err(error.into());
            }
        };
        report.counted(device.name, total);
        Ok((if total <= SMALL_DEVICE_ROWS { BatchMode::LowLatency } else { BatchMode::Throughput }, rows))
    }

    /// Sends rows until there are no more, or it is asked to stop.
    async fn publish(
        &self,
        patch: &Replay,
        flight: &Arc<AckTracker>,
        report: &impl JobContext,
        pace: &OnceLock<BatchMode>,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let sending = async {
            let (mut sender, mut rows, mapping) = self.prepare(patch, flight, report, pace).await?;
            let guard = Validator::new(self.validation.mode, patch.device);
            while let Some(batch) = rows.next().await? {
                // Cursors are said to be in the one layout, and the rows may have been read by a newer one.
                if let Some(read) = rows.mapping().filter(|read| read.layout() != mapping.layout()) {
                    return Err(SourceError::Changed(format!("{} became {}", mapping.layout(), read.layout())).into());
                }
                report.resume().await;
                failpoint::hit("read");
                send(batch, &mut sender, flight, &guard, mapping.time, report, stop).await?;
                let held = flight.quarantined();
                if held > self.validation.max_quarantined {
                    return Err(Interrupted::TooManyInvalid { held });
                }
                // Where rows and room are always there, nothing above would let the heartbeat and other jobs have their turn.
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        // Each wait may be given up: a row was handed to the producer by then, or was not touched.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Interrupted::Stopped),
            sent = sending => sent,
        }
    }
}

/// Sends a batch of rows, without those that the guard holds back.
async fn send(
    batch: Vec<Row>,
    sender: &mut Sender,
    flight: &Arc<AckTracker>,
    guard: &Validator,
    time: TimeType,
    report: &impl JobContext,
    stop: &CancellationToken,
) -> Result<(), Interrupted> {
    let doc_bytes = batch.iter().map(|row| row.doc.as_ref().map_or(0, Bytes::len)).sum();
    let room = sender.reserve(flight, batch.len(), doc_bytes).await?;
    for row in batch {
        if stop.is_cancelled() {
            return Err(Interrupted::Stopped);
        }
        report.resume().await;
        match guard.check(row.doc) {
            Ok(doc) => {
                // For each, since any wait may have been long.
                report.ensure_lease_valid()?;
                let instant_us = time.instant_us(row.time_us);
                let outgoing = OutgoingRow { instant_us, time_us: row.time_us, key: row.key, doc };
                sender.send(outgoing, &room).await?;
                failpoint::hit("produced");
            }
            Err(fault) => {
                let position = Position { time_us: row.time_us, key: row.key.to_string() };
                flight.quarantine(QuarantinedRow { position, reason: fault.to_string() }).await?;
            }
        }
    }
    Ok(())
}
