//! Names the rows of devices whose checksum differs, by comparing the topic with the source.

use std::{
    collections::{HashMap, HashSet},
    ops::ControlFlow,
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    Verification,
    tally::{DeviceTally, Named, row_key, row_of_task},
};
use crate::{
    protocol::http::VerifyLine,
    queue::JobRow,
    sink::kafka::{self, KafkaError, RecordBuilder},
    source::{Selection, SourceError},
    task::{PartitionOffsets, Position, RowHasher, RowId, RowKey},
};

/// Devices whose rows are compared one by one. When more differ, naming rows helps nobody.
const MAX_DEVICES: usize = 100;

/// Rows that are compared one by one: each takes about 40 bytes.
const MAX_ROWS: u64 = 2_000_000;

/// How the topic differs from the source.
#[derive(Debug, Default)]
pub struct Differences {
    pub missing: Named,
    pub altered: Named,
    pub unexpected: Named,
    /// Why rows are not named.
    pub reason: Option<String>,
}

/// The rows of a device in the topic, by [`row_key`], with hashes of their documents.
type FoundRows = HashMap<u64, u64>;

impl Verification {
    /// How these devices differ.
    ///
    /// # Errors
    /// The topic cannot be read.
    pub(super) async fn differences(
        &self,
        differing: &[&JobRow],
        lines: &mpsc::Sender<VerifyLine>,
    ) -> Result<HashMap<Uuid, Differences>, KafkaError> {
        let (mut compared, mut rows) = (Vec::new(), 0);
        let mut differences = HashMap::new();
        for job in differing {
            rows += job.delivered.rows;
            if compared.len() < MAX_DEVICES && rows <= MAX_ROWS {
                compared.push(*job);
            } else {
                let reason = "more rows and devices differ than are compared one by one";
                differences.insert(job.device, Differences { reason: Some(reason.to_owned()), ..Differences::default() });
            }
        }
        if compared.is_empty() {
            return Ok(differences);
        }
        let mut found = self.found_rows(&compared, lines).await?;
        let mut unexpected = HashMap::new();
        for job in compared {
            let mut rows = found.remove(&job.device).unwrap_or_default();
            let mut result = Differences::default();
            match self.compare(job, &mut rows, &mut result).await {
                Ok(()) => {
                    result.unexpected.count = rows.len() as u64;
                    unexpected.insert(job.device, rows);
                }
                Err(error) => {
                    let reason = format!("its rows cannot be compared one by one, because the source cannot be read: {error}");
                    result = Differences { reason: Some(reason), ..Differences::default() };
                }
            }
            differences.insert(job.device, result);
        }
        unexpected.retain(|_, rows| !rows.is_empty());
        self.name_unexpected(unexpected, &mut differences, lines).await?;
        Ok(differences)
    }

    /// Reads the rows of these devices from the topic; of each row the first copy.
    async fn found_rows(
        &self,
        jobs: &[&JobRow],
        lines: &mpsc::Sender<VerifyLine>,
    ) -> Result<HashMap<Uuid, FoundRows>, KafkaError> {
        let found: HashMap<Uuid, FoundRows> = jobs.iter().map(|job| (job.device, FoundRows::new())).collect();
        let mut hasher = RowHasher::default();
        self.read_again(jobs, lines, found, move |found, device, row, doc| {
            let (key, doc) = (row_key(&mut hasher, row), hasher.hash(row, doc) as u64);
            if let Some(rows) = found.get_mut(&device) {
                rows.entry(key).or_insert(doc);
            }
        })
        .await
    }

