//! One job: counts a device's rows, reads them, quarantines those that ET cannot read, publishes
//! the others, and reports its progress.
//!
//! This module does not know the queue: it reports through a [`JobContext`]. If a dependency is
//! unavailable, the job ends with an outage and can resume later from its last checkpoint.

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
    task::{QuarantinedRow, TaskId},
    validate::Validator,
};

/// A device with at most this many rows uses [`BatchMode::LowLatency`], since waiting for full
/// batches would take longer than sending all of its rows.
const SMALL_DEVICE_ROWS: u64 = 1_000;

/// After this many consecutive restarts without a row acknowledged or quarantined in between, the
/// job ends as in an outage. Halving a batch down to single rows takes seven.
const MAX_RESTARTS: u32 = 20;

/// The delay before a restart is this times the number of restarts before it in a row.
const RESTART_DELAY: Duration = Duration::from_millis(20);

/// Signals that end a job from outside.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// Stop reading, and wait for the rows in flight.
    pub stop: CancellationToken,
    /// Do not wait any longer; drop the rows that were not sent.
    pub abort: CancellationToken,
}

/// The parameters of one job. Its progress is in its [`AckTracker`].
#[derive(Debug, Clone)]
pub struct Replay {
    pub task: TaskId,
    /// The thing that the device is mounted on.
    pub thing: Uuid,
    pub device: Uuid,
    pub topic: String,
    /// Start of the time range, inclusive.
    pub from: DateTime<Utc>,
    /// End of the time range, inclusive.
    pub to: DateTime<Utc>,
    /// The number of rows in the range, if an earlier attempt counted them.
    pub total: Option<u64>,
    /// The source layout of the stored position, if known.
    pub layout: Option<String>,
}

/// What a job reports its progress to.
pub trait JobContext: Send + Sync {
    /// The rows of the device were counted.
    fn counted(&self, name: Option<String>, total: u64);

    /// From now on, positions refer to this source layout
    /// ([`Mapping::layout`](crate::source::Mapping::layout)).
    fn layout(&self, _layout: String) {}

    /// A remark about the source for the task's log.
    fn note(&self, _text: String) {}

    /// Called before rows are processed that the job may have waited for. Returns when it may
    /// process them.
    fn resume(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Waits until some of `rows` rows may be sent, because the rate of the task is limited, and
    /// returns how many, at least one.
    fn pace(&self, rows: usize) -> impl Future<Output = usize> + Send {
        std::future::ready(rows)
    }

    /// Whether the job may send another row.
    ///
    /// # Errors
    /// It may not: the lease may have expired, for example because the process was frozen.
    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired>;
}

/// The job must end at once, because its lease may have expired.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LeaseExpired(pub String);

/// Why a job was interrupted.
enum Interrupted {
    Stopped,
    NoDevice,
    Source(SourceError),
    Kafka(KafkaError),
    LeaseExpired(LeaseExpired),
    /// More rows were quarantined than `validation.max_quarantined` allows.
    TooManyInvalid {
        quarantined: u64,
    },
}

impl From<SourceError> for Interrupted {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl From<KafkaError> for Interrupted {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl From<LeaseExpired> for Interrupted {
    fn from(error: LeaseExpired) -> Self {
        Self::LeaseExpired(error)
    }
}

/// Runs jobs. Clones share the connections.
#[derive(Clone)]
pub struct ReplayRunner {
    pub source: Source,
    pub kafka: Kafka,
    pub validation: config::Validation,
}

impl ReplayRunner {
    /// Runs a job until it is done, is asked to stop, or cannot continue. On return no row of it is
    /// in flight, unless it was aborted. `acks` is up to date all the time, so that checkpoints can
    /// be stored while the job runs.
    ///
    /// # Errors
    /// The lease may have expired.
    pub async fn run(
        &self,
        replay: &Replay,
        acks: &Arc<AckTracker>,
        context: &impl JobContext,
        signals: &Signals,
    ) -> Result<Outcome, LeaseExpired> {
        tokio::select! {
            biased;
            outcome = self.publish_with_restarts(replay, acks, context, &signals.stop) => outcome,
            () = signals.abort.cancelled() => Ok(if acks.has_in_flight() {
                Outcome::Abandoned { unanswered: acks.abort().await }
            } else {
                Outcome::Stopped
            }),
        }
    }

