//! The state machines of jobs and tasks. `docs/architecture.md` has the diagram.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownState, parse_err_fn = UnknownState::new)]
pub enum JobState {
    /// May be claimed, at once or after its backoff.
    Queued,
    /// Leased to a worker.
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// A transition of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobChange {
    /// A worker leases the job, which may be running under an expired lease.
    Claim,
    /// An outage: the job returns to the queue with a backoff.
    Retry,
    /// The job returns to the queue at shutdown, or because it is preempted.
    Release,
    Succeed,
    Fail,
    Cancel,
}

/// A transition that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {from} job does not allow {change:?}")]
pub struct IllegalChange {
    pub from: JobState,
    pub change: JobChange,
}

impl JobState {
    /// The state after `change`.
    ///
    /// # Errors
    /// The state does not allow `change`.
    pub fn after(self, change: JobChange) -> Result<Self, IllegalChange> {
        use JobChange as C;
        match (self, change) {
            (Self::Queued | Self::Running, C::Claim) => Ok(Self::Running),
            (Self::Running, C::Retry | C::Release) => Ok(Self::Queued),
            (Self::Running, C::Succeed) => Ok(Self::Succeeded),
            (Self::Queued | Self::Running, C::Fail) => Ok(Self::Failed),
            (Self::Queued | Self::Running, C::Cancel) => Ok(Self::Cancelled),
            (from, change) => Err(IllegalChange { from, change }),
        }
    }

    /// Whether the state is final.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The stored form.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A string that is not a state; another version wrote the queue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of a task or job")]
pub struct UnknownState(String);

impl UnknownState {
    fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The state of a task. It is derived from the states of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownState, parse_err_fn = UnknownState::new)]
pub enum TaskState {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// The number of a task's jobs in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JobCounts {
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl TaskState {
    /// Derives the state of a task from its jobs: queued until the first claim, running until the
    /// last job has ended, then failed if any job failed, cancelled if any job was cancelled,
    /// succeeded otherwise.
    ///
    /// ```
    /// use data_patch_protocol::task::{JobCounts, TaskState};
    ///
    /// let jobs = JobCounts { succeeded: 2, failed: 1, ..JobCounts::default() };
    /// assert_eq!(TaskState::of(jobs), TaskState::Failed);
    /// ```
    pub fn of(jobs: JobCounts) -> Self {
        let JobCounts { queued, running, succeeded, failed, cancelled } = jobs;
        match (queued + running, succeeded + failed + cancelled) {
            (0, _) if failed > 0 => Self::Failed,
            (0, _) if cancelled > 0 => Self::Cancelled,
            (0, _) => Self::Succeeded,
            (_, 0) if running == 0 => Self::Queued,
            _ => Self::Running,
        }
    }

    /// Whether the state is final.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The form in the queue file and in messages.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_table() {
        use JobChange as C;
        use JobState as S;
        let changes = [C::Claim, C::Retry, C::Release, C::Succeed, C::Fail, C::Cancel];
        let table = [
            (S::Queued, [Some(S::Running), None, None, None, Some(S::Failed), Some(S::Cancelled)]),
            (
                S::Running,
                [Some(S::Running), Some(S::Queued), Some(S::Queued), Some(S::Succeeded), Some(S::Failed), Some(S::Cancelled)],
            ),
            (S::Succeeded, [None; 6]),
            (S::Failed, [None; 6]),
            (S::Cancelled, [None; 6]),
        ];
        for (from, row) in table {
            for (change, expected) in changes.into_iter().zip(row) {
                assert_eq!(from.after(change).ok(), expected, "{from} {change:?}");
            }
            assert_eq!(from.is_final(), row.iter().all(Option::is_none));
        }
    }

    #[test]
    fn the_stored_form_is_the_name_in_lower_case() {
        assert_eq!((JobState::Cancelled.as_str(), TaskState::Cancelled.as_str()), ("cancelled", "cancelled"));
        assert_eq!(("running".parse(), "running".parse()), (Ok(JobState::Running), Ok(TaskState::Running)));
        let error = "Running".parse::<JobState>().unwrap_err();
        assert_eq!(error.to_string(), "\"Running\" is not a state of a task or job");
        assert_eq!(serde_json::to_value(TaskState::Queued).unwrap(), TaskState::Queued.as_str());
    }

    #[test]
    fn a_tasks_state_is_derived_from_its_jobs() {
        let of = |queued, running, succeeded, failed, cancelled| {
            TaskState::of(JobCounts { queued, running, succeeded, failed, cancelled })
        };
        assert_eq!(of(3, 0, 0, 0, 0), TaskState::Queued);
        assert_eq!(of(2, 1, 0, 0, 0), TaskState::Running);
        assert_eq!(of(2, 0, 1, 0, 0), TaskState::Running, "started, and waiting");
        assert_eq!(of(0, 0, 3, 0, 0), TaskState::Succeeded);
        assert_eq!(of(0, 0, 2, 1, 0), TaskState::Failed);
        assert_eq!(of(0, 0, 2, 0, 1), TaskState::Cancelled);
        assert_eq!(of(0, 0, 0, 1, 1), TaskState::Failed);
    }
}