    /// Compares a device with the source, and removes the rows that both have from `found`.
    async fn compare(&self, job: &JobRow, found: &mut FoundRows, result: &mut Differences) -> Result<(), SourceError> {
        let quarantined = self.quarantined(job).await?;
        let mut records = RecordBuilder::new(self.task.id, job.device);
        let mut hasher = RowHasher::default();
        let selection = Selection { device: job.device, from: self.task.from, to: self.task.to, after: None };
        let mut rows = self.source.rows(selection);
        while let Some(batch) = rows.next().await? {
            let Some(mapping) = rows.mapping() else { break };
            for row in batch {
                let Some(doc) = row.doc else { continue };
                if quarantined.contains(&(row.position.time_us, row.position.key.to_string())) {
                    continue;
                }
                let instant_us = mapping.time.instant_us(row.position.time_us);
                let hash = records.hash(instant_us, &row.position.key, &doc) as u64;
                match found.remove(&row_key(&mut hasher, records.row_id())) {
                    None => result.missing.add(records.row_id()),
                    Some(other) if other != hash => result.altered.add(records.row_id()),
                    Some(_) => {}
                }
                // The task has published no later row (yet).
                let id = RowId { instant_us, key: row.position.key };
                if job.delivered.last.as_ref() == Some(&id) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The rows of a device that were not published.
    async fn quarantined(&self, job: &JobRow) -> Result<HashSet<(i64, String)>, SourceError> {
        const PAGE: u32 = 1_000;
        let mut quarantined = HashSet::new();
        let mut after = (job.device, Position { time_us: i64::MIN, key: RowKey::from("") });
        while (quarantined.len() as u64) < job.quarantined {
            let page = self.queue.quarantine_page(self.task.id, Some(&after), PAGE).await;
            let page = page.map_err(|error| SourceError::Unknown(error.to_string()))?;
            let known = quarantined.len();
            for (_, row) in page.into_iter().filter(|(device, _)| *device == job.device) {
                quarantined.insert((row.position.time_us, row.position.key.to_string()));
                after.1 = row.position;
            }
            if quarantined.len() == known {
                break;
            }
        }
        Ok(quarantined)
    }

    /// Names rows that only the topic has: their ids are in the topic.
    async fn name_unexpected(
        &self,
        unexpected: HashMap<Uuid, FoundRows>,
        differences: &mut HashMap<Uuid, Differences>,
        lines: &mpsc::Sender<VerifyLine>,
    ) -> Result<(), KafkaError> {
        if unexpected.is_empty() {
            return Ok(());
        }
        let jobs: Vec<&JobRow> = self.jobs.iter().filter(|job| unexpected.contains_key(&job.device)).collect();
        let mut hasher = RowHasher::default();
        let named = HashMap::<Uuid, Named>::new();
        let named = self.read_again(&jobs, lines, named, move |named, device, row, _| {
            let is_unexpected = unexpected.get(&device).is_some_and(|rows| rows.contains_key(&row_key(&mut hasher, row)));
            let named = named.entry(device).or_default();
            if is_unexpected && !named.rows.iter().any(|known| known == row) {
                named.add(row);
            }
        });
        for (device, Named { rows, .. }) in named.await? {
            if let Some(differences) = differences.get_mut(&device) {
                differences.unexpected.rows = rows;
            }
        }
        Ok(())
    }

    /// Reads the messages of these devices again, and calls `visit` for each with the device, the
    /// row's id and the document.
    async fn read_again<S: Send + 'static>(
        &self,
        jobs: &[&JobRow],
        lines: &mpsc::Sender<VerifyLine>,
        mut state: S,
        mut visit: impl FnMut(&mut S, Uuid, &str, &[u8]) + Send + 'static,
    ) -> Result<S, KafkaError> {
        let spans: Vec<PartitionOffsets> = jobs.iter().flat_map(|job| job.delivered.partitions.clone()).collect();
        let tallies: HashMap<_, _> =
            jobs.iter().map(|job| (job.device, DeviceTally::new(job.delivered.partitions.clone()))).collect();
        let (reading, topic, task, lines) =
            (self.kafka.clone(), self.task.topic.clone(), self.task.id.to_string(), lines.clone());
        kafka::in_background(move || {
            reading.reader(&topic)?.read(&spans, |message| {
                if let Some(message) = message
                    && let Some((device, row)) = row_of_task(&message, &task)
                    && tallies.get(&device).is_some_and(|tally| tally.contains(&message))
                {
                    visit(&mut state, device, row, message.doc);
                }
                if lines.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            Ok(state)
        })
        .await
        .flatten()
    }
}
