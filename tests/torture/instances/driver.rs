//! Runs the rounds, each with one fault that the seed selects.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use uuid::Uuid;

use super::history;
use crate::{
    outage::{
        log_checks::published,
        proxy::{Network, Proxy},
    },
    queue_reader::QueueReader,
    row_counts::RowCounts,
    support::{Client, Process, message, queue_url},
    walk::{
        Task,
        final_checks::{count_rows, read_logs},
        fixture::{Device, Fixture},
        watcher::Watcher,
    },
};

/// `queue.dead_after_seconds`; the least that is allowed.
const DEAD_AFTER: Duration = Duration::from_secs(2);
/// Maximum wait for the jobs of a dead instance to go on elsewhere: for PostgreSQL to end what it had
/// begun too, and for an instance that has just lost its own connections to judge it.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout for the tasks that are unfinished after the last round.
const FINISH_TIMEOUT: Duration = Duration::from_mins(4);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const INSTANCES: usize = 3;

struct Instance {
    process: Process,
    /// Between it and the queue's PostgreSQL.
    proxy: Proxy,
    /// Unique among all that were ever started.
    name: String,
}

#[derive(Debug, Default)]
struct Counts {
    kills: usize,
    freezes: usize,
    cuts: usize,
    /// All were cut off at once.
    outages: usize,
    restarts: usize,
    /// Connections that PostgreSQL has ended.
    ended: i64,
    /// Jobs that were running on an instance when it was killed, frozen or cut off.
    orphans: usize,
    longest_takeover: Duration,
    /// Until all jobs went on after all were cut off.
    longest_return: Duration,
    /// Requests that were sent again because the queue was not available.
    sent_again: usize,
}

pub struct Driver {
    fixture: Fixture,
    rng: Rng,
    queue: PgConnection,
    instances: Vec<Instance>,
    started: usize,
    urls: watch::Sender<Vec<String>>,
    tasks: Vec<Task>,
    watchers: Vec<Watcher>,
    counts: Counts,
}

impl Driver {
    pub async fn new(fixture: Fixture, rng: Rng) -> Self {
        let queue = PgConnection::connect(&queue_url(&fixture.folder)).await.unwrap();
        let mut driver = Self {
            fixture,
            rng,
            queue,
            instances: Vec::new(),
            started: 0,
            urls: watch::Sender::default(),
            tasks: Vec::new(),
            watchers: Vec::new(),
            counts: Counts::default(),
        };
        for at in 0..INSTANCES {
            driver.start(at).await;
            if at == 0 {
                history::record(&mut driver.queue).await;
            }
        }
        driver
    }

    /// Starts an instance, and waits until its queue is open.
    async fn start(&mut self, at: usize) {
        let url = queue_url(&self.fixture.folder);
        let (name, proxy) = (format!("{at}.{}", self.started), Proxy::in_front_of(&url).await);
        self.started += 1;
        let (url, dead_after) =
            (format!("{}&options[torture.instance]={name}", proxy.url(&url)), DEAD_AFTER.as_secs().to_string());
        let settings = [
            ("DATA_PATCH_QUEUE_URL", url.as_str()),
            ("DATA_PATCH_QUEUE_DEAD_AFTER_SECONDS", &dead_after),
            // So that nobody takes jobs over for another reason.
            ("DATA_PATCH_WORKER_LEASE_SECONDS", "600"),
        ];
        let process = self.fixture.serve_with(&settings).await;
        Client::connect(&process.url).await;
        self.instances.insert(at, Instance { process, proxy, name });
        self.urls.send_replace(self.instances.iter().map(|instance| instance.process.url.clone()).collect());
    }

    pub async fn round(&mut self, round: usize) {
        let (pick, target) = (self.rng.u8(..100), self.rng.usize(..INSTANCES));
        let at = self.rng.usize(..INSTANCES);
        self.submit(at).await;
        // The fault comes at any time of the work.
        tokio::time::sleep(Duration::from_millis(self.rng.u64(..700))).await;
        let what = match pick {
            0..25 => self.kill(target).await,
            25..50 => self.freeze(target).await,
            50..70 => self.cut_off(target, Network::Silent).await,
            70..80 => self.cut_off(target, Network::Forgetful).await,
            80..90 => self.cut_off_all().await,
            _ => self.end_connections().await,
        };
        println!("round {round}: {what}; {} jobs open", self.open_jobs().await);
    }

    async fn open_jobs(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM job WHERE state IN ('queued', 'running')";
        sqlx::query_scalar(sql).fetch_one(&mut self.queue).await.unwrap()
    }

