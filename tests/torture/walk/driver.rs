//! The rounds: each does one thing that the seed picks.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    ledger::{self, Ledger},
    site::{Device, Site},
    watcher::{Cut, Watcher},
};
use crate::support::{Client, Process, message};

/// A task as it was asked for.
pub struct Task {
    pub id: String,
    pub topic: usize,
    pub devices: Vec<Device>,
    /// Whether it also names a device of another thing, which fails.
    pub stranger: bool,
}

/// How often things were done.
#[derive(Debug, Default)]
pub struct Counts {
    pub kills: usize,
    /// Leases that the killed held.
    pub orphans: usize,
    pub stops: usize,
    pub freezes: usize,
    /// Leases that were taken from the frozen.
    pub taken: usize,
    pub cuts: usize,
    pub attaches: usize,
    pub joins: usize,
    pub twice: usize,
}

pub struct Driver {
    pub site: Site,
    rng: Rng,
    pub services: Vec<Process>,
    urls: watch::Sender<Vec<String>>,
    pub tasks: Vec<Task>,
    pub watchers: Vec<Watcher>,
    pub ledger: Ledger,
    pub counts: Counts,
}

/// Longer than a lease: in that time another service takes over what a frozen one had.
const FREEZE: Duration = Duration::from_secs(5);
/// A round waits so long for rows to go out between the last thing and the next, if there are any.
const PAUSE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Driver {
    pub async fn new(site: Site, rng: Rng) -> Self {
        let services = vec![site.serve().await, site.serve().await];
        // It listens at once, and answers when the queue file has its tables.
        for service in &services {
            Client::connect(&service.url).await;
        }
        let ledger = Ledger::open(site.folder.path()).await;
        let urls = watch::Sender::new(urls(&services));
        Self { site, rng, services, urls, tasks: Vec::new(), watchers: Vec::new(), ledger, counts: Counts::default() }
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
        let open = self.go_on().await;
        println!("round {round}: {what}; {open} jobs open");
    }

    async fn submit(&mut self, target: usize) -> String {
        let thing = self.rng.usize(..self.site.things.len());
        let (thing_id, all) = &self.site.things[thing];
        let mut devices = all.clone();
        self.rng.shuffle(&mut devices);
        devices.truncate(self.rng.usize(1..=devices.len()));
        let mut ids: Vec<Uuid> = devices.iter().map(|device| device.id).collect();
        let stranger = self.rng.u8(..10) == 0;
        if stranger {
            ids.push(self.site.things[(thing + 1) % self.site.things.len()].1[2].id);
        }
        let topic = self.rng.usize(..self.site.topics.len());
        let mut request = Client::request(*thing_id, &ids, &self.site.topics[topic].name);
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
        self.tasks.push(Task { id, topic, devices, stranger });
        what
    }

    fn watch(&mut self, task: usize, id: &str, after: u64, home: usize, client: Option<Client>) {
        let services = self.urls.subscribe();
        self.watchers.push(Watcher::start(task, id.to_owned(), after, home, services, client));
    }

    fn attach(&mut self, target: usize) -> String {
        let (share, newest) = (self.rng.u64(..100), self.rng.usize(..4));
        if self.tasks.is_empty() {
            return "nothing to attach to".to_owned();
        }
        // The last few tasks are those that still run.
        let task = self.tasks.len().saturating_sub(newest + 1);
        let known = self.watchers.iter().filter(|watcher| watcher.task == task && watcher.after == 0).map(Watcher::count).max();
        // Before the last line that is known, so that there is one to come.
        let after = known.unwrap_or(0) * share / 100;
        let id = self.tasks[task].id.clone();
        self.counts.attaches += 1;
        self.watch(task, &id, after, target, None);
        format!("attached to task {task} after {share} % of its log on service {target}")
    }

    fn cut(&mut self) -> String {
        let (back, cut) = (self.rng.usize(..12), if self.rng.bool() { Cut::Reset } else { Cut::Drop });
        // One of the last, since most of the others have seen the end.
        let Some(back) = back.checked_rem(self.watchers.len()) else { return "nobody to cut".to_owned() };
        let watcher = &self.watchers[self.watchers.len() - 1 - back];
        watcher.cut(cut);
        self.counts.cuts += 1;
        format!("{cut:?} for the watcher {back} before the last")
    }

    async fn kill(&mut self, target: usize) -> String {
        let service = self.services.remove(target);
        let orphans = self.kill_one(service).await;
        self.start(target).await;
        format!("service {target} killed at {orphans} jobs")
    }

    async fn kill_all(&mut self) -> String {
        let (count, mut orphans) = (self.services.len(), 0);
        for service in std::mem::take(&mut self.services) {
            orphans += self.kill_one(service).await;
        }
        for at in 0..count {
            self.start(at).await;
        }
        format!("all {count} services killed at {orphans} jobs")
    }

    /// Returns how many jobs it was at.
    async fn kill_one(&mut self, service: Process) -> usize {
        self.look().await;
        let orphans = self.ledger.leases(ledger::owner(service.pid()).as_deref());
        service.kill().await;
        self.counts.kills += 1;
        self.counts.orphans += orphans;
        orphans
    }

    async fn stop(&mut self, target: usize) -> String {
        self.counts.stops += 1;
        let (code, took) = self.services.remove(target).terminate().await;
        assert_eq!(code, Some(0), "a service that is asked to stop ends well");
        assert!(took < Duration::from_secs(25), "stopping took {took:?}");
        self.start(target).await;
        format!("service {target} stopped in {took:?}")
    }

    /// Stops a service in its tracks until another has its jobs; then it wakes, or is killed in its sleep.
    async fn freeze(&mut self, target: usize) -> String {
        let wakes = self.rng.u8(..4) > 0;
        let owner = ledger::owner(self.services[target].pid());
        self.services[target].freeze();
        self.counts.freezes += 1;
        self.look().await;
        let (begun, held) = (Instant::now(), self.ledger.leases(owner.as_deref()));
        // Another takes what it has places for; none can if this one was caught in the middle of a write to the queue.
        while held > 0 && self.ledger.leases(owner.as_deref()) == held && begun.elapsed() < FREEZE {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look().await;
        }
        let taken = held - self.ledger.leases(owner.as_deref()).min(held);
        self.counts.taken += taken;
        if wakes {
            self.services[target].thaw();
        } else {
            self.services.remove(target).kill().await;
            self.start(target).await;
        }
        let how = if wakes { "woke" } else { "was killed in its sleep" };
        format!("service {target} was frozen, lost {taken} of {held} jobs in {:?}, and {how}", begun.elapsed())
    }

    /// A third service joins, or leaves again.
    async fn join_or_leave(&mut self) -> String {
        if self.services.len() < 3 {
            self.counts.joins += 1;
            self.start(self.services.len()).await;
            return "a third service joined".to_owned();
        }
        let (code, _) = self.services.pop().unwrap().terminate().await;
        assert_eq!(code, Some(0), "a service that is asked to stop ends well");
        self.urls.send_replace(urls(&self.services));
        "the third service left".to_owned()
    }

    async fn start(&mut self, at: usize) {
        self.services.insert(at, self.site.serve().await);
        self.urls.send_replace(urls(&self.services));
    }

    async fn look(&mut self) -> ledger::Sums {
        self.ledger.look().await
    }

    /// Lets the work get on a little before the next round; returns how many jobs are open.
    async fn go_on(&mut self) -> usize {
        let (begun, before) = (Instant::now(), self.look().await);
        loop {
            let now = self.look().await;
            if now.open == 0 || now.published > before.published || begun.elapsed() >= PAUSE {
                return now.open;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn urls(services: &[Process]) -> Vec<String> {
    services.iter().map(|service| service.url.clone()).collect()
}
