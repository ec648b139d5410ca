//! The model: the queue's rules once more, as plain as can be.

use data_patch_protocol::task::{JobCounts, TaskState};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

pub const LEASE_MS: i64 = 10_000;
pub const MAX_CRASHES: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, Clone)]
pub struct ModelJob {
    pub task: usize,
    pub state: State,
    pub attempt: i64,
    pub due_ms: i64,
    pub outages: u32,
    pub crashes: u32,
    pub suspected: u32,
    /// It stands still.
    pub waiting: bool,
    /// It was leased, and no crash was counted for that lease.
    pub has_owner: bool,
    pub total: Option<u64>,
    pub published: u64,
}

#[derive(Debug, Clone)]
pub struct ModelTask {
    pub request: Option<u8>,
    pub state: TaskState,
    pub turn: i64,
    pub lines: u64,
    pub is_cancelling: bool,
}

/// What a lease must say when it is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLease {
    pub job: usize,
    pub attempt: i64,
    pub outages: u32,
    pub total: Option<u64>,
    pub published: u64,
}

/// What the last step must have answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Nothing,
    Created,
    Existing(usize),
    /// The request id belongs to a task of other devices.
    Conflict(usize),
    /// The leases in their order, and how many jobs were given up.
    Leased(Vec<ModelLease>, usize),
    Written,
    Lost,
    Cancelled,
    AlreadyFinished,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub now_ms: i64,
    pub tasks: Vec<ModelTask>,
    /// In the order of their tasks and ordinals.
    pub jobs: Vec<ModelJob>,
    /// All that were ever handed out.
    pub leases: Vec<ModelLease>,
    pub answer: Answer,
}

#[derive(Debug, Clone)]
pub enum Step {
    Submit {
        devices: usize,
        request: Option<u8>,
    },
    /// By one of two services on the same queue.
    Claim {
        limit: usize,
        service: usize,
    },
    /// A write of any lease that was ever handed out, stale or not.
    Update {
        lease: prop::sample::Index,
        update: Update,
    },
    Cancel {
        task: prop::sample::Index,
    },
    Pass {
        ms: i64,
    },
}

#[derive(Debug, Clone)]
pub enum Update {
    Counted(u64),
    Progress(u64),
    /// It stands still, or does not any more.
    Waits(bool),
    Succeed,
    Fail,
    Retry(i64),
    Release,
    Cancel,
}

impl Model {
    fn due(&self, task: usize) -> Vec<usize> {
        let is_due = |job: &ModelJob| matches!(job.state, State::Queued | State::Running) && job.due_ms <= self.now_ms;
        let mut due: Vec<usize> =
            (0..self.jobs.len()).filter(|job| self.jobs[*job].task == task && is_due(&self.jobs[*job])).collect();
        due.sort_by_key(|job| self.jobs[*job].due_ms);
        due
    }

    fn is_suspect(&self, job: usize) -> bool {
        self.jobs[job].suspected >= 2
    }

    /// Up to `limit` jobs of a task that may run now; suspects only so many as are left.
    fn may_run(&self, task: usize, limit: usize, suspects_left: Option<usize>) -> Vec<usize> {
        let mut due = self.due(task);
        if let Some(left) = suspects_left {
            let (mut suspects, mut others): (Vec<_>, Vec<_>) = due.into_iter().partition(|job| self.is_suspect(*job));
            suspects.truncate(limit.min(left));
            others.truncate(limit - suspects.len());
            due = suspects;
            due.extend(others);
        }
        due.truncate(limit);
        due
    }

    fn any_suspect(&self) -> bool {
        let open = |job: &ModelJob| matches!(job.state, State::Queued | State::Running);
        (0..self.jobs.len()).any(|job| self.is_suspect(job) && open(&self.jobs[job]))
    }

    /// All leases of the one owner that have expired count as one crash.
    fn count_crash(&mut self) {
        let now_ms = self.now_ms;
        let lost = |job: &ModelJob| job.state == State::Running && job.has_owner && job.due_ms <= now_ms;
        let candidate = |job: &ModelJob| lost(job) && !job.waiting;
        let count = self.jobs.iter().filter(|job| candidate(job)).count();
        let suspects = self.jobs.iter().filter(|job| candidate(job) && job.suspected >= 2).count();
        for job in self.jobs.iter_mut().filter(|job| lost(job)) {
            if std::mem::take(&mut job.waiting) {
                // It is not to blame.
            } else if count == 1 || (suspects == 1 && job.suspected >= 2) {
                (job.crashes, job.suspected) = (job.crashes + 1, job.suspected.max(2));
            } else {
                job.suspected += 1;
            }
            (job.has_owner, job.due_ms) = (false, now_ms);
        }
    }

