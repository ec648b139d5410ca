//! What becomes of a job that was just leased. Pure.

use crate::{
    Job,
    lease::JobUpdate,
    task::{Event, JobChange},
};

/// What is known of a job's previous attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The job was leased before, and its worker was lost.
    pub lost: bool,
    /// Consecutive crashes without progress of which the job is the likely cause.
    pub crashes: u32,
}

/// What becomes of a job that was just leased.
#[derive(Debug)]
pub enum Start {
    /// A worker starts it.
    Run,
    /// Another worker starts it from its checkpoint, which is logged.
    Resume(Event),
    /// It ends, because it crashed its worker too often.
    CrashLoop(JobUpdate),
    /// It ends, because its task was cancelled and its worker was lost before it could stop.
    Cancelled(JobUpdate),
}

/// Decides what becomes of a job that was just leased.
pub fn start(job: &Job, history: History, max_crashes: u32) -> Start {
    let History { lost, crashes } = history;
    let (device, published) = (job.device, job.progress.published);
    if job.task.cancel_requested {
        let event = Event::Cancelled { device, published, unanswered: 0, worker_died: true };
        let change = Some((JobChange::Cancel, None));
        return Start::Cancelled(JobUpdate { change, events: vec![event], ..JobUpdate::default() });
    }
    if crashes >= max_crashes {
        let reason = format!(
            "its worker died {crashes} times in a row with no row published in between, and no other job is as likely the cause; \
             see the service's log of those moments, then submit it again"
        );
        return Start::CrashLoop(JobUpdate {
            change: Some((JobChange::Fail, None)),
            events: vec![Event::Failed { device: Some(device), name: job.name.clone(), reason: reason.clone() }],
            reason: Some(reason),
            ..JobUpdate::default()
        });
    }
    if lost { Start::Resume(Event::TakenOver { device, published }) } else { Start::Run }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixture::{job, task};

    const MAX_CRASHES: u32 = 2;

    #[test]
    fn a_job_that_crashed_too_often_ends_and_one_that_did_not_resumes() {
        let crashed = |crashes| start(&job(task()), History { lost: true, crashes }, MAX_CRASHES);
        assert!(matches!(crashed(1), Start::Resume(Event::TakenOver { published: 4, .. })));
        let Start::CrashLoop(update) = crashed(2) else { panic!("it resumes") };
        assert!(matches!(update.change, Some((JobChange::Fail, None))));
        assert!(update.reason.unwrap().starts_with("its worker died 2 times in a row"));
    }

    #[test]
    fn a_job_of_a_cancelled_task_ends_as_cancelled_whatever_it_did() {
        let mut task = task();
        task.cancel_requested = true;
        let Start::Cancelled(update) = start(&job(task), History { lost: true, crashes: 9 }, MAX_CRASHES) else {
            panic!("it is not cancelled")
        };
        assert!(matches!(update.change, Some((JobChange::Cancel, None))));
        assert!(matches!(update.events[..], [Event::Cancelled { published: 4, worker_died: true, .. }]));
    }

    #[test]
    fn a_fresh_job_starts_and_nothing_is_logged() {
        assert!(matches!(start(&job(task()), History { lost: false, crashes: 0 }, MAX_CRASHES), Start::Run));
    }
}
