//! Reads the devices of a preview in batches, as large as they are quick.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Division;
use crate::{
    protocol::http::{Bucket, DevicePreview},
    source::{DeviceCounts, Source, SourceError},
    task::NewTask,
    validate::{ValidationMode, Validator},
};

/// Devices of the first batch and of the largest.
const FIRST_BATCH: usize = 8;
const LARGEST_BATCH: usize = 128;
/// A batch that was quicker is followed by a larger one, a slower one by a smaller one.
const QUICK: Duration = Duration::from_millis(150);
const SLOW: Duration = Duration::from_millis(400);
/// The rows of a device that are counted together with others.
pub(super) const MAX_COUNTED: u32 = 20_000;
/// The time limit of a statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(2);
/// The same for one that reads the whole table for all devices of a batch.
const SCAN_LIMIT: Duration = Duration::from_secs(10);
/// All statements of a preview that end without a result may take this long together; after it the
/// other devices are not counted.
const PATIENCE: Duration = Duration::from_secs(20);
/// A device with more rows, as they are estimated, is not counted.
const EXACT_ROWS: u64 = 1_000_000;
/// Large devices may be counted for this long together; the others are estimated.
const EXACT_TIME: Duration = Duration::from_secs(20);
/// Rows of a bucket that are counted to estimate the others: of few devices, and of many.
const PROBED_ROWS: [u32; 2] = [1_000, 100];
const FEW_DEVICES: usize = 100;
/// Documents that are read: of all devices, of a batch, and the least and the most of a device.
const SAMPLE_ROWS: usize = 20_000;
const SAMPLE_BATCH_ROWS: usize = 2_000;
const SAMPLE_DEVICE_ROWS: (usize, usize) = (2, 64);
/// The parts of a device's range from which documents are read.
const SAMPLE_PARTS: i64 = 4;
/// After so many outages in a row the other devices are not read.
const MAX_OUTAGES: u32 = 3;

/// The devices of a preview that are not read yet.
pub(super) struct Batches<'a> {
    source: &'a Source,
    task: &'a NewTask,
    division: &'a Division,
    validation: ValidationMode,
    remaining: &'a [Uuid],
    size: usize,
    patience: Duration,
    exact_time: Duration,
    outages: u32,
    /// Why the remaining devices are not read.
    given_up: Option<String>,
}

impl<'a> Batches<'a> {
    pub fn new(source: &'a Source, task: &'a NewTask, division: &'a Division, validation: ValidationMode) -> Self {
        Self {
            source,
            task,
            division,
            validation,
            remaining: &task.devices,
            size: FIRST_BATCH,
            patience: PATIENCE,
            exact_time: EXACT_TIME,
            outages: 0,
            given_up: None,
        }
    }

    /// The next devices; `None` after the last one.
    pub async fn next_batch(&mut self) -> Option<Vec<DevicePreview>> {
        let (devices, rest) = self.remaining.split_at(self.size.min(self.remaining.len()));
        if devices.is_empty() {
            return None;
        }
        self.remaining = rest;
        if let Some(problem) = &self.given_up {
            return Some(devices.iter().map(|device| with_problem(*device, None, problem.clone())).collect());
        }
        let started = Instant::now();
        match self.read(devices).await {
            Ok(previews) => {
                self.outages = 0;
                let took = started.elapsed();
                if took < QUICK {
                    self.size = (self.size * 2).min(LARGEST_BATCH);
                } else if took > SLOW {
                    self.size = (self.size / 2).max(1);
                }
                Some(previews)
            }
            Err(error) => {
                self.outages += 1;
                if !error.is_retryable() || self.outages >= MAX_OUTAGES {
                    self.given_up = Some(error.to_string());
                }
                Some(devices.iter().map(|device| with_problem(*device, None, error.to_string())).collect())
            }
        }
    }

