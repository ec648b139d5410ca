//! Working on one lease: the job itself, the heartbeat beside it, and what is written at its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Pool,
    room::{Place, Room},
    ticks::Ticks,
};
use crate::{
    kafka::Flight,
    kill,
    patch::{self, Outcome, Patch, ReportError},
    queue::{Counted, Lease, LeaseError, Report},
    task::{HeldRow, Line, Progress, line},
};

/// What a worker is told beside its lease.
#[derive(Clone)]
pub struct Signals {
    /// Stop reading, wait for what is on its way, and hand the lease back.
    pub stop: CancellationToken,
    /// Wait no longer.
    pub abandon: CancellationToken,
    /// When cursors are stored.
    pub store: Ticks,
}

/// Works on a lease until its job ends, is asked to stop, or is lost.
///
/// Its place is free when its work is over, before its end is stored: the claim of the next job goes to the disk together
/// with it.
pub async fn run(pool: Pool, lease: Lease, signals: Signals, place: Place) {
    let span = tracing::info_span!("job", task = %lease.job.task.id, device = %lease.job.device, attempt = lease.job.attempt);
    Worker::new(pool, lease, signals).run(place).instrument(span).await;
}

struct Worker {
    pool: Pool,
    lease: Lease,
    flight: Arc<Flight>,
    signals: Signals,
}

/// How the work on a lease ended.
enum Ended {
    Job(Outcome),
    /// Rows may still be on their way, and a rerun must not be overtaken by them: the lease is kept, and ends with this
    /// process.
    Abandoned,
    Lost(ReportError),
}

/// Before a write to the queue is tried again that could not be made.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// So few rows more, and they wait to be stored until others come: small jobs are over before, and stored once.
const LITTLE: u64 = 200;
/// They wait no longer than this.
const SOON: Duration = Duration::from_millis(250);

/// What the log said last of rows published, and when.
struct Said {
    published: u64,
    at: Instant,
}

impl Worker {
    fn new(pool: Pool, lease: Lease, signals: Signals) -> Self {
        let flight = Arc::new(Flight::new(lease.job.progress.clone()));
        Self { pool, lease, flight, signals }
    }