    /// Submits a task on one instance, and watches it on each.
    async fn submit(&mut self, at: usize) {
        let (thing, all) = &self.fixture.things[self.rng.usize(..self.fixture.things.len())];
        let mut devices: Vec<Device> = all.clone();
        self.rng.shuffle(&mut devices);
        devices.truncate(self.rng.usize(1..=devices.len()));
        let ids: Vec<Uuid> = devices.iter().map(|device| device.id).collect();
        let topic = self.rng.usize(..self.fixture.topics.len());
        let mut request = Client::request(*thing, &ids, &self.fixture.topics[topic].name);
        request["requestId"] = json!(format!("request {}", self.tasks.len()));
        // Slow enough that a fault meets running jobs.
        request["rate"] = json!(self.rng.u32(500..3_000));
        let id = self.send_until_accepted(at, &request).await;
        for preferred in 0..INSTANCES {
            let services = self.urls.subscribe();
            self.watchers.push(Watcher::start(self.tasks.len(), id.clone(), 0, preferred, services, None));
        }
        self.tasks.push(Task { id, topic, devices, has_foreign_device: false });
    }

    /// Sends a request again while the queue is not available. It is one task all the same.
    async fn send_until_accepted(&mut self, at: usize, request: &Value) -> String {
        loop {
            let mut client = Client::connect(&self.instances[at].process.url).await;
            client.send(request).await;
            let reply = client.next().await;
            if matches!(message(&reply), "task created." | "task attached.") {
                return reply["payload"]["taskId"].as_str().unwrap().to_owned();
            }
            assert_eq!(reply["payload"]["code"], "queue_unavailable", "{reply}");
            self.counts.sent_again += 1;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn kill(&mut self, target: usize) -> String {
        let Instance { process, name, .. } = self.instances.remove(target);
        let orphans = history::leases(&mut self.queue, &name).await;
        process.kill().await;
        self.counts.kills += 1;
        self.counts.orphans += orphans;
        let dead = Instant::now();
        if self.rng.bool() {
            self.urls.send_replace(self.instances.iter().map(|instance| instance.process.url.clone()).collect());
            self.until_taken_over(&name, dead).await;
        }
        self.start(target).await;
        self.until_taken_over(&name, dead).await;
        format!("instance {name} killed with {orphans} jobs, which went on after {:?}", dead.elapsed())
    }

    /// Freezes an instance for longer than after which it counts as dead.
    async fn freeze(&mut self, target: usize) -> String {
        let (name, thaws) = (self.instances[target].name.clone(), self.rng.u8(..4) > 0);
        self.instances[target].process.freeze();
        self.counts.freezes += 1;
        let (orphans, took) = self.without(&name, target).await;
        if thaws {
            self.instances[target].process.thaw();
        } else {
            self.instances.remove(target).process.kill().await;
            self.start(target).await;
        }
        let how = if thaws { "was thawed" } else { "was killed while frozen" };
        format!("instance {name} was frozen, lost {orphans} jobs in {took:?}, and {how}")
    }

    /// Cuts an instance off from the queue's PostgreSQL.
    async fn cut_off(&mut self, target: usize, network: Network) -> String {
        let name = self.instances[target].name.clone();
        self.instances[target].proxy.set(network);
        self.counts.cuts += 1;
        let (orphans, took) = self.without(&name, target).await;
        self.instances[target].proxy.set(Network::Fast);
        format!("instance {name} was cut off ({network:?}), and lost {orphans} jobs in {took:?}")
    }

    /// PostgreSQL is away for all of them, for longer than after which each counts as dead.
    async fn cut_off_all(&mut self) -> String {
        let network = if self.rng.bool() { Network::Silent } else { Network::Forgetful };
        for instance in &self.instances {
            instance.proxy.set(network);
        }
        self.counts.outages += 1;
        tokio::time::sleep(DEAD_AFTER + Duration::from_millis(self.rng.u64(500..2_000))).await;
        for instance in &self.instances {
            instance.proxy.set(Network::Fast);
        }
        let (since, mark) = (Instant::now(), history::mark(&mut self.queue).await);
        while history::unchanged(&mut self.queue, mark).await > 0 {
            assert!(since.elapsed() < TAKEOVER_TIMEOUT, "jobs stand still after PostgreSQL was away");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.counts.longest_return = self.counts.longest_return.max(since.elapsed());
        format!("PostgreSQL was away for all ({network:?}); all jobs went on after {:?}", since.elapsed())
    }

    /// The time of a fault of one instance: the others take another task and the jobs of this one.
    async fn without(&mut self, name: &str, target: usize) -> (usize, Duration) {
        let since = Instant::now();
        let orphans = history::leases(&mut self.queue, name).await;
        self.counts.orphans += orphans;
        if self.rng.bool() {
            self.submit((target + 1) % INSTANCES).await;
        }
        self.until_taken_over(name, since).await;
        let took = since.elapsed();
        let longer = DEAD_AFTER + Duration::from_millis(self.rng.u64(500..2_000));
        tokio::time::sleep(longer.saturating_sub(took)).await;
        (orphans, took)
    }

    /// Waits until no job is leased by an instance that is dead since then.
    async fn until_taken_over(&mut self, name: &str, since: Instant) {
        while history::leases(&mut self.queue, name).await > 0 {
            assert!(since.elapsed() < TAKEOVER_TIMEOUT, "the jobs of instance {name} stand still");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.counts.longest_takeover = self.counts.longest_takeover.max(since.elapsed());
    }

    /// PostgreSQL ends all connections of all instances, as when it is restarted.
    async fn end_connections(&mut self) -> String {
        let (times, mut ended) = (self.rng.usize(1..6), 0);
        for _ in 0..times {
            let ports: Vec<i32> = self.instances.iter().flat_map(|instance| instance.proxy.ports()).collect();
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE application_name = 'data-patch' AND datname = current_database() AND client_port = ANY ($1)";
            ended += sqlx::query_scalar::<_, i64>(sql).bind(ports).fetch_one(&mut self.queue).await.unwrap();
            // In some intervals the tasks make progress, in others they do not.
            tokio::time::sleep(Duration::from_millis(self.rng.u64(20..700))).await;
        }
        self.counts.restarts += times;
        self.counts.ended += ended;
        format!("PostgreSQL ended {ended} connections in {times} goes")
    }

    /// Waits until all tasks have ended, and checks the results; returns the row counts and a summary.
    pub async fn finish(mut self) -> (RowCounts, String) {
        self.wait_until_finished().await;
        let logs = read_logs(&self.instances[0].process.url, &self.tasks).await;
        for (task, log) in self.tasks.iter().zip(&logs) {
            assert_told_once(task, log);
        }
        let rows = count_rows(&self.fixture, &self.tasks).await;
        for watcher in std::mem::take(&mut self.watchers) {
            let task = watcher.task;
            assert_eq!(watcher.log(), logs[task], "task {task}: a watcher received another log");
        }
        let mut reader = QueueReader::open(self.fixture.folder.path()).await;
        reader.assert_finished().await;
        let tasks = reader.number("SELECT count(*) FROM task").await;
        assert_eq!(usize::try_from(tasks).unwrap(), self.tasks.len(), "each request is one task");
        let expected: i64 = self.tasks.iter().flat_map(|task| &task.devices).map(|device| device.rows).sum();
        let found_rows = reader.number("SELECT CAST(sum(published) AS BIGINT) FROM job").await;
        assert_eq!(found_rows, expected, "the queue's count of published rows");
        let found = history::check(&mut self.queue).await;
        for instance in std::mem::take(&mut self.instances) {
            assert_eq!(instance.process.terminate().await.0, Some(0));
        }
        let Counts { kills, freezes, cuts, outages, restarts, ended, orphans, longest_takeover, longest_return, sent_again } =
            self.counts;
        let note = format!(
            "{} tasks; {kills} kills, {freezes} freezes, {cuts} cuts, {outages} cuts of all ({:.1} s at most until all jobs went on), {restarts} times all connections ended ({ended}); {orphans} jobs ran there, \
             {} taken over, within {:.1} s; {sent_again} requests sent again; {} changes by {} attempts checked",
            self.tasks.len(),
            longest_return.as_secs_f64(),
            found.takeovers,
            longest_takeover.as_secs_f64(),
            found.changes,
            found.claims,
        );
        (rows, note)
    }

    async fn wait_until_finished(&mut self) {
        let started = Instant::now();
        loop {
            let (open, mut listening) = (self.open_jobs().await, 0);
            for watcher in &mut self.watchers {
                listening += usize::from(!watcher.is_done().await);
            }
            if open == 0 && listening == 0 {
                return;
            }
            assert!(started.elapsed() < FINISH_TIMEOUT, "{open} jobs and {listening} watchers are open after {FINISH_TIMEOUT:?}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Asserts that the count and each progress of a device are told once. The last one may be told twice:
/// rows that are quarantined may follow it.
fn assert_told_once(task: &Task, log: &[Value]) {
    let mut told = std::collections::HashSet::new();
    for line in log.iter().map(message) {
        let is_progress = published(line).is_some_and(|(rows, _, id)| {
            task.devices.iter().any(|device| device.id == id && device.rows > i64::try_from(rows).unwrap_or(i64::MAX))
        });
        if is_progress || line.ends_with(" to publish") {
            assert!(told.insert(line), "task {}: told twice: {line}", task.id);
        }
    }
}
