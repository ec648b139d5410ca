//! Which job is to blame when an instance dies. Pure.
//!
//! A crash counts against a job only where this job is likely its cause: it was alone in progress, or it is the one job that
//! was there each time. Of jobs that were in progress together nobody knows which it was: they become suspects, and suspects
//! run one at a time until they make progress, so that the guilty one is told from the others.
//!
//! A job that stood still at that moment, waiting for the store or Kafka, is never blamed: it did nothing, and during an outage the
//! job that waits alone is "the one that was there each time" too, however often somebody restarts the service. That it stood
//! still is true to the moment of the crash, since a job says that it goes on before it does (`worker/stillness.rs`). One that has
//! waited long for its rows and then kills its process is blamed like any other.

/// From so many crashes in company on, a job runs with no other suspect beside it. `migrations/` and the statements have the
/// same number.
pub const ISOLATE_AFTER: u32 = 2;

/// A job that was in progress on an instance that died, or whose lease expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InProgress {
    pub id: i64,
    /// Crashes, in a row and with no progress in between, for which this job is likely the cause.
    pub crashes: u32,
    /// Crashes in a row at which it was in progress together with others.
    pub suspected: u32,
    /// It stood still, waiting for the store or Kafka.
    pub waiting: bool,
}

/// Counts one crash.
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
    fn a_job_alone_is_to_blame() {
        let mut jobs = [job(1)];
        for crashes in 1..=5 {
            blame(&mut jobs);
            assert_eq!(jobs[0].crashes, crashes);
        }
    }

    #[test]
    fn no_job_of_many_is_blamed_however_often_all_were_there() {
        let mut jobs = [job(1), job(2), job(3)];
        for _ in 0..20 {
            blame(&mut jobs);
        }
        assert!(jobs.iter().all(|job| job.crashes == 0), "{jobs:?}");
    }

    #[test]
    fn the_job_that_is_there_each_time_is_found_once_suspects_run_one_at_a_time() {
        let mut guilty = job(1);
        for crash in 0..7 {
            let mut jobs = [guilty, job(100 + crash), job(200 + crash)];
            blame(&mut jobs);
            guilty = jobs[0];
            assert_eq!((jobs[1].crashes, jobs[2].crashes), (0, 0));
        }
        assert_eq!((guilty.suspected, guilty.crashes), (2, 5));
    }

    #[test]
    fn a_job_that_stands_still_is_not_to_blame() {
        let mut jobs = [InProgress { waiting: true, ..job(1) }];
        for _ in 0..20 {
            blame(&mut jobs);
        }
        assert_eq!(jobs, [InProgress { waiting: true, ..job(1) }]);
    }
}
