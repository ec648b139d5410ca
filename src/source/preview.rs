//! Counts by time, and samples of documents, for previews. Each statement is short: it is limited in
//! rows or in time, and gives way to others.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    Device, Mapping, Source, SourceError, StoredRange, TimeType,
    backend::{CatalogBackend as _, ReadingsBackend as _},
};

/// How much longer than its limit a statement may take before the connection counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// A range of time that is divided into buckets of one length. The first one may begin earlier.
#[derive(Debug, Clone)]
pub struct Buckets {
    /// Inclusive, as is `to`.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// The start of the first bucket.
    pub start: DateTime<Utc>,
    pub length: TimeDelta,
    pub count: u32,
}

/// [`Buckets`] in stored times.
#[derive(Debug, Clone)]
pub struct Edges {
    pub range: StoredRange,
    /// Where each bucket but the first one begins, in microseconds, ascending, and its number. In a
    /// time zone whose clocks are set back, some stored times begin no bucket.
    pub stored: Vec<(i64, u32)>,
    /// The start of the first bucket, and the length of all of them.
    pub start_us: i64,
    pub length_us: i64,
}

/// A group that the database has counted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct CountedGroup {
    /// The number of the device.
    pub n: i64,
    pub place: i64,
    #[sqlx(try_from = "i64")]
    pub rows: u64,
    /// In stored microseconds.
    pub first: i64,
    pub last: i64,
}

/// The beginning of a bucket that the database has counted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct ProbedGroup {
    /// At most the limit.
    pub rows: i64,
    /// In stored microseconds.
    pub first: Option<i64>,
    /// The last time of the rows that were counted.
    pub reached: Option<i64>,
    /// The last time of the bucket.
    pub last: Option<i64>,
}

/// The rows of a device by bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeviceCounts {
    /// Numbers of buckets and their rows, without empty ones, ascending.
    pub buckets: Vec<(u32, u64)>,
    pub rows: u64,
    /// In microseconds since 1970.
    pub first_us: Option<i64>,
    pub last_us: Option<i64>,
    /// Some of the rows are estimated.
    pub is_estimate: bool,
    /// There may be more rows: counting stopped.
    pub is_capped: bool,
}

/// A place from which rows of a device are sampled, in stored microseconds.
#[derive(Debug, Clone)]
pub struct SamplePoint {
    pub device: Uuid,
    /// Inclusive, as is `to_us`.
    pub from_us: i64,
    pub to_us: i64,
}

impl Buckets {
    /// The start of a bucket.
    pub fn start_of(&self, bucket: u32) -> DateTime<Utc> {
        let offset = i32::try_from(bucket).ok().and_then(|bucket| self.length.checked_mul(bucket));
        offset.and_then(|offset| self.start.checked_add_signed(offset)).unwrap_or(self.start)
    }

    fn edges(&self, time: TimeType) -> Edges {
        let stored_us = |instant| time.range(instant, instant).from.unwrap_or_default();
        let mut stored: Vec<(i64, u32)> = Vec::new();
        for bucket in 1..self.count {
            let edge = stored_us(self.start_of(bucket));
            if stored.last().is_none_or(|(last, _)| *last < edge) {
                stored.push((edge, bucket));
            }
        }
        Edges {
            range: time.range(self.from, self.to),
            stored,
            start_us: stored_us(self.start),
            length_us: self.length.num_microseconds().unwrap_or(i64::MAX),
        }
    }
}

impl Edges {
    /// The number of the bucket at a place in the order of the edges.
    fn bucket(&self, place: i64) -> u32 {
        let before = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
        before.map_or(0, |before| self.stored.get(before).or(self.stored.last()).map_or(0, |(_, bucket)| *bucket))
    }

    /// The stored range of each bucket, cut to the range.
    fn ranges(&self) -> Vec<(u32, StoredRange)> {
        let from = self.range.from.unwrap_or_default();
        let starts = std::iter::once((from, 0)).chain(self.stored.iter().copied());
        let ends = self.stored.iter().map(|(edge, _)| edge - 1).chain([self.range.to]);
        let cut = |((start, bucket), end): ((i64, u32), i64)| {
            let (start, end) = (start.max(from), end.min(self.range.to));
            (start <= end).then(|| (bucket, StoredRange { from: Some(start), to: end, holes: self.range.holes.clone() }))
        };
        starts.zip(ends).filter_map(cut).collect()
    }
}

impl DeviceCounts {
    fn add(&mut self, bucket: u32, rows: u64, times_us: Option<(i64, i64)>) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => {
                if let Some((_, counted)) = self.buckets.get_mut(at) {
                    *counted += rows;
                }
            }
            Err(at) => self.buckets.insert(at, (bucket, rows)),
        }
        self.rows += rows;
        if let Some((first, last)) = times_us {
            self.first_us = Some(self.first_us.map_or(first, |known| known.min(first)));
            self.last_us = Some(self.last_us.map_or(last, |known| known.max(last)));
        }
    }
}

/// The rows of a bucket whose beginning was counted, and whether they are estimated.
fn estimate(range: &StoredRange, group: &ProbedGroup, limit: u32) -> (u64, bool) {
    let rows = u64::try_from(group.rows).unwrap_or_default();
    let (Some(from), Some(reached), Some(last)) = (range.from, group.reached, group.last) else { return (rows, false) };
    if rows < u64::from(limit) || reached >= last {
        // All rows at the last time may not be counted, but they are few.
        return (rows, rows >= u64::from(limit));
    }
    let (seen, all) = ((reached - from).max(1), (last - from).max(1));
    let estimated = u128::from(rows) * u128::from(all.unsigned_abs()) / u128::from(seen.unsigned_abs());
    (u64::try_from(estimated).unwrap_or(u64::MAX).max(rows), true)
}

