//! Which job is to blame when an instance crashes. Pure.
//!
//! A crash counts against a job only if the job is its likely cause: it was the only job in
//! progress, or the only one that was in progress at every crash. Of several jobs that were in
//! progress together, the cause is unknown: they become suspects. Suspects run one at a time until
//! they make progress, which isolates the cause.
//!
//! A job that was waiting for the source or Kafka is never blamed. It did nothing, and during an
//! outage it would otherwise collect blame each time the service is restarted. A job reports that
//! it resumes before it touches the rows that it waited for, so `waiting` is accurate at the moment
//! of the crash. A job that waits for a long time and then crashes its process is therefore blamed
//! like any other.

/// A job with this many shared crashes is a suspect. `migrations/` and `sql/job.rs` contain the
/// same number.
pub const ISOLATE_AFTER: u32 = 2;

/// A job that was in progress on an instance that crashed or whose lease expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InProgress {
    pub id: i64,
    /// Consecutive crashes without progress of which this job is the likely cause.
    pub crashes: u32,
    /// Consecutive crashes at which it was in progress together with others.
    pub suspected: u32,
    /// It was waiting for the source or Kafka.
    pub waiting: bool,
}

/// Counts one crash of the instance that had these jobs in progress.
pub fn blame(jobs: &mut [InProgress]) {
    let candidates = jobs.iter().filter(|job| !job.waiting).count();
    let suspects = jobs.iter().filter(|job| !job.waiting && job.suspected >= ISOLATE_AFTER).count();
    for job in jobs.iter_mut().filter(|job| !job.waiting) {
        if candidates == 1 || (suspects == 1 && job.suspected >= ISOLATE_AFTER) {
            job.crashes += 1;
            job.suspected = job.suspected.max(ISOLATE_AFTER);
        } else {
            job.suspected += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i64) -> InProgress {
        InProgress { id, crashes: 0, suspected: 0, waiting: false }
    }

    #[test]
    fn a_job_that_ran_alone_is_blamed() {
        let mut jobs = [job(1)];
        for crashes in 1..=5 {
            blame(&mut jobs);
            assert_eq!(jobs[0].crashes, crashes);
        }
    }

    #[test]
    fn no_job_of_many_is_blamed_if_all_were_in_progress_each_time() {
        let mut jobs = [job(1), job(2), job(3)];
        for _ in 0..20 {
            blame(&mut jobs);
        }
        assert!(jobs.iter().all(|job| job.crashes == 0), "{jobs:?}");
    }

    #[test]
    fn the_cause_is_found_once_suspects_run_one_at_a_time() {
        let mut culprit = job(1);
        for crash in 0..7 {
            let mut jobs = [culprit, job(100 + crash), job(200 + crash)];
            blame(&mut jobs);
            culprit = jobs[0];
            assert_eq!((jobs[1].crashes, jobs[2].crashes), (0, 0));
        }
        assert_eq!((culprit.suspected, culprit.crashes), (2, 5));
    }

    #[test]
    fn a_waiting_job_is_not_blamed() {
        let mut jobs = [InProgress { waiting: true, ..job(1) }];
        for _ in 0..20 {
            blame(&mut jobs);
        }
        assert_eq!(jobs, [InProgress { waiting: true, ..job(1) }]);
    }
}
