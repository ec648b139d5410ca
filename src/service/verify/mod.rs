//! Reads the topic back and compares it with the receipt of a task.
//!
//! One pass over the offsets of the receipt gives the checksum of each device ([`tally`]), without
//! a look at the source. Only where it differs, the rows are compared one by one with the source's
//! ([`rows`]), so that they can be named.

mod rows;
mod tally;

use std::{
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{TaskService, unavailable};
use crate::{
    protocol::{
        RequestError,
        http::{DeviceVerdict, Verdict, VerifyError, VerifyLine, VerifyProgress, VerifySummary},
    },
    queue::{JobRow, Queue, TaskRow},
    sink::kafka::{self, Available, Kafka, KafkaError, merge},
    source::Source,
    task::{PartitionOffsets, TaskId},
};
use rows::Differences;
use tally::{DeviceTally, Tally};

/// Verifications that may run at once. Each reads as fast as the brokers send.
pub const MAX_VERIFICATIONS: usize = 2;

const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// A verification that may begin.
pub struct Verification {
    task: TaskRow,
    jobs: Vec<JobRow>,
    queue: Queue,
    source: Source,
    kafka: Kafka,
    _permit: OwnedSemaphorePermit,
}

impl TaskService {
    /// Prepares the verification of what a task has published so far.
    ///
    /// # Errors
    /// There is no such task, too many verifications run, or the queue cannot be read.
    pub async fn verification(&self, id: TaskId) -> Result<Verification, RequestError> {
        let task = self.task_row(id).await?;
        let permit = Arc::clone(&self.verifications).try_acquire_owned().map_err(|_| RequestError::Busy("two verifications"))?;
        let jobs = self.queue.jobs(id, &[], None, u32::MAX).await.map_err(unavailable)?;
        let (queue, source, kafka) = (self.queue.clone(), self.source.clone(), self.kafka.clone());
        Ok(Verification { task, jobs, queue, source, kafka, _permit: permit })
    }
}

/// What the checksums say of a device.
enum Judgement {
    Complete,
    Differs,
    Unknown(String),
}

impl Verification {
    /// Sends progress, a verdict for each device, and a summary. Ends early when nobody receives
    /// them any more.
    pub async fn run(self, lines: mpsc::Sender<VerifyLine>) {
        let started = Instant::now();
        if let Err(error) = self.verify(&lines, started).await {
            tracing::warn!(task = %self.task.id, %error, "a verification has ended without a result");
            let detail = format!("{error}. Nothing is known; verify the task again");
            let _ = lines.send(VerifyLine::Error(VerifyError { detail })).await;
        }
    }

    async fn verify(&self, lines: &mpsc::Sender<VerifyLine>, started: Instant) -> Result<(), KafkaError> {
        let is_compacted = self.kafka.is_compacted(&self.task.topic).await;
        let (mut tallies, available) = self.tally(lines).await?;
        let mut judged: Vec<(&JobRow, DeviceTally, Judgement)> = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            let tally = tallies.remove(&job.device).unwrap_or_default();
            let judgement = judge(job, &tally, &available);
            judged.push((job, tally, judgement));
        }
        let differing: Vec<&JobRow> =
            judged.iter().filter(|(_, _, judgement)| matches!(judgement, Judgement::Differs)).map(|(job, ..)| *job).collect();
        let mut differences = self.differences(&differing, lines).await?;
        let mut summary = VerifySummary {
            verdict: Verdict::Complete,
            devices: self.jobs.len() as u64,
            complete_devices: 0,
            differing_devices: 0,
            unknown_devices: 0,
            published: 0,
            found: 0,
            repeated: 0,
            checked_at: Utc::now(),
            took_ms: 0,
        };
        for (job, tally, judgement) in judged {
            let verdict = verdict(job, &tally, judgement, differences.remove(&job.device), is_compacted);
            add(&mut summary, &verdict);
            if lines.send(VerifyLine::Device(verdict)).await.is_err() {
                return Ok(());
            }
        }
        summary.verdict = match (summary.differing_devices, summary.unknown_devices) {
            (1.., _) => Verdict::Differs,
            (0, 1..) => Verdict::Unknown,
            (0, 0) => Verdict::Complete,
        };
        (summary.checked_at, summary.took_ms) = (Utc::now(), started.elapsed().as_millis() as u64);
        tracing::info!(
            task = %self.task.id, verdict = ?summary.verdict, found = summary.found, published = summary.published,
            took = ?started.elapsed(), "a task was verified"
        );
        let _ = lines.send(VerifyLine::Summary(summary)).await;
        Ok(())
    }

    /// Reads the topic between the offsets of the receipt.
    async fn tally(
        &self,
        lines: &mpsc::Sender<VerifyLine>,
    ) -> Result<(HashMap<uuid::Uuid, DeviceTally>, HashMap<i32, Available>), KafkaError> {
        let mut tally = Tally::new(self.task.id, &self.jobs);
        let spans: Vec<PartitionOffsets> = self.jobs.iter().flat_map(|job| job.delivered.partitions.clone()).collect();
        let (reading, topic, lines) = (self.kafka.clone(), self.task.topic.clone(), lines.clone());
        kafka::in_background(move || {
            let reader = reading.reader(&topic)?;
            let partitions: BTreeSet<i32> = spans.iter().map(|span| span.partition).collect();
            let available = reader.available(partitions)?;
            let readable: Vec<_> = spans.into_iter().filter(|span| is_available(span, &available)).collect();
            let total = merge(&readable).values().flatten().map(|span| (span.last - span.first + 1).cast_unsigned()).sum();
            let (mut read, mut told_at) = (0, Instant::now());
            let _ = lines.blocking_send(VerifyLine::Progress(VerifyProgress { read, total }));
            reader.read(&readable, |message| {
                if let Some(message) = message {
                    tally.add(&message);
                    read += 1;
                    if read % 1_024 != 0 {
                        return ControlFlow::Continue(());
                    }
                }
                if told_at.elapsed() >= PROGRESS_INTERVAL {
                    told_at = Instant::now();
                    // Progress may be left out.
                    let _ = lines.try_send(VerifyLine::Progress(VerifyProgress { read, total }));
                }
                if lines.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok((tally.into_devices(), available))
        })
        .await
        .flatten()
    }
}

/// Whether the topic still has these offsets.
fn is_available(span: &PartitionOffsets, available: &HashMap<i32, Available>) -> bool {
    available.get(&span.partition).is_some_and(|known| known.first <= span.first && span.last < known.end)
}

/// What can be said of a device without its rows.
fn judge(job: &JobRow, tally: &DeviceTally, available: &HashMap<i32, Available>) -> Judgement {
    let delivered = &job.delivered;
    if delivered.rows != job.published {
        return Judgement::Unknown(
            "its rows were published by a version that kept no checksums; compare them with the source, or publish them again"
                .to_owned(),
        );
    }
    for span in &delivered.partitions {
        let reason = match available.get(&span.partition) {
            None => format!("the topic has no partition {}: it was removed, or made anew", span.partition),
            Some(known) if span.last >= known.end => format!(
                "partition {} ends before offset {}, where its last row was: the topic was made anew, or has lost messages",
                span.partition, span.last
            ),
            Some(known) if span.first < known.first => format!(
                "partition {} begins at offset {}, after its first row (offset {}): older messages were removed (retention)",
                span.partition, known.first, span.first
            ),
            Some(_) => continue,
        };
        return Judgement::Unknown(reason);
    }
    if tally.found == delivered.rows && tally.checksum == delivered.checksum && tally.changed_copies.count == 0 {
        Judgement::Complete
    } else {
        Judgement::Differs
    }
}

fn verdict(
    job: &JobRow,
    tally: &DeviceTally,
    judgement: Judgement,
    differences: Option<Differences>,
    is_compacted: bool,
) -> DeviceVerdict {
    let Differences { missing, mut altered, unexpected, mut reason } = differences.unwrap_or_default();
    let verdict = match judgement {
        Judgement::Complete => Verdict::Complete,
        Judgement::Unknown(why) => {
            reason = Some(why);
            Verdict::Unknown
        }
        Judgement::Differs => {
            let only_missing = altered.count == 0 && unexpected.count == 0 && tally.changed_copies.count == 0;
            altered.append(&tally.changed_copies);
            if !only_missing || reason.is_some() {
                Verdict::Differs
            } else if missing.count == 0 {
                // What was forgotten on the way is found row by row.
                Verdict::Complete
            } else if is_compacted {
                reason = Some("the topic is compacted: it keeps only the last message of each device".to_owned());
                Verdict::Unknown
            } else if job.delivered.unlocated >= missing.count {
                reason = Some(format!(
                    "Kafka did not tell the offsets of {} of its rows; they may lie outside the offsets that were read",
                    job.delivered.unlocated
                ));
                Verdict::Unknown
            } else {
                Verdict::Differs
            }
        }
    };
    DeviceVerdict {
        device_id: job.device,
        name: job.name.clone(),
        verdict,
        published: job.published,
        found: tally.found,
        repeated: tally.repeated,
        missing: missing.rows,
        missing_count: missing.count,
        altered: altered.rows,
        altered_count: altered.count,
        unexpected: unexpected.rows,
        unexpected_count: unexpected.count,
        reason,
    }
}

fn add(summary: &mut VerifySummary, device: &DeviceVerdict) {
    match device.verdict {
        Verdict::Complete => summary.complete_devices += 1,
        Verdict::Differs => summary.differing_devices += 1,
        Verdict::Unknown => summary.unknown_devices += 1,
    }
    summary.published += device.published;
    summary.found += device.found;
    summary.repeated += device.repeated;
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{tally::Named, *};
    use crate::task::{Delivered, JobState};

    fn job(delivered: Delivered) -> JobRow {
        JobRow {
            ordinal: 0,
            device: Uuid::from_u128(7),
            name: None,
            state: JobState::Succeeded,
            total: Some(3),
            published: delivered.rows,
            quarantined: 0,
            rows_per_second: None,
            delivered,
            attempts: 1,
            outages: 0,
            due_at_ms: None,
            reason: None,
        }
    }

    #[test]
    fn offsets_that_the_topic_does_not_have_prove_nothing() {
        let partitions = vec![PartitionOffsets { partition: 2, first: 10, last: 20 }];
        let job = job(Delivered { partitions, ..Delivered::default() });
        let reason =
            |available: &[(i32, Available)]| match judge(&job, &DeviceTally::default(), &available.iter().copied().collect()) {
                Judgement::Unknown(reason) => reason,
                Judgement::Complete => "complete".to_owned(),
                Judgement::Differs => "differs".to_owned(),
            };
        assert!(reason(&[]).contains("no partition 2"));
        assert!(reason(&[(2, Available { first: 0, end: 20 })]).contains("ends before offset 20"));
        assert!(reason(&[(2, Available { first: 11, end: 21 })]).contains("begins at offset 11"));
        assert_eq!(reason(&[(2, Available { first: 10, end: 21 })]), "complete");
    }

    #[test]
    fn rows_of_a_version_without_checksums_prove_nothing() {
        let job = JobRow { published: 3, ..job(Delivered::default()) };
        assert!(
            matches!(judge(&job, &DeviceTally::default(), &HashMap::new()), Judgement::Unknown(reason) if reason.contains("checksums"))
        );
    }

    /// The verdict on a device whose checksum differs.
    fn of_differing(unlocated: u64, tally: &DeviceTally, differences: Differences) -> DeviceVerdict {
        let job = job(Delivered { rows: 3, unlocated, ..Delivered::default() });
        verdict(&job, tally, Judgement::Differs, Some(differences), false)
    }

    fn named(count: u64) -> Named {
        Named { rows: Vec::new(), count }
    }

    #[test]
    fn a_device_that_differs_and_is_not_compared_row_by_row_differs() {
        let differences = Differences { reason: Some("too many".to_owned()), ..Differences::default() };
        let verdict = of_differing(0, &DeviceTally::default(), differences);
        assert_eq!((verdict.verdict, verdict.reason.as_deref()), (Verdict::Differs, Some("too many")));
    }

    #[test]
    fn rows_that_may_lie_elsewhere_are_not_known_to_be_missing() {
        let missing = |count| Differences { missing: named(count), ..Differences::default() };
        let of = |unlocated, count| of_differing(unlocated, &DeviceTally::default(), missing(count)).verdict;
        assert_eq!((of(2, 2), of(1, 2), of(0, 0)), (Verdict::Unknown, Verdict::Differs, Verdict::Complete));
    }

    #[test]
    fn every_changed_copy_counts_as_altered() {
        let mut tally = DeviceTally::default();
        for row in 0..12 {
            tally.changed_copies.add(&row.to_string());
        }
        let verdict = of_differing(0, &tally, Differences { altered: named(1), ..Differences::default() });
        assert_eq!((verdict.verdict, verdict.altered_count, verdict.altered.len()), (Verdict::Differs, 13, 10));
    }
}
