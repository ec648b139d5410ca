//! What a submission would publish. Nothing is published or stored.
//!
//! The devices are read in batches, whose size follows from how long they take. Of each device at
//! most `batch::MAX_COUNTED` rows are counted together with others; a device with more is counted by
//! itself, or estimated.

mod batch;
mod buckets;

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::{catalog::source_error, unavailable};
use crate::{
    protocol::{
        RequestError, Submit,
        http::{DevicePreview, Overlap, PreviewLine, PreviewSummary},
    },
    queue::{OverlapQuery, Queue, QueueError, TaskFilter, TaskRow},
    source::Source,
    task::{NewTask, TaskState},
    validate::ValidationMode,
};
use batch::Batches;
pub use buckets::Division;

/// Previews that run at the same time. Each holds its list of devices.
const MAX_RUNNING: usize = 16;
/// How long a further one waits.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a line waits for a client that does not read.
const SEND_TIMEOUT: Duration = Duration::from_mins(1);
/// Overlapping tasks that a summary names.
const MAX_OVERLAPS: u32 = 20;
/// Devices of an overlapping task that a summary names.
const MAX_OVERLAP_DEVICES: usize = 10;
/// Jobs of an overlapping task that are read at once.
const JOBS_PAGE: u32 = 1_000;
/// Recent tasks whose speed is looked at, and the rows that one needs to say something about it.
const RECENT_TASKS: u32 = 20;
const MEANINGFUL_ROWS: u64 = 1_000;

/// Makes previews; clones share their limits.
#[derive(Clone)]
pub struct Previews {
    source: Source,
    queue: Queue,
    time_zone: chrono_tz::Tz,
    validation: ValidationMode,
    running: Arc<Semaphore>,
}

/// A preview that has been admitted.
pub struct Preview {
    source: Source,
    queue: Queue,
    validation: ValidationMode,
    task: NewTask,
    division: Division,
    /// Rows a second, as asked for or as recent tasks had.
    speed: Option<f64>,
    _running: OwnedSemaphorePermit,
}

impl Previews {
    pub fn new(source: Source, queue: Queue, time_zone: chrono_tz::Tz, validation: ValidationMode) -> Self {
        Self { source, queue, time_zone, validation, running: Arc::new(Semaphore::new(MAX_RUNNING)) }
    }

    /// Checks that a preview of a submission can be made. A viewer may ask for one.
    ///
    /// # Errors
    /// The source or the queue cannot be read, or too many previews are running.
    pub async fn start(&self, submit: Submit) -> Result<Preview, RequestError> {
        let task = submit.task;
        let running = tokio::time::timeout(RUNNING_TIMEOUT, Arc::clone(&self.running).acquire_owned()).await;
        let Ok(Ok(running)) = running else {
            return Err(RequestError::Busy("16 previews"));
        };
        // Before the answer begins, so that a source that is away is an error of the request.
        self.source.look_up(task.thing, task.devices.get(..1).unwrap_or_default()).await.map_err(|error| source_error(&error))?;
        let speed = match task.rate {
            Some(rate) => Some(f64::from(rate.get())),
            None => recent_speed(&self.queue).await.map_err(unavailable)?,
        };
        Ok(Preview {
            source: self.source.clone(),
            queue: self.queue.clone(),
            validation: self.validation,
            division: Division::of(task.from, task.to, self.time_zone),
            task,
            speed,
            _running: running,
        })
    }
}