    fn claim(&mut self, limit: usize) {
        let mut tasks: Vec<usize> = (0..self.tasks.len()).filter(|task| !self.due(*task).is_empty()).collect();
        tasks.sort_by_key(|task| self.tasks[*task].turn);
        tasks.truncate(limit);
        let open = |task: &&ModelTask| !task.state.is_final();
        let turn = self.tasks.iter().filter(open).map(|task| task.turn).max().unwrap_or(0);
        for (task, turn) in tasks.iter().zip(turn + 1..) {
            (self.tasks[*task].turn, self.tasks[*task].state) = (turn, TaskState::Running);
        }
        let (mut leased, mut failed_crash_looping) = (Vec::new(), 0);
        let mut suspects_left = self.any_suspect().then_some(1_usize);
        while leased.len() < limit && !tasks.is_empty() {
            let (mut left, mut with_more) = (limit - leased.len(), Vec::new());
            for (index, task) in tasks.iter().enumerate() {
                let share = left.div_ceil(tasks.len() - index);
                left -= share;
                let mut jobs = self.may_run(*task, share, suspects_left);
                if jobs.iter().any(|job| self.jobs[*job].state == State::Running && self.jobs[*job].has_owner) {
                    self.count_crash();
                    suspects_left = suspects_left.or_else(|| self.any_suspect().then_some(1));
                    jobs = self.may_run(*task, share, suspects_left);
                }
                let suspects = jobs.iter().filter(|job| self.is_suspect(**job)).count();
                suspects_left = suspects_left.map(|left| left - suspects.min(left));
                jobs.sort_unstable();
                if share > 0 && jobs.len() == share {
                    with_more.push(*task);
                }
                for job in jobs {
                    match self.lease(job) {
                        Some(lease) => leased.push(lease),
                        None => failed_crash_looping += usize::from(self.jobs[job].state == State::Failed),
                    }
                }
            }
            tasks = with_more;
        }
        self.leases.extend(leased.iter().cloned());
        self.answer = Answer::Leased(leased, failed_crash_looping);
    }

    /// `None`: it ends instead.
    fn lease(&mut self, index: usize) -> Option<ModelLease> {
        let job = &mut self.jobs[index];
        let is_lost = job.state == State::Running;
        (job.state, job.attempt, job.due_ms) = (State::Running, job.attempt + 1, self.now_ms + LEASE_MS);
        job.has_owner = true;
        let (task, crashes) = (job.task, job.crashes);
        let ends = if self.tasks[task].is_cancelling {
            Some(State::Cancelled)
        } else {
            (crashes >= MAX_CRASHES).then_some(State::Failed)
        };
        // It says that it goes on, or why it ends.
        self.tasks[task].lines += u64::from(is_lost || ends.is_some());
        if let Some(state) = ends {
            self.end(index, state);
            return None;
        }
        let ModelJob { attempt, outages, total, published, .. } = self.jobs[index];
        Some(ModelLease { job: index, attempt, outages, total, published })
    }

    fn end(&mut self, job: usize, state: State) {
        self.jobs[job].state = state;
        self.finish_task_if_done(self.jobs[job].task);
    }

    fn finish_task_if_done(&mut self, task: usize) {
        let mut counts = JobCounts::default();
        for job in self.jobs.iter().filter(|job| job.task == task) {
            match job.state {
                State::Queued | State::Running => return,
                State::Succeeded => counts.succeeded += 1,
                State::Failed => counts.failed += 1,
                State::Cancelled => counts.cancelled += 1,
            }
        }
        self.tasks[task].state = TaskState::of(counts);
        self.tasks[task].lines += 1;
    }

