//! The queue against a plain model of itself: whatever is asked in whatever order, both must say the same.
//!
//! Only the queue's interface is used, so it runs on every store.

mod reference;

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::TimeZone;
use data_patch_protocol::task::{NewTask, Position, Progress, TaskId};
use data_patch_queue::{Checkpoint, Clock, DeviceCount, Lease, LeaseError, Queue, Submitted};
use proptest::{prelude::*, test_runner::TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::support::{TestStore, on_every_store};
use reference::{Answer, LEASE_MS, MAX_CRASHES, Model, ModelJob, ModelLease, State, Step, Update};

/// The queue, and what it handed out.
struct Real<S> {
    runtime: Runtime,
    now: Arc<AtomicI64>,
    /// Two instances on one store.
    queues: [Queue; 2],
    _store: S,
    tasks: Vec<TaskId>,
    /// The queue's ids of the model's jobs; known once they are leased.
    jobs: Vec<Option<i64>>,
    leases: Vec<Lease>,
}

impl<S> Real<S> {
    async fn submit(&mut self, devices: usize, request: Option<u8>) -> Answer {
        let time = chrono::Utc.with_ymd_and_hms(2019, 1, 11, 0, 0, 0).unwrap();
        let task = NewTask {
            // Requests of one id ask for the same, but for how many devices.
            thing: Uuid::nil(),
            devices: (0..devices as u128).map(Uuid::from_u128).collect(),
            topic: "t".to_owned(),
            from: time,
            to: time,
            request_id: request.map(|request| request.to_string()),
            reason: None,
            rate: None,
        };
        match self.queues[0].submit(task).await.unwrap() {
            Submitted::Created(id) => {
                self.tasks.push(id);
                self.jobs.extend((0..devices).map(|_| None));
                Answer::Created
            }
            Submitted::Existing(row) => Answer::Existing(self.tasks.iter().position(|task| *task == row.id).unwrap()),
            Submitted::Conflict { task, .. } => Answer::Conflict(self.tasks.iter().position(|id| *id == task).unwrap()),
        }
    }

    async fn claim(&mut self, limit: usize, service: usize, expected: &Answer) -> Answer {
        let lease = Duration::from_millis(LEASE_MS.unsigned_abs());
        let claimed = self.queues[service].claim(&"model".into(), move || limit, lease, MAX_CRASHES).await.unwrap();
        let Answer::Leased(wanted, _) = expected else { panic!("{expected:?}") };
        let mut leased = Vec::new();
        for (place, lease) in claimed.leases.into_iter().enumerate() {
            let job = &lease.job;
            // Which of the model's jobs it is, its first lease settles; from then on it must be that one.
            let index = self.jobs.iter().position(|id| *id == Some(job.id)).or_else(|| {
                let index = wanted.get(place)?.job;
                self.jobs[index].is_none().then_some(index)
            });
            let index = index.unwrap_or_else(|| panic!("{job:?} is leased, wanted are {wanted:?}"));
            self.jobs[index] = Some(job.id);
            leased.push(ModelLease {
                job: index,
                attempt: job.attempt,
                outages: job.outages,
                total: job.total,
                published: job.progress.published,
            });
            self.leases.push(lease);
        }
        Answer::Leased(leased, claimed.failed_crash_looping)
    }

    async fn update(&self, lease: usize, update: &Update) -> Answer {
        let lease = &self.leases[lease];
        let before = lease.job.progress.clone();
        let checkpoint = |rows: u64| {
            let published = before.published + rows;
            let position = Some(Position { time_us: published.cast_signed(), key: published.to_string().into() });
            Checkpoint {
                progress: Progress { position, published, quarantined: 0, ..Progress::default() },
                ..Checkpoint::default()
            }
        };
        let written = match update {
            Update::Counted(total) => {
                let counted = Some(DeviceCount { name: None, total: *total });
                lease.checkpoint(Checkpoint { counted, ..checkpoint(0) }).await
            }
            Update::Progress(rows) => lease.checkpoint(checkpoint(*rows)).await,
            Update::Waits(waiting) => lease.checkpoint(Checkpoint { waiting: Some(*waiting), ..checkpoint(0) }).await,
            Update::Succeed => lease.succeed(checkpoint(0)).await,
            Update::Fail => lease.fail(checkpoint(0), "because".to_owned()).await,
            Update::Retry(ms) => lease.retry(checkpoint(0), Duration::from_millis(ms.unsigned_abs())).await,
            Update::Release => lease.release(checkpoint(0)).await,
            Update::Cancel => lease.cancel(checkpoint(0), 0).await,
        };
        match written {
            Ok(()) => Answer::Written,
            Err(LeaseError::Lost) => Answer::Lost,
            Err(error) => panic!("{error}"),
        }
    }

    async fn step(&mut self, model: &Model, step: Step) -> Answer {
        match step {
            Step::Submit { devices, request } => self.submit(devices, request).await,
            Step::Claim { limit, service } => self.claim(limit, service, &model.answer).await,
            Step::Update { lease, update } if !self.leases.is_empty() => {
                self.update(lease.index(self.leases.len()), &update).await
            }
            Step::Cancel { task } if !self.tasks.is_empty() => {
                let task = self.tasks[task.index(self.tasks.len())];
                let cancelled = self.queues[1].cancel(task).await.unwrap().expect("no such task");
                if cancelled.already_finished { Answer::AlreadyFinished } else { Answer::Cancelled }
            }
            Step::Pass { .. } | Step::Update { .. } | Step::Cancel { .. } => Answer::Nothing,
        }
    }
}

/// The model as a machine that the queue is held against.
struct QueueTest<S>(PhantomData<S>);

impl<S: TestStore> StateMachineTest for QueueTest<S> {
    type SystemUnderTest = Real<S>;
    type Reference = Model;

    fn init_test(model: &Model) -> Real<S> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let now = Arc::new(AtomicI64::new(model.now_ms));
        let (store, queues) = runtime.block_on(async {
            let store = S::create().await;
            let open = async || store.open(Clock::Manual(Arc::clone(&now))).await;
            let queues = [open().await, open().await];
            (store, queues)
        });
        Real { runtime, now, queues, _store: store, tasks: Vec::new(), jobs: Vec::new(), leases: Vec::new() }
    }

    fn apply(mut real: Real<S>, model: &Model, step: Step) -> Real<S> {
        real.now.store(model.now_ms, Ordering::SeqCst);
        let handle = real.runtime.handle().clone();
        let answer = handle.block_on(real.step(model, step));
        assert_eq!(answer, model.answer);
        real
    }

    fn check_invariants(real: &Real<S>, model: &Model) {
        real.runtime.block_on(async {
            let queue = &real.queues[0];
            let is_open = |job: &&ModelJob| matches!(job.state, State::Queued | State::Running);
            assert_eq!(queue.backlog().await.unwrap().jobs, model.jobs.iter().filter(is_open).count() as u64);
            for (id, task) in real.tasks.iter().zip(&model.tasks) {
                let row = queue.task(*id).await.unwrap().unwrap();
                assert_eq!((row.state, row.last_seq), (task.state, task.lines));
                let log = queue.log_after(*id, 0, 1_000).await.unwrap();
                let seqs: Vec<u64> = log.iter().map(|event| event.seq).collect();
                assert_eq!(seqs, (1..=task.lines).collect::<Vec<_>>());
                let ends: Vec<_> = log.iter().filter_map(|event| event.final_state.map(|state| (event.seq, state))).collect();
                let expected: Vec<_> = task.state.is_final().then_some((task.lines, task.state)).into_iter().collect();
                assert_eq!(ends, expected, "the last line ends the task, and no other");
            }
        });
    }

    fn teardown(real: Real<S>, _: Model) {
        real.runtime.block_on(async {
            for queue in &real.queues {
                queue.close().await;
            }
        });
    }
}

fn compare<S: TestStore>() {
    let config = ProptestConfig { cases: 64, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() };
    let compared = TestRunner::new(config.clone()).run(&Model::sequential_strategy(1..80), |(model, steps, seen)| {
        QueueTest::<S>::test_sequential(config.clone(), model, steps, seen);
        Ok(())
    });
    compared.unwrap_or_else(|failure| panic!("{failure}"));
}

async fn the_queue_does_what_its_model_does<S: TestStore>() {
    // The steps are taken by a runtime of their own.
    tokio::task::spawn_blocking(compare::<S>).await.unwrap();
}

on_every_store! {
    the_queue_does_what_its_model_does,
}