impl Preview {
    /// Sends a line for each device, then the summary. Ends early if nobody receives them; it can be
    /// dropped at any time.
    pub async fn run(self, lines: mpsc::Sender<PreviewLine>) {
        let mut summary = self.empty_summary();
        let mut batches = Batches::new(&self.source, &self.task, &self.division, self.validation);
        while let Some(devices) = batches.next_batch().await {
            for mut device in devices {
                device.estimated_seconds = self.seconds(device.rows);
                add(&mut summary, &device);
                // A client that reads nothing must not keep others from their previews.
                if lines.send_timeout(PreviewLine::Device(device), SEND_TIMEOUT).await.is_err() {
                    return;
                }
            }
        }
        summary.estimated_seconds = self.seconds(summary.rows);
        summary.overlaps = self.overlaps().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the overlaps of a preview cannot be read");
            Vec::new()
        });
        // The receiver may have left.
        let _ = lines.send_timeout(PreviewLine::Summary(summary), SEND_TIMEOUT).await;
    }

    fn empty_summary(&self) -> PreviewSummary {
        PreviewSummary {
            devices: 0,
            problem_devices: 0,
            rows: 0,
            is_estimate: false,
            bytes: 0,
            bucket_unit: self.division.unit,
            bucket_units: self.division.units,
            sampled: 0,
            sample_quarantined: 0,
            estimated_seconds: None,
            overlaps: Vec::new(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
    fn seconds(&self, rows: u64) -> Option<f64> {
        self.speed.map(|speed| rows as f64 / speed)
    }

    /// The latest tasks that publish some of the same rows to the same topic.
    async fn overlaps(&self) -> Result<Vec<Overlap>, QueueError> {
        let NewTask { thing, devices, topic, from, to, .. } = &self.task;
        let query = OverlapQuery { thing: *thing, topic: topic.clone(), devices: devices.clone(), from: *from, to: *to };
        let asked: HashSet<Uuid> = devices.iter().copied().collect();
        let mut overlaps = Vec::new();
        for task in self.queue.overlaps(query, MAX_OVERLAPS).await? {
            overlaps.push(self.overlap(task, &asked).await?);
        }
        Ok(overlaps)
    }

    async fn overlap(&self, task: TaskRow, asked: &HashSet<Uuid>) -> Result<Overlap, QueueError> {
        let (mut devices, mut device_count, mut after) = (Vec::new(), 0, None);
        loop {
            let jobs = self.queue.jobs(task.id, &[], after, JOBS_PAGE).await?;
            for job in jobs.iter().filter(|job| asked.contains(&job.device)) {
                device_count += 1;
                if devices.len() < MAX_OVERLAP_DEVICES {
                    devices.push(job.device);
                }
            }
            match jobs.last() {
                Some(last) if jobs.len() == JOBS_PAGE as usize => after = Some(last.ordinal),
                _ => break,
            }
        }
        let TaskRow { id: task_id, state, topic, from, to, created_at_ms, reason, .. } = task;
        let created_at = DateTime::<Utc>::from_timestamp_millis(created_at_ms).unwrap_or_default();
        Ok(Overlap { task_id, state, topic, from, to, created_at, reason, devices, device_count })
    }
}

fn add(summary: &mut PreviewSummary, device: &DevicePreview) {
    summary.devices += 1;
    summary.problem_devices += u64::from(device.problem.is_some());
    summary.rows = summary.rows.saturating_add(device.rows);
    summary.is_estimate |= device.is_estimate;
    summary.bytes = summary.bytes.saturating_add(device.bytes);
    summary.sampled += device.sampled;
    summary.sample_quarantined += device.sample_quarantined;
}

/// The median speed of the latest tasks that have published enough.
#[expect(clippy::cast_precision_loss, reason = "counts of rows and milliseconds are far below 2^52")]
async fn recent_speed(queue: &Queue) -> Result<Option<f64>, QueueError> {
    let filter = TaskFilter { states: vec![TaskState::Succeeded], ..TaskFilter::default() };
    let tasks = queue.tasks(&filter, None, RECENT_TASKS).await?.tasks;
    let mut speeds: Vec<f64> = tasks
        .iter()
        // A task with a rate is slower than need be.
        .filter(|detail| detail.task.rate.is_none() && detail.totals.published >= MEANINGFUL_ROWS)
        .filter_map(|detail| {
            let took_ms = detail.task.finished_at_ms?.checked_sub(detail.task.created_at_ms).filter(|took| *took > 0)?;
            Some(detail.totals.published as f64 / (took_ms as f64 / 1_000.0))
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    Ok(speeds.get(speeds.len() / 2).copied())
}