    fn update(&mut self, lease: usize, update: &Update) {
        let lease = self.leases[lease].clone();
        let job = &mut self.jobs[lease.job];
        if job.state != State::Running || job.attempt != lease.attempt {
            self.answer = Answer::Lost;
            return;
        }
        self.answer = Answer::Written;
        if self.tasks[job.task].is_cancelling && matches!(update, Update::Retry(_) | Update::Release) {
            job.published = lease.published;
            self.end(lease.job, State::Cancelled);
            return;
        }
        if !matches!(update, Update::Counted(_) | Update::Progress(_) | Update::Waits(_)) {
            job.waiting = false;
        }
        // A lease that was ended for a crash that was none belongs to its holder again.
        job.has_owner |= matches!(update, Update::Counted(_) | Update::Progress(_) | Update::Waits(_));
        let grown = matches!(update, Update::Progress(rows) if *rows > 0);
        match update {
            Update::Counted(total) => {
                (job.total, job.published, job.due_ms) = (Some(*total), lease.published, self.now_ms + LEASE_MS);
                self.tasks[job.task].lines += 1;
            }
            Update::Progress(rows) => {
                (job.published, job.due_ms) = (lease.published + rows, self.now_ms + LEASE_MS);
                if grown {
                    (job.outages, job.crashes, job.suspected) = (0, 0, 0);
                }
            }
            Update::Waits(waiting) => {
                (job.waiting, job.published, job.due_ms) = (*waiting, lease.published, self.now_ms + LEASE_MS);
            }
            Update::Retry(wait_ms) => {
                (job.state, job.due_ms, job.published) = (State::Queued, self.now_ms + wait_ms, lease.published);
                (job.outages, job.crashes, job.suspected) = (lease.outages + 1, 0, 0);
            }
            Update::Release => {
                (job.state, job.due_ms, job.published) = (State::Queued, self.now_ms, lease.published);
                (job.outages, job.crashes, job.suspected) = (0, 0, 0);
            }
            Update::Succeed => self.end(lease.job, State::Succeeded),
            Update::Fail => self.end(lease.job, State::Failed),
            Update::Cancel => self.end(lease.job, State::Cancelled),
        }
    }

    fn cancel(&mut self, task: usize) {
        if self.tasks[task].state.is_final() {
            self.answer = Answer::AlreadyFinished;
            return;
        }
        for job in self.jobs.iter_mut().filter(|job| job.task == task) {
            if job.state == State::Queued {
                job.state = State::Cancelled;
            }
        }
        self.tasks[task].is_cancelling = true;
        self.finish_task_if_done(task);
        self.answer = Answer::Cancelled;
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self { now_ms: 1_000_000, tasks: Vec::new(), jobs: Vec::new(), leases: Vec::new(), answer: Answer::Nothing }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let update = prop_oneof![
            2 => (0_u64..9).prop_map(Update::Counted),
            4 => (0_u64..5).prop_map(Update::Progress),
            2 => any::<bool>().prop_map(Update::Waits),
            3 => Just(Update::Succeed),
            1 => Just(Update::Fail),
            2 => (0_i64..2 * LEASE_MS).prop_map(Update::Retry),
            1 => Just(Update::Release),
            1 => Just(Update::Cancel),
        ];
        prop_oneof![
            3 => (1_usize..5, prop::option::of(0_u8..3)).prop_map(|(devices, request)| Step::Submit { devices, request }),
            5 => (1_usize..6, 0_usize..2).prop_map(|(limit, service)| Step::Claim { limit, service }),
            10 => (any::<prop::sample::Index>(), update).prop_map(|(lease, update)| Step::Update { lease, update }),
            1 => any::<prop::sample::Index>().prop_map(|task| Step::Cancel { task }),
            4 => prop_oneof![Just(LEASE_MS - 1), Just(LEASE_MS), 0..LEASE_MS].prop_map(|ms| Step::Pass { ms }),
        ]
        .boxed()
    }

    fn apply(mut model: Self, step: &Step) -> Self {
        model.answer = Answer::Nothing;
        match step {
            Step::Submit { devices, request } => {
                let existing = request.and_then(|request| model.tasks.iter().position(|task| task.request == Some(request)));
                if let Some(task) = existing {
                    let same = model.jobs.iter().filter(|job| job.task == task).count() == *devices;
                    model.answer = if same { Answer::Existing(task) } else { Answer::Conflict(task) };
                    return model;
                }
                let (task, due_ms) = (model.tasks.len(), model.now_ms);
                model.tasks.push(ModelTask {
                    request: *request,
                    state: TaskState::Queued,
                    turn: 0,
                    lines: 0,
                    is_cancelling: false,
                });
                model.jobs.extend((0..*devices).map(|_| ModelJob {
                    task,
                    state: State::Queued,
                    attempt: 0,
                    due_ms,
                    outages: 0,
                    crashes: 0,
                    suspected: 0,
                    waiting: false,
                    has_owner: false,
                    total: None,
                    published: 0,
                }));
                model.answer = Answer::Created;
            }
            Step::Claim { limit, .. } => model.claim(*limit),
            Step::Update { lease, update } if !model.leases.is_empty() => model.update(lease.index(model.leases.len()), update),
            Step::Cancel { task } if !model.tasks.is_empty() => model.cancel(task.index(model.tasks.len())),
            Step::Pass { ms } => model.now_ms += ms,
            Step::Update { .. } | Step::Cancel { .. } => {}
        }
        model
    }
}