    async fn run(self, place: Place) {
        let job = &self.lease.job;
        let patch = Patch {
            task: job.task.id,
            thing: job.task.thing,
            device: job.device,
            topic: job.task.topic.clone(),
            from: job.task.from,
            to: job.task.to,
            total: job.total,
        };
        let count = Count::new(job.total);
        let report = Reporter { lease: &self.lease, count: &count };
        let mut said = Said { published: job.progress.published, at: Instant::now() };
        let (over, lost) = (CancellationToken::new(), CancellationToken::new());
        let work = async {
            let ended = tokio::select! {
                outcome = self.pool.patcher.run(&patch, &self.flight, &report, &self.signals.stop) => {
                    outcome.map_or_else(Ended::Lost, Ended::Job)
                }
                () = self.signals.abandon.cancelled() => Ended::Abandoned,
                () = lost.cancelled() => Ended::Lost(ReportError("the lease is lost".to_owned())),
            };
            over.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(work, self.beat(&count, &mut said, place.room(), &over, &lost));
        let before = job.progress.clone();
        match ended {
            Ended::Job(outcome) => self.end(outcome, &count, &said, place).await,
            Ended::Abandoned => {
                let (progress, held) = self.flight.progress();
                let lines = self.held_lines(&held);
                let counted = count.news().take();
                self.settle("abandoned", self.lease.report(Report { counted, progress, held, lines }).await);
            }
            Ended::Lost(error) => {
                tracing::warn!(%error, "the job is left; if another worker has it, what this one sent and did not store goes out again");
                self.pool.metrics.job("lost");
            }
        }
        let (progress, _) = self.flight.progress();
        self.pool.metrics.rows_published.inc_by(progress.published - before.published);
        self.pool.metrics.rows_held.inc_by(progress.held - before.held);
    }

    /// Stores the cursor, renews the lease and writes the log, again and again, until the work is over.
    async fn beat(&self, count: &Count, said: &mut Said, room: &Room, over: &CancellationToken, lost: &CancellationToken) {
        let say_every = Duration::from_millis(self.pool.config.progress_ms);
        let stall = Duration::from_secs(self.pool.config.stall_seconds);
        let (mut stored, mut written) = (self.lease.job.progress.clone(), Instant::now());
        // When the cursor moved last, and when it was last told that it does not.
        let (mut moved, mut told) = (Instant::now(), Instant::now());
        loop {
            let crowded = tokio::select! {
                biased;
                () = over.cancelled() => return,
                () = self.flight.crowded() => true,
                () = tokio::time::sleep_until(self.signals.store.after(Instant::now()).into()) => false,
            };
            let (progress, held) = self.flight.progress();
            if progress != stored || !self.flight.is_waiting() {
                (moved, told) = (Instant::now(), Instant::now());
            }
            let stalls = told.elapsed() >= stall;
            let counted = count.news().take();
            // Nothing new, or little and lately, and time left: the disk is spared.
            let is_quiet = counted.is_none() && progress == stored && held.is_empty();
            let is_little = !crowded && progress.rows() - stored.rows() < LITTLE && written.elapsed() < SOON;
            if (is_quiet || is_little) && !stalls && self.lease.remaining() > self.pool.config.lease() / 2 {
                self.flight.unreport(held);
                *count.news() = counted;
                continue;
            }
            written = Instant::now();
            let published = progress.published;
            let is_news = |rows: &u64| published > said.published && published < *rows && said.at.elapsed() >= say_every;
            let news = count.total().filter(is_news).map(|rows| line::published(self.lease.job.device, published, rows));
            let says = news.is_some();
            let stalled = stalls.then(|| line::stalled(self.lease.job.device, published, moved.elapsed()));
            if stalls {
                told = Instant::now();
                tracing::warn!(published, since = ?moved.elapsed(), "Kafka acknowledges nothing; the job goes on when it does");
            }
            let lines = self.held_lines(&held).into_iter().chain(news).chain(stalled).collect();
            let report = Report { counted: counted.clone(), progress: progress.clone(), held: held.clone(), lines };
            match self.lease.report(report).await {
                Ok(()) => {
                    self.flight.confirm();
                    if self.lease.job.has_grown(&progress) {
                        room.set_outage(false);
                    }
                    stored = progress;
                    if says {
                        *said = Said { published, at: Instant::now() };
                    }
                }
                Err(error) => {
                    self.flight.unreport(held);
                    *count.news() = counted;
                    if matches!(error, LeaseError::Lost) || self.lease.remaining().is_zero() {
                        tracing::warn!(%error, "the heartbeat failed for good");
                        lost.cancel();
                        return;
                    }
                    tracing::warn!(%error, remaining = ?self.lease.remaining(), "the heartbeat failed; trying again while the lease lasts");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Writes how it ended.
    async fn end(&self, outcome: Outcome, count: &Count, said: &Said, place: Place) {
        let job = &self.lease.job;
        let (progress, held) = self.flight.progress();
        let (counted, lines) = (count.news().take(), self.held_lines(&held));
        let mut report = Report { counted, progress, held, lines };
        let (progress, lines) = (&report.progress, &mut report.lines);
        let (published, grown) = (progress.published, job.has_grown(progress));
        match &outcome {
            Outcome::Stopped => {}
            Outcome::Outage(_) => place.room().set_outage(!grown),
            Outcome::Done | Outcome::Failed(_) => place.room().set_outage(false),
        }
        drop(place);
        let (name, written) = match outcome {
            Outcome::Done => {
                lines.extend(self.last_lines(progress, count));
                ("succeeded", self.write(report, |report| self.lease.succeed(report)).await)
            }
            Outcome::Stopped => {
                kill::point("releasing");
                if let Some(rows) = count.total().filter(|_| published > said.published) {
                    lines.push(line::published(job.device, published, rows));
                }
                ("released", self.write(report, |report| self.lease.release(report)).await)
            }
            Outcome::Outage(reason) => {
                let wait = self.backoff(job.outages_with_one_more(grown));
                tracing::warn!(reason, published, ?wait, "the job waits for what is away");
                lines.push(line::waiting(job.device, &reason, published, wait));
                ("retried", self.write(report, |report| self.lease.retry(report, wait)).await)
            }
            Outcome::Failed(reason) => {
                tracing::error!(reason, published, "the job has failed; its task goes on with the other devices");
                lines.push(line::failed(job.device, job.name.as_deref(), &reason));
                let write = self.write(report, |report| self.lease.fail(report, reason.clone()));
                ("failed", write.await)
            }
        };
        self.settle(name, written);
    }

    /// Counts how it ended, or says that it could not be stored.
    fn settle(&self, name: &'static str, written: Result<(), LeaseError>) {
        match written {
            Ok(()) => self.pool.metrics.job(name),
            Err(error) => {
                tracing::warn!(%error, "how the job ended could not be stored; another worker goes on from its cursor when the lease expires");
                self.pool.metrics.job("lost");
            }
        }
    }

    /// The contract's last line of a device, and why its number is another than was counted, where it is.
    fn last_lines(&self, progress: &Progress, count: &Count) -> Vec<Line> {
        let (device, read) = (self.lease.job.device, progress.published + progress.held);
        let recounted = count.total().filter(|counted| *counted != read).map(|counted| line::recounted(device, counted, read));
        recounted.into_iter().chain([line::published(device, progress.published, read)]).collect()
    }

    fn held_lines(&self, held: &[HeldRow]) -> Vec<Line> {
        if held.is_empty() {
            return Vec::new();
        }
        tracing::warn!(rows = held.len(), "rows are held back; the task's log and the quarantine table say which and why");
        vec![line::held(self.lease.job.device, held)]
    }

    /// Writes the end, trying again while the lease lasts.
    async fn write<F>(&self, report: Report, write: impl Fn(Report) -> F) -> Result<(), LeaseError>
    where
        F: Future<Output = Result<(), LeaseError>>,
    {
        loop {
            match write(report.clone()).await {
                Err(LeaseError::Queue(error)) if self.lease.remaining() > AGAIN_AFTER => {
                    tracing::warn!(%error, "the job's end can't be stored yet; trying again while the lease lasts");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                written => return written,
            }
        }
    }

    /// Doubled with each outage in a row up to a limit, and jittered, so that jobs do not come back all at once.
    fn backoff(&self, outages: u32) -> Duration {
        let config = &self.pool.config;
        let most = Duration::from_secs(config.retry_max_seconds);
        let doubled = Duration::from_millis(config.retry_first_ms).saturating_mul(1 << (outages.saturating_sub(1)).min(20));
        doubled.min(most).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// The number of rows that were counted, once it is known.
#[derive(Default)]
struct Count {
    total: OnceLock<u64>,
    /// Not told to the queue yet.
    news: Mutex<Option<Counted>>,
}

impl Count {
    fn new(total: Option<u64>) -> Self {
        Self { total: total.map(OnceLock::from).unwrap_or_default(), news: Mutex::default() }
    }

    fn total(&self) -> Option<u64> {
        self.total.get().copied()
    }

    fn news(&self) -> MutexGuard<'_, Option<Counted>> {
        // Nothing panics while it is locked.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job's way to its lease.
struct Reporter<'a> {
    lease: &'a Lease,
    count: &'a Count,
}

impl patch::Report for Reporter<'_> {
    fn counted(&self, name: Option<String>, total: u64) {
        *self.count.news() = Some(Counted { name, total });
        self.count.total.get_or_init(|| total);
    }

    fn may_send(&self) -> Result<(), ReportError> {
        if self.lease.remaining().is_zero() {
            return Err(ReportError("the lease may be over: it was not renewed in time".to_owned()));
        }
        Ok(())
    }
}
