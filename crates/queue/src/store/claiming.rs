//! What a claim asks for, and what it gets.

use std::{sync::Arc, time::Duration};

use crate::{
    Job,
    policy::claim::{History, Start},
};

/// The parameters of a claim.
#[derive(Debug, Clone)]
pub(crate) struct ClaimRequest {
    pub owner: Arc<str>,
    /// Since when each lease is valid, and for how long.
    pub requested_at: std::time::Instant,
    pub lease: Duration,
    /// A job with so many crashes is failed.
    pub max_crashes: u32,
}

/// What was claimed.
#[derive(Debug, Default)]
pub(crate) struct ClaimedJobs {
    /// The leased jobs: of each turn in the order of their request.
    pub leased: Vec<Job>,
    /// Jobs that were failed instead, because they crashed their worker repeatedly.
    pub failed_crash_looping: usize,
}

/// Tells the operators what becomes of a job that was just leased, if its worker was lost.
pub(crate) fn report_start(job: &Job, start: &Start, history: History, suspected: u32) {
    let (task, device, published, crashes) = (&job.task.id, &job.device, job.progress.published, history.crashes);
    match start {
        Start::Resume(_) => tracing::warn!(
            %task, %device, published, crashes, suspected,
            "a job resumes from its checkpoint: its previous worker was lost"
        ),
        Start::CrashLoop(_) => {
            tracing::error!(%task, %device, crashes, "the job is failed: its worker died repeatedly");
        }
        Start::Run | Start::Cancelled(_) => {}
    }
}