/// Runs a statement, and again by a new mapping if the tables have changed.
macro_rules! with_mapping {
    ($source:expr, $limit:expr, $mapping:ident => $statement:expr) => {{
        let _permit = $source.browsing_permit().await;
        let run = async {
            let $mapping = $source.mapping().await?;
            match $statement.await {
                Err(SourceError::Changed(_) | SourceError::Rejected(_)) => {
                    let $mapping = $source.refresh_mapping(&$mapping).await?;
                    $statement.await
                }
                result => result,
            }
        };
        let seconds = ($limit + GRACE).as_secs();
        $source.with_timeout("a statement of a preview", seconds, run).await
    }};
}

impl Source {
    /// Whether counting the rows of a device reads an index rather than the table.
    ///
    /// # Errors
    /// The source is unavailable, or its tables do not match the configuration.
    pub async fn has_index(&self) -> Result<bool, SourceError> {
        Ok(self.mapping().await?.has_index)
    }

    /// Those of the devices that are mounted on the thing.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn look_up(&self, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError> {
        let limit = Duration::from_secs(self.shared.config.timeout_seconds);
        with_mapping!(self, limit, mapping => self.shared.catalog.look_up(&mapping, thing, devices))
    }

    /// Counts the rows of devices by bucket, at most `cap` of each device. `None`: it takes longer
    /// than `limit`, or was cancelled because it blocked others.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn bucket_counts(
        &self,
        devices: &[Uuid],
        buckets: &Buckets,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<DeviceCounts>>, SourceError> {
        with_mapping!(self, limit, mapping => self.counts(&mapping, devices, buckets, cap, limit))
    }

    async fn counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        buckets: &Buckets,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<DeviceCounts>>, SourceError> {
        let edges = buckets.edges(mapping.time);
        let Some(groups) = self.shared.readings.bucket_counts(mapping, devices, &edges, cap, limit).await? else {
            return Ok(None);
        };
        let mut counts = vec![DeviceCounts::default(); devices.len()];
        for group in groups {
            let Some(of_device) = usize::try_from(group.n).ok().and_then(|n| counts.get_mut(n)) else { continue };
            let times = (mapping.time.instant_us(group.first), mapping.time.instant_us(group.last));
            of_device.add(edges.bucket(group.place), group.rows, Some(times));
        }
        if let Some(cap) = cap.filter(|_| self.shared.readings.caps_counts()) {
            for of_device in &mut counts {
                of_device.is_capped = of_device.rows >= u64::from(cap);
            }
        }
        Ok(Some(counts))
    }

    /// Counts at most `rows` rows of each bucket of a device, and estimates the others from them.
    /// `None` as for [`bucket_counts`](Self::bucket_counts).
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn estimate_buckets(
        &self,
        device: Uuid,
        buckets: &Buckets,
        rows: u32,
        limit: Duration,
    ) -> Result<Option<DeviceCounts>, SourceError> {
        with_mapping!(self, limit, mapping => self.estimates(&mapping, device, buckets, rows, limit))
    }

    async fn estimates(
        &self,
        mapping: &Mapping,
        device: Uuid,
        buckets: &Buckets,
        limit_rows: u32,
        limit: Duration,
    ) -> Result<Option<DeviceCounts>, SourceError> {
        let ranges = buckets.edges(mapping.time).ranges();
        let (numbers, stored): (Vec<_>, Vec<_>) = ranges.into_iter().unzip();
        let Some(groups) = self.shared.readings.probe(mapping, device, &stored, limit_rows, limit).await? else {
            return Ok(None);
        };
        let mut counts = DeviceCounts::default();
        for (number, group) in groups {
            let (Some(bucket), Some(range)) = (numbers.get(number), stored.get(number)) else { continue };
            let (rows, is_estimate) = estimate(range, &group, limit_rows);
            if rows == 0 {
                continue;
            }
            counts.is_estimate |= is_estimate;
            let times = group.first.zip(group.last);
            counts.add(*bucket, rows, times.map(|(first, last)| (mapping.time.instant_us(first), mapping.time.instant_us(last))));
        }
        Ok(Some(counts))
    }

    /// Reads the first `rows` documents of each of some parts of a range, and passes each to
    /// `on_row` with the number of its part. `false`: not all were read in time.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn sample(
        &self,
        parts: &[(Uuid, DateTime<Utc>, DateTime<Utc>)],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        let _permit = self.browsing_permit().await;
        let mapping = self.mapping().await?;
        let point = |(device, from, to): &(Uuid, DateTime<Utc>, DateTime<Utc>)| {
            let StoredRange { from, to, .. } = mapping.time.range(*from, *to);
            SamplePoint { device: *device, from_us: from.unwrap_or_default(), to_us: to }
        };
        let points: Vec<_> = parts.iter().map(point).collect();
        let sampled = self.shared.readings.sample(&mapping, &points, rows, limit, on_row);
        self.with_timeout("a sample of a preview", (limit + GRACE).as_secs(), sampled).await
    }
}
