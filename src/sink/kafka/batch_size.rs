//! How large a batch may be in each topic: what its `max.message.bytes` says, or what refusals have taught.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// What Kafka's brokers take in one batch unless they are told otherwise is a little above it.
const LARGEST: usize = 1_000_000;

/// Below this, batches are not worth it: each row goes alone.
const SMALLEST: usize = 16 * 1_024;

/// What may go out together with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The largest batch of several rows.
    pub batch_bytes: usize,
    /// The largest row that may be sent in bulk; a larger one goes alone.
    pub row_bytes: usize,
}

/// What is known of each topic, for the life of the process.
#[derive(Debug, Default)]
pub(super) struct BatchSizes {
    learnt: Mutex<HashMap<String, Learned>>,
}

/// A batch was refused that should have fitted.
#[derive(Debug, Clone, Copy)]
struct Learned {
    bytes: usize,
    /// What the topic said of its limit then. When it says something else, that counts.
    told: Option<usize>,
}

impl BatchSizes {
    /// What a topic takes that tells this limit, or none.
    pub fn of(&self, topic: &str, told: Option<usize>) -> Sizes {
        let usual = told.map_or(LARGEST, |told| told.min(LARGEST));
        match self.learnt().get(topic).filter(|learnt| learnt.told == told) {
            Some(Learned { bytes, .. }) => Sizes { batch_bytes: usual.min(*bytes), row_bytes: usual.min(*bytes) },
            None => Sizes { batch_bytes: usual, row_bytes: told.unwrap_or(LARGEST) },
        }
    }

    /// A batch of at most `bytes` was refused for its size by a topic that tells this limit. Many jobs say so of the same
    /// batch: it counts once.
    pub fn refused(&self, topic: &str, bytes: usize, told: Option<usize>) {
        if self.of(topic, told).batch_bytes < bytes {
            return;
        }
        let half = if bytes / 2 < SMALLEST { 0 } else { bytes / 2 };
        self.learnt().insert(topic.to_owned(), Learned { bytes: half, told });
        tracing::info!(
            topic,
            refused_bytes = bytes,
            now_bytes = half,
            "a batch was too large for the topic; batches are smaller from now on"
        );
    }

    fn learnt(&self) -> std::sync::MutexGuard<'_, HashMap<String, Learned>> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_told_counts() {
        let sizes = BatchSizes::default();
        assert_eq!(sizes.of("t", Some(20_000)), Sizes { batch_bytes: 20_000, row_bytes: 20_000 });
        assert_eq!(sizes.of("t", Some(5_000_000)), Sizes { batch_bytes: LARGEST, row_bytes: 5_000_000 });
        // Refused by the limit before; what is told now is smaller.
        sizes.refused("t", LARGEST, Some(400_000));
        assert_eq!(sizes.of("t", Some(400_000)).batch_bytes, 400_000);
    }

    #[test]
    fn a_limit_that_is_not_told_is_approached_by_halves_once_a_refusal() {
        let sizes = BatchSizes::default();
        for _ in 0..3 {
            sizes.refused("t", LARGEST, None);
        }
        assert_eq!(sizes.of("t", None), Sizes { batch_bytes: 500_000, row_bytes: 500_000 });
        assert_eq!(sizes.of("other", None).batch_bytes, LARGEST);
        for _ in 0..10 {
            sizes.refused("t", sizes.of("t", None).batch_bytes, None);
        }
        assert_eq!(sizes.of("t", None), Sizes { batch_bytes: 0, row_bytes: 0 }, "each row alone");
    }

    #[test]
    fn a_told_limit_that_is_not_true_yet_is_approached_too_until_another_is_told() {
        let sizes = BatchSizes::default();
        sizes.refused("t", 800_000, Some(800_000));
        assert_eq!(sizes.of("t", Some(800_000)).batch_bytes, 400_000);
        assert_eq!(sizes.of("t", Some(700_000)).batch_bytes, 700_000);
    }
}