    /// Publishes the rows. Restarts from the ack watermark if the remaining rows must be sent
    /// through a new producer or in smaller batches.
    async fn publish_with_restarts(
        &self,
        replay: &Replay,
        acks: &Arc<AckTracker>,
        context: &impl JobContext,
        stop: &CancellationToken,
    ) -> Result<Outcome, LeaseExpired> {
        let (mut restarts, mut rows_before) = (0, 0);
        let mode = OnceLock::new();
        loop {
            let published = self.publish(replay, acks, context, &mode, stop).await;
            let drained = acks.drained().await;
            match (published, drained) {
                (Err(Interrupted::LeaseExpired(error)), _) => return Err(error),
                (Err(Interrupted::Stopped), Err(error)) if error.is_restart() => {
                    acks.restart();
                    return Ok(Outcome::Stopped);
                }
                (_, Err(error)) if error.is_restart() && restarts < MAX_RESTARTS => {
                    let rows = acks.rows();
                    restarts = if rows > rows_before { 1 } else { restarts + 1 };
                    rows_before = rows;
                    self.kafka.count_error(&error);
                    acks.restart();
                    if let KafkaError::BatchTooLarge { bytes } = error
                        && let Err(error) = self.kafka.batch_refused(&replay.topic, bytes).await
                    {
                        return Ok(self.outcome_of(error).await);
                    }
                    tokio::time::sleep(RESTART_DELAY * (restarts - 1)).await;
                }
                (_, Err(error)) => {
                    if matches!(error, KafkaError::UnknownTopic(_)) {
                        self.kafka.invalidate(&replay.topic).await;
                    }
                    return Ok(self.outcome_of(error).await);
                }
                (Err(Interrupted::Source(error)), Ok(())) => {
                    self.source.count_error(&error);
                    return Ok(error.into());
                }
                (Err(Interrupted::Kafka(error)), Ok(())) => return Ok(self.outcome_of(error).await),
                (Err(Interrupted::TooManyInvalid { quarantined }), Ok(())) => {
                    return Ok(Outcome::Failed(self.too_many_invalid(quarantined)));
                }
                (Err(Interrupted::NoDevice), Ok(())) => {
                    return Ok(Outcome::Failed(format!("there is no such device on thing {}", replay.thing)));
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

    fn too_many_invalid(&self, quarantined: u64) -> String {
        format!(
            "{quarantined} of its rows were quarantined, more than validation.max_quarantined = {}. So many invalid rows are rare: the rule is likely \
             wrong for them (validation.mode). The entries above and the quarantine table give the reasons; correct the rule, then submit the device again",
            self.validation.max_quarantined
        )
    }

    /// Looks up the topic and the device, starts to read, and counts the rows if they are not
    /// counted yet. `known` is the batch mode of an earlier attempt of this job.
    async fn prepare(
        &self,
        replay: &Replay,
        acks: &AckTracker,
        context: &impl JobContext,
        known: &OnceLock<BatchMode>,
    ) -> Result<(Sender, Rows, Arc<Mapping>), Interrupted> {
        self.kafka.look_up(&replay.topic).await?;
        let mapping = self.source.mapping().await?;
        Self::check_layout(replay, acks, context, &mapping);
        let selection = Selection { device: replay.device, from: replay.from, to: replay.to, after: acks.position() };
        let (mode, rows) = if let Some(mode) = known.get() {
            (*mode, self.source.rows(selection))
        } else if replay.total.is_some() || selection.after.is_some() {
            (BatchMode::Throughput, self.source.rows(selection))
        } else {
            self.open_device(replay, selection, context).await?
        };
        let mode = *known.get_or_init(|| mode);
        let sender = self.kafka.sender(&replay.topic, RecordBuilder::new(replay.task, replay.device), mode).await?;
        Ok((sender, rows, mapping))
    }

    /// A position is valid only for the layout that it was stored with. If the layout has changed,
    /// the range is read again from its start.
    fn check_layout(replay: &Replay, acks: &AckTracker, context: &impl JobContext, mapping: &Mapping) {
        let layout = mapping.layout();
        if let Some(before) = replay.layout.as_ref().filter(|before| **before != layout)
            && acks.position().is_some_and(|position| position != mapping.position_before(replay.from, replay.to))
        {
            acks.restart_from(mapping.position_before(replay.from, replay.to));
            context.note(format!(
                "the IoTA source's table was {before} (time/key) when the work stopped and is {layout} now, so the device is published again from the start of its range"
            ));
        }
        if replay.total.is_none()
            && let Some(note) = mapping.range_note(replay.from, replay.to, Utc::now())
        {
            context.note(note);
        }
        context.layout(layout);
    }

    /// Opens a device whose rows are not counted yet.
    async fn open_device(
        &self,
        replay: &Replay,
        selection: Selection,
        context: &impl JobContext,
    ) -> Result<(BatchMode, Rows), Interrupted> {
        let mut opened = self.source.open(replay.thing, selection.clone());
        let device = opened.device().await?.ok_or(Interrupted::NoDevice)?;
        let mut rows = opened.rows;
        let total = match rows.peek().await {
            // All rows are read already, so no count is needed.
            Ok(FirstRows { rows, is_all: true }) => rows,
            Ok(FirstRows { is_all: false, .. }) => self.source.count(&selection).await?,
            Err(error) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                // The count may fail with a more exact error.
                self.source.count(&selection).await?;
                return Err(error.into());
            }
        };
        context.counted(device.name, total);
        Ok((if total <= SMALL_DEVICE_ROWS { BatchMode::LowLatency } else { BatchMode::Throughput }, rows))
    }

    /// Sends rows until there are no more, or until `stop`.
    async fn publish(
        &self,
        replay: &Replay,
        acks: &Arc<AckTracker>,
        context: &impl JobContext,
        mode: &OnceLock<BatchMode>,
        stop: &CancellationToken,
    ) -> Result<(), Interrupted> {
        let sending = async {
            let (mut sender, mut rows, mapping) = self.prepare(replay, acks, context, mode).await?;
            let validator = Validator::new(self.validation.mode, replay.device);
            while let Some(batch) = rows.next().await? {
                // Positions are reported in the layout of `mapping`, but the rows may have been read
                // with a newer one.
                let other = rows.mapping().filter(|read| !Arc::ptr_eq(read, &mapping));
                if let Some(read) = other.filter(|read| read.layout() != mapping.layout()) {
                    return Err(SourceError::Changed(format!("{} became {}", mapping.layout(), read.layout())).into());
                }
                context.resume().await;
                failpoint::hit("read");
                let mut remaining = batch;
                while !remaining.is_empty() {
                    // Before bytes are reserved: a slow task must not keep what others could use.
                    let rows = context.pace(remaining.len()).await.clamp(1, remaining.len());
                    let later = remaining.split_off(rows);
                    send(remaining, &mut sender, acks, &validator, mapping.time, context, stop).await?;
                    remaining = later;
                }
                let quarantined = acks.quarantined();
                if quarantined > self.validation.max_quarantined {
                    return Err(Interrupted::TooManyInvalid { quarantined });
                }
                // If rows and permits are always available, nothing above yields to the heartbeat
                // and to other jobs.
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        // Dropping the future at any await is safe: a row was either handed to the producer or not
        // touched.
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Interrupted::Stopped),
            result = sending => result,
        }
    }
}

/// Sends a batch of rows and quarantines the invalid ones.
async fn send(
    batch: Vec<Row>,
    sender: &mut Sender,
    acks: &Arc<AckTracker>,
    validator: &Validator,
    time: TimeType,
    context: &impl JobContext,
    stop: &CancellationToken,
) -> Result<(), Interrupted> {
    let doc_bytes = batch.iter().map(|row| row.doc.as_ref().map_or(0, Bytes::len)).sum();
    let permit = sender.reserve(acks, batch.len(), doc_bytes).await?;
    for row in batch {
        if stop.is_cancelled() {
            return Err(Interrupted::Stopped);
        }
        context.resume().await;
        match validator.check(row.doc) {
            Ok(doc) => {
                // Checked for each row, since any await may have taken long.
                context.ensure_lease_valid()?;
                let instant_us = time.instant_us(row.position.time_us);
                let outgoing = OutgoingRow { instant_us, position: row.position, doc };
                sender.send(outgoing, &permit).await?;
                failpoint::hit("produced");
            }
            Err(invalid) => {
                acks.quarantine(QuarantinedRow { position: row.position, reason: invalid.to_string() }).await?;
            }
        }
    }
    Ok(())
}
