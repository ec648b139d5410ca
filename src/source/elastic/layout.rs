//! What a cluster is, and how its indices store readings.

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime, TimeDelta, Utc};

/// The store's kind and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub distribution: Distribution,
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Elasticsearch,
    OpenSearch,
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elasticsearch => "Elasticsearch",
            Self::OpenSearch => "OpenSearch",
        })
    }
}

impl Version {
    /// Whether it has what Elasticsearch has had since this version. `OpenSearch` began as
    /// Elasticsearch 7.10.
    pub fn is_from(self, major: u32, minor: u32) -> bool {
        let (own_major, own_minor) = match self.distribution {
            Distribution::Elasticsearch => (self.major, self.minor),
            Distribution::OpenSearch => (7, 10),
        };
        (own_major, own_minor) >= (major, minor)
    }
}

/// The type of the time field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeField {
    /// Milliseconds.
    Date,
    /// Nanoseconds, in some indices at least.
    DateNanos,
    /// A number: milliseconds since 1970.
    Number,
}

/// How the indices store readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexLayout {
    pub version: Version,
    /// Index, alias, data stream or pattern, as configured.
    pub index: String,
    /// The fields that hold a device's id as one term; indices can differ.
    pub device_fields: Vec<String>,
    /// The field of the device's id in documents.
    pub device: String,
    pub time: String,
    pub time_field: TimeField,
    /// Names of the indices, now.
    pub indices: BTreeSet<String>,
    /// Shards of these indices.
    pub shards: u32,
    /// The largest page that all of them allow.
    pub max_page_rows: u32,
    /// `iota.readings.settle_seconds`.
    pub settle_seconds: u32,
}

impl IndexLayout {
    /// A remark on a range that ends where documents may not be found yet.
    pub fn settle_note(&self, to: DateTime<Utc>, now: DateTime<Utc>) -> Option<String> {
        let settle = TimeDelta::seconds(i64::from(self.settle_seconds));
        (to + settle > now).then(|| {
            format!(
                "the range ends {} now: documents are found some time after they were indexed, so its end is read {} s later (iota.readings.settle_seconds)",
                if to > now { "after" } else { "shortly before" },
                self.settle_seconds
            )
        })
    }

    /// Whether rows read by both layouts are equal and in the same order.
    pub fn reads_like(&self, other: &Self) -> bool {
        (&self.index, &self.device, &self.time, self.time_field) == (&other.index, &other.device, &other.time, other.time_field)
    }
}

/// For `data-patch check`.
impl fmt::Display for IndexLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, index, device_fields, time, time_field, indices, shards, .. } = self;
        write!(
            f,
            "{index:?} of {} {}.{}, {} indices with {shards} shards: key \"_id\", device {:?}, time {time:?} ({time_field:?}), document \"_source\"",
            version.distribution,
            version.major,
            version.minor,
            indices.len(),
            device_fields.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opensearch_is_as_elasticsearch_7_10() {
        let version = |distribution, major, minor| Version { distribution, major, minor };
        assert!(version(Distribution::OpenSearch, 1, 3).is_from(7, 10));
        assert!(!version(Distribution::OpenSearch, 3, 9).is_from(8, 0));
        assert!(version(Distribution::Elasticsearch, 6, 8).is_from(6, 3));
        assert!(!version(Distribution::Elasticsearch, 5, 6).is_from(6, 0));
    }
}