    async fn read(&mut self, devices: &[Uuid]) -> Result<Vec<DevicePreview>, SourceError> {
        let known = self.source.look_up(self.task.thing, devices).await?;
        let present: Vec<Uuid> = devices.iter().copied().filter(|device| known.contains_key(device)).collect();
        let counted = self.count(&present).await?;
        let mut counted: Vec<_> = present.into_iter().zip(counted).collect();
        let samples = self.sample(&mut counted).await;
        let mut results = counted.into_iter().zip(samples).peekable();
        let mut previews = Vec::with_capacity(devices.len());
        for device in devices {
            let name = known.get(device).and_then(|device| device.name.clone());
            previews.push(match results.next_if(|((counted, _), _)| counted == device) {
                None => with_problem(*device, None, format!("there is no such device on thing {}", self.task.thing)),
                Some(((_, Err(problem)), _)) => with_problem(*device, name, problem),
                Some(((_, Ok(counts)), sample)) => self.preview(*device, name, &counts, sample),
            });
        }
        Ok(previews)
    }

    /// The rows of each device, or why they are not counted.
    async fn count(&mut self, devices: &[Uuid]) -> Result<Vec<Result<DeviceCounts, String>>, SourceError> {
        let buckets = &self.division.buckets;
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        if !self.source.has_index().await? {
            if let Some(counts) = self.source.bucket_counts(devices, buckets, None, SCAN_LIMIT).await? {
                return Ok(counts.into_iter().map(Ok).collect());
            }
            let problem = format!(
                "its rows are not counted: no index begins with the device, and reading the whole table takes longer than {} s, \
                 or others wait for it",
                SCAN_LIMIT.as_secs()
            );
            self.given_up = Some(problem.clone());
            return Ok(devices.iter().map(|_| Err(problem.clone())).collect());
        }
        let started = Instant::now();
        let counted = self.source.bucket_counts(devices, buckets, Some(MAX_COUNTED), STATEMENT_LIMIT).await?;
        let mut results = Vec::with_capacity(devices.len());
        if let Some(counts) = counted {
            for (device, counts) in devices.iter().zip(counts) {
                results.push(if counts.is_capped { self.count_large(*device).await? } else { Ok(counts) });
            }
            return Ok(results);
        }
        self.patience = self.patience.saturating_sub(started.elapsed());
        for device in devices {
            results.push(self.count_large(*device).await?);
        }
        Ok(results)
    }

    /// The rows of a device that has many, or that is slow to read.
    async fn count_large(&mut self, device: Uuid) -> Result<Result<DeviceCounts, String>, SourceError> {
        let buckets = &self.division.buckets;
        if self.patience.is_zero() {
            let problem = "its rows are not counted: the source is slow, or others wait for its tables";
            return Ok(Err(problem.to_owned()));
        }
        let [of_few, of_many] = PROBED_ROWS;
        let probed_rows = if self.task.devices.len() <= FEW_DEVICES { of_few } else { of_many };
        let started = Instant::now();
        let Some(estimate) = self.source.estimate_buckets(device, buckets, probed_rows, STATEMENT_LIMIT).await? else {
            self.patience = self.patience.saturating_sub(started.elapsed());
            return Ok(Err(format!(
                "its rows are not counted: it takes longer than {} s, or others wait for the table",
                STATEMENT_LIMIT.as_secs()
            )));
        };
        if !estimate.is_estimate || estimate.rows > EXACT_ROWS || self.exact_time.is_zero() {
            return Ok(Ok(estimate));
        }
        let started = Instant::now();
        let exact = self.source.bucket_counts(&[device], buckets, None, STATEMENT_LIMIT).await?;
        self.exact_time = self.exact_time.saturating_sub(started.elapsed());
        Ok(Ok(exact.and_then(|mut counts| counts.pop()).unwrap_or(estimate)))
    }

