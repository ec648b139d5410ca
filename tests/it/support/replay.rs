//! Runs one job without a queue.

use std::sync::Arc;

use data_patch::{
    config::Config,
    replay::{Replay, ReplayRunner},
    sink::kafka::{AckTracker, Kafka},
    source::Source,
    task::{Progress, TaskId},
};
use uuid::Uuid;

use super::TestTopic;

pub fn replay_runner(config: &Config, kafka: Kafka) -> ReplayRunner {
    ReplayRunner { source: Source::new(&config.iota).unwrap(), kafka, validation: config.validation }
}

/// A job with all rows of a device, not counted yet.
pub fn all_rows(thing: Uuid, device: Uuid, topic: &TestTopic) -> Replay {
    let (from, to) = ("2019-01-01T00:00:00Z".parse().unwrap(), "2020-01-01T00:00:00Z".parse().unwrap());
    Replay { task: TaskId::new(), thing, device, topic: topic.name.clone(), from, to, total: None, layout: None }
}

/// The tracker of a new job.
pub fn new_ack_tracker() -> Arc<AckTracker> {
    Arc::new(AckTracker::new(Progress::default()))
}
