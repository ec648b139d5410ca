//! Runs the rounds of the walk, each with one action that the seed selects.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    fixture::{Device, Fixture},
    job_history::{JobHistory, JobTotals},
    watcher::{Cut, Watcher},
};
use crate::support::{Client, Process, message};

/// A submitted task.
pub struct Task {
    pub id: String,
    pub topic: usize,
    pub devices: Vec<Device>,
    /// It also names a device of another thing, which must fail.
    pub has_foreign_device: bool,
}

/// The number of actions.
#[derive(Debug, Default)]
pub struct Counts {
    pub kills: usize,
    /// Leases of killed services.
    pub orphans: usize,
    pub stops: usize,
    pub freezes: usize,
    /// Leases of frozen services that others took over.
    pub taken: usize,
    pub cuts: usize,
    pub attaches: usize,
    pub joins: usize,
    pub twice: usize,
}

pub struct Driver {
    pub fixture: Fixture,
    rng: Rng,
    pub services: Vec<Process>,
    urls: watch::Sender<Vec<String>>,
    pub tasks: Vec<Task>,
    pub watchers: Vec<Watcher>,
    pub job_history: JobHistory,
    pub counts: Counts,
}

/// Longer than a lease: another service takes over the jobs of a frozen one.
const FREEZE_TIME: Duration = Duration::from_secs(5);
/// Maximum wait for progress between two rounds.
const MAX_PAUSE: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Driver {
    pub async fn new(fixture: Fixture, rng: Rng) -> Self {
        let first = fixture.serve().await;
        // A service accepts connections once the queue is migrated.
        Client::connect(&first.url).await;
        let mut job_history = JobHistory::open(fixture.folder.path()).await;
        job_history.learn_instance(&first).await;
        let (services, urls) = (vec![first], watch::Sender::default());
        let mut driver = Self {
            fixture,
            rng,
            services,
            urls,
            tasks: Vec::new(),
            watchers: Vec::new(),
            job_history,
            counts: Counts::default(),
        };
        driver.start(1).await;
        driver
    }

    pub async fn round(&mut self, round: usize) {
        let pick = self.rng.u8(..100);
        let target = self.rng.usize(..self.services.len());
        let what = match pick {
            0..30 => self.submit(target).await,
            30..45 => self.attach(target),
            45..65 => self.cut(),
            65..74 => self.kill(target).await,
            74..77 => self.kill_all().await,
            77..85 => self.stop(target).await,
            85..94 => self.freeze(target).await,
            _ => self.join_or_leave().await,
        };
        let open = self.wait_for_progress().await;
        println!("round {round}: {what}; {open} jobs open");
    }

    async fn submit(&mut self, target: usize) -> String {
        let thing = self.rng.usize(..self.fixture.things.len());
        let (thing_id, all) = &self.fixture.things[thing];
        let mut devices = all.clone();
        self.rng.shuffle(&mut devices);
        devices.truncate(self.rng.usize(1..=devices.len()));
        let mut ids: Vec<Uuid> = devices.iter().map(|device| device.id).collect();
        let has_foreign_device = self.rng.u8(..10) == 0;
        if has_foreign_device {
            ids.push(self.fixture.things[(thing + 1) % self.fixture.things.len()].1[2].id);
        }
        let topic = self.rng.usize(..self.fixture.topics.len());
        let mut request = Client::request(*thing_id, &ids, &self.fixture.topics[topic].name);
        let again = (self.rng.u8(..4) == 0).then(|| self.rng.usize(..self.services.len()));
        if again.is_some() {
            request["requestId"] = json!(format!("request {}", self.tasks.len()));
        }
        let mut client = Client::connect(&self.services[target].url).await;
        let id = client.submit(&request).await;
        let task = self.tasks.len();
        self.watch(task, &id, 0, target, Some(client));
        if let Some(other) = again {
            self.counts.twice += 1;
            let mut client = Client::connect(&self.services[other].url).await;
            client.send(&request).await;
            let reply: Value = client.next().await;
            assert_eq!((message(&reply), reply["payload"]["taskId"].as_str()), ("task attached.", Some(id.as_str())), "{reply}");
            self.watch(task, &id, 0, other, Some(client));
        }
        let rows: i64 = devices.iter().map(|device| device.rows).sum();
        let what = format!("task {task} of {} devices and {rows} rows to service {target}", ids.len());
        self.tasks.push(Task { id, topic, devices, has_foreign_device });
        what
    }

    fn watch(&mut self, task: usize, id: &str, after: u64, preferred: usize, client: Option<Client>) {
        let services = self.urls.subscribe();
        self.watchers.push(Watcher::start(task, id.to_owned(), after, preferred, services, client));
    }

    fn attach(&mut self, target: usize) -> String {
        let (share, newest) = (self.rng.u64(..100), self.rng.usize(..4));
        if self.tasks.is_empty() {
            return "nothing to attach to".to_owned();
        }
        // Only the last few tasks are still running.
        let task = self.tasks.len().saturating_sub(newest + 1);
        let known = self.watchers.iter().filter(|watcher| watcher.task == task && watcher.after == 0).map(Watcher::count).max();
        // Before the last known line, so that at least one line follows.
        let after = known.unwrap_or(0) * share / 100;
        let id = self.tasks[task].id.clone();
        self.counts.attaches += 1;
        self.watch(task, &id, after, target, None);
        format!("attached to task {task} after {share} % of its log on service {target}")
    }

    fn cut(&mut self) -> String {
        let (back, cut) = (self.rng.usize(..12), if self.rng.bool() { Cut::Reset } else { Cut::Drop });
        // One of the last watchers, since most of the others are done.
        let Some(back) = back.checked_rem(self.watchers.len()) else { return "no watcher to disconnect".to_owned() };
        let watcher = &self.watchers[self.watchers.len() - 1 - back];
        watcher.cut(cut);
        self.counts.cuts += 1;
        format!("{cut:?} for the watcher {back} before the last")
    }

    async fn kill(&mut self, target: usize) -> String {
        let service = self.services.remove(target);
        let orphans = self.kill_one(service).await;
        self.start(target).await;
        format!("service {target} killed with {orphans} jobs")
    }

    async fn kill_all(&mut self) -> String {
        let (count, mut orphans) = (self.services.len(), 0);
        for service in std::mem::take(&mut self.services) {
            orphans += self.kill_one(service).await;
        }
        for at in 0..count {
            self.start(at).await;
        }
        format!("all {count} services killed with {orphans} jobs")
    }

    /// Returns the number of jobs that it was running.
    async fn kill_one(&mut self, service: Process) -> usize {
        self.update_history().await;
        let orphans = self.job_history.leases(self.job_history.owner(service.pid()).as_deref());
        service.kill().await;
        self.counts.kills += 1;
        self.counts.orphans += orphans;
        orphans
    }

    async fn stop(&mut self, target: usize) -> String {
        self.counts.stops += 1;
        let (code, took) = self.services.remove(target).terminate().await;
        assert_eq!(code, Some(0), "a stopped service exits with 0");
        assert!(took < Duration::from_secs(25), "stopping took {took:?}");
        self.start(target).await;
        format!("service {target} stopped in {took:?}")
    }

    /// Freezes a service until another has taken over its jobs; then it is thawed or killed.
    async fn freeze(&mut self, target: usize) -> String {
        let thaws = self.rng.u8(..4) > 0;
        let owner = self.job_history.owner(self.services[target].pid());
        self.services[target].freeze();
        self.counts.freezes += 1;
        self.update_history().await;
        let (started, leases) = (Instant::now(), self.job_history.leases(owner.as_deref()));
        // Another service takes as many jobs as it has slots; none if the frozen service holds the
        // queue's write lock.
        while leases > 0 && self.job_history.leases(owner.as_deref()) == leases && started.elapsed() < FREEZE_TIME {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.update_history().await;
        }
        let taken = leases - self.job_history.leases(owner.as_deref()).min(leases);
        self.counts.taken += taken;
        if thaws {
            self.services[target].thaw();
        } else {
            self.services.remove(target).kill().await;
            self.start(target).await;
        }
        let how = if thaws { "was thawed" } else { "was killed while frozen" };
        format!("service {target} was frozen, lost {taken} of {leases} jobs in {:?}, and {how}", started.elapsed())
    }

    /// A third service joins, or leaves again.
    async fn join_or_leave(&mut self) -> String {
        if self.services.len() < 3 {
            self.counts.joins += 1;
            self.start(self.services.len()).await;
            return "a third service joined".to_owned();
        }
        let (code, _) = self.services.pop().unwrap().terminate().await;
        assert_eq!(code, Some(0), "a stopped service exits with 0");
        self.urls.send_replace(urls(&self.services));
        "the third service left".to_owned()
    }

    async fn start(&mut self, at: usize) {
        let service = self.fixture.serve().await;
        self.job_history.learn_instance(&service).await;
        self.services.insert(at, service);
        self.urls.send_replace(urls(&self.services));
    }

    async fn update_history(&mut self) -> JobTotals {
        self.job_history.update().await
    }

    /// Waits for some progress before the next round; returns the number of open jobs.
    async fn wait_for_progress(&mut self) -> usize {
        let (started, before) = (Instant::now(), self.update_history().await);
        loop {
            let now = self.update_history().await;
            if now.open == 0 || now.published > before.published || started.elapsed() >= MAX_PAUSE {
                return now.open;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

fn urls(services: &[Process]) -> Vec<String> {
    services.iter().map(|service| service.url.clone()).collect()
}
