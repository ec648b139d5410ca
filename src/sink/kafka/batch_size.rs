//! The maximum batch size of each topic: by its `max.message.bytes`, or learned from rejected
//! batches.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// A little below the default limit of Kafka's brokers.
const DEFAULT_MAX_BYTES: usize = 1_000_000;

/// Below this size batching has no benefit: each row is sent alone.
const MIN_BATCH_BYTES: usize = 16 * 1_024;

/// The size limits of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Maximum size of a batch of several rows.
    pub batch_bytes: usize,
    /// Maximum size of a row that is sent in batches; a larger row is sent alone.
    pub row_bytes: usize,
}

/// The limits learned for each topic, for the life of the process.
#[derive(Debug, Default)]
pub(super) struct BatchSizes {
    learned: Mutex<HashMap<String, LearnedSize>>,
}

/// A limit learned from a batch that was rejected although it should have fitted.
#[derive(Debug, Clone, Copy)]
struct LearnedSize {
    bytes: usize,
    /// The topic's configured limit at that time; if it has changed, the learned size is void.
    limit: Option<usize>,
}

impl BatchSizes {
    /// The size limits of a topic with this configured limit, if it is known.
    pub fn of(&self, topic: &str, limit: Option<usize>) -> Sizes {
        let default = limit.map_or(DEFAULT_MAX_BYTES, |limit| limit.min(DEFAULT_MAX_BYTES));
        match self.learned().get(topic).filter(|learned| learned.limit == limit) {
            Some(learned) => Sizes { batch_bytes: default.min(learned.bytes), row_bytes: default.min(learned.bytes) },
            None => Sizes { batch_bytes: default, row_bytes: limit.unwrap_or(DEFAULT_MAX_BYTES) },
        }
    }

    /// Records that a batch of at most `bytes` was rejected for its size. Many jobs report the same
    /// batch: it counts once.
    pub fn record_rejection(&self, topic: &str, bytes: usize, limit: Option<usize>) {
        if self.of(topic, limit).batch_bytes < bytes {
            return;
        }
        let half = if bytes / 2 < MIN_BATCH_BYTES { 0 } else { bytes / 2 };
        self.learned().insert(topic.to_owned(), LearnedSize { bytes: half, limit });
        tracing::info!(
            topic,
            rejected_bytes = bytes,
            now_bytes = half,
            "a batch was too large for the topic; batches are smaller from now on"
        );
    }

    fn learned(&self) -> std::sync::MutexGuard<'_, HashMap<String, LearnedSize>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_limit_applies() {
        let sizes = BatchSizes::default();
        assert_eq!(sizes.of("t", Some(20_000)), Sizes { batch_bytes: 20_000, row_bytes: 20_000 });
        assert_eq!(sizes.of("t", Some(5_000_000)), Sizes { batch_bytes: DEFAULT_MAX_BYTES, row_bytes: 5_000_000 });
        // Rejected under the previous limit; the current one is smaller.
        sizes.record_rejection("t", DEFAULT_MAX_BYTES, Some(400_000));
        assert_eq!(sizes.of("t", Some(400_000)).batch_bytes, 400_000);
    }

    #[test]
    fn an_unknown_limit_is_halved_once_per_rejected_batch() {
        let sizes = BatchSizes::default();
        for _ in 0..3 {
            sizes.record_rejection("t", DEFAULT_MAX_BYTES, None);
        }
        assert_eq!(sizes.of("t", None), Sizes { batch_bytes: 500_000, row_bytes: 500_000 });
        assert_eq!(sizes.of("other", None).batch_bytes, DEFAULT_MAX_BYTES);
        for _ in 0..10 {
            sizes.record_rejection("t", sizes.of("t", None).batch_bytes, None);
        }
        assert_eq!(sizes.of("t", None), Sizes { batch_bytes: 0, row_bytes: 0 }, "each row alone");
    }

    #[test]
    fn a_wrong_configured_limit_is_halved_until_the_configuration_changes() {
        let sizes = BatchSizes::default();
        sizes.record_rejection("t", 800_000, Some(800_000));
        assert_eq!(sizes.of("t", Some(800_000)).batch_bytes, 400_000);
        assert_eq!(sizes.of("t", Some(700_000)).batch_bytes, 700_000);
    }
}