    /// Reads some documents of each device that has rows.
    async fn sample(&self, counted: &mut [(Uuid, Result<DeviceCounts, String>)]) -> Vec<Sample> {
        let mut samples = vec![Sample::default(); counted.len()];
        let (fewest, most) = SAMPLE_DEVICE_ROWS;
        let of_all = SAMPLE_ROWS / self.task.devices.len().max(1);
        let rows = of_all.min(SAMPLE_BATCH_ROWS / counted.len().max(1)).clamp(fewest, most);
        let parts_of_device = SAMPLE_PARTS.min(i64::try_from(rows).unwrap_or(SAMPLE_PARTS));
        let rows_of_part = u32::try_from(rows).unwrap_or(u32::MAX) / u32::try_from(parts_of_device).unwrap_or(1).max(1);
        let (mut owners, mut parts) = (Vec::new(), Vec::new());
        for (number, (device, counts)) in counted.iter().enumerate() {
            let Ok(DeviceCounts { first_us: Some(first), last_us: Some(last), .. }) = counts else { continue };
            for (from, to) in divided(*first, *last, parts_of_device) {
                owners.push(number);
                parts.push((*device, from, to));
            }
        }
        if parts.is_empty() || !matches!(self.source.has_index().await, Ok(true)) {
            return samples;
        }
        let validators: Vec<_> = counted.iter().map(|(device, _)| Validator::new(self.validation, *device)).collect();
        let mut on_row = |part: usize, doc: Option<bytes::Bytes>| {
            let Some(number) = owners.get(part).copied() else { return };
            if let (Some(sample), Some(validator)) = (samples.get_mut(number), validators.get(number)) {
                sample.rows += 1;
                sample.bytes += doc.as_ref().map_or(0, |doc| doc.len() as u64);
                sample.quarantined += u64::from(validator.check(doc).is_err());
            }
        };
        if let Err(error) = self.source.sample(&parts, rows_of_part, STATEMENT_LIMIT, &mut on_row).await {
            tracing::debug!(%error, "no documents are sampled for a preview");
            for sample in &mut samples {
                sample.error = Some(format!("its documents are not sampled: {error}"));
            }
        }
        samples
    }

    fn preview(&self, device_id: Uuid, name: Option<String>, counts: &DeviceCounts, sample: Sample) -> DevicePreview {
        let bucket = |(number, rows): &(u32, u64)| Bucket { start: self.division.buckets.start_of(*number), rows: *rows };
        let bytes = u128::from(counts.rows) * u128::from(sample.bytes) / u128::from(sample.rows.max(1));
        DevicePreview {
            device_id,
            name,
            rows: counts.rows,
            is_estimate: counts.is_estimate,
            first: counts.first_us.and_then(DateTime::from_timestamp_micros),
            last: counts.last_us.and_then(DateTime::from_timestamp_micros),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
            buckets: counts.buckets.iter().map(bucket).collect(),
            sampled: sample.rows,
            sample_quarantined: sample.quarantined,
            estimated_seconds: None,
            problem: sample.error.filter(|_| counts.rows > 0),
        }
    }
}

/// Documents of a device that were read.
#[derive(Debug, Clone, Default)]
struct Sample {
    rows: u64,
    bytes: u64,
    quarantined: u64,
    error: Option<String>,
}

/// A range of microseconds in parts of one length, both ends of each inclusive.
fn divided(first: i64, last: i64, parts: i64) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let length = last.saturating_sub(first) / parts.max(1);
    let parts = if length == 0 { 1 } else { parts.max(1) };
    let time = |us| DateTime::from_timestamp_micros(us).unwrap_or_default();
    let part = |number: i64| {
        let from = time(first + length * number);
        let to = if number + 1 == parts { time(last) } else { from + TimeDelta::microseconds(length - 1) };
        (from, to)
    };
    (0..parts).map(part).collect()
}

fn with_problem(device_id: Uuid, name: Option<String>, problem: String) -> DevicePreview {
    DevicePreview {
        device_id,
        name,
        rows: 0,
        is_estimate: false,
        first: None,
        last: None,
        bytes: 0,
        buckets: Vec::new(),
        sampled: 0,
        sample_quarantined: 0,
        estimated_seconds: None,
        problem: Some(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_range_without_overlap() {
        for (first, last, parts) in [(0, 0, 4), (0, 3, 4), (0, 4, 4), (-7, 1_000_003, 4), (5, 6, 1)] {
            let divided = divided(first, last, parts);
            let us = |time: DateTime<Utc>| time.timestamp_micros();
            assert_eq!((us(divided[0].0), us(divided.last().unwrap().1)), (first, last));
            assert!(divided.windows(2).all(|pair| us(pair[0].1) + 1 == us(pair[1].0)), "{divided:?}");
        }
    }
}
