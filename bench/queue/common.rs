//! What the programs have in common: their arguments, and the one line of JSON that each prints.
//!
//! Included by path, not a crate: each program keeps a lock file of its own, with nothing of the others in it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// What a program was asked for.
#[derive(Debug, Clone)]
pub struct Args {
    pub jobs: usize,
    pub dir: PathBuf,
    pub workers: usize,
    pub submitters: usize,
    /// Words that only this program knows, such as `--as-shipped`.
    pub flags: Vec<String>,
}

impl Args {
    /// Reads the command line; ends the program with a hint if it makes no sense.
    pub fn read() -> Self {
        let mut args = Self { jobs: 2_000, dir: PathBuf::new(), workers: 8, submitters: 16, flags: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap_or_else(|| fail(&format!("{word} needs a value")));
            match word.as_str() {
                "--jobs" => args.jobs = number(&value()),
                "--workers" => args.workers = number(&value()),
                "--submitters" => args.submitters = number(&value()),
                "--dir" => args.dir = value().into(),
                _ => args.flags.push(word),
            }
        }
        if args.dir.as_os_str().is_empty() {
            fail("usage: --jobs N --dir DIR [--workers W] [--submitters S]");
        }
        std::fs::create_dir_all(&args.dir).unwrap_or_else(|error| fail(&format!("{}: {error}", args.dir.display())));
        args
    }

    #[allow(dead_code, reason = "not every program has flags")]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    /// How many jobs each submitter puts in; the first ones take what is left over.
    #[allow(dead_code, reason = "not every mode submits one by one")]
    pub fn shares(&self) -> Vec<usize> {
        (0..self.submitters).map(|n| self.jobs / self.submitters + usize::from(n < self.jobs % self.submitters)).collect()
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| fail(&format!("{text:?} is no number")))
}

fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}

/// The two phases, timed from outside the queue.
#[allow(dead_code, reason = "not every mode has both phases")]
pub struct Phases {
    start: Instant,
    cpu_before: f64,
    enqueued: Option<Duration>,
}

#[allow(dead_code, reason = "not every mode has both phases")]
impl Phases {
    /// The first phase begins: the file is open and empty.
    pub fn begin() -> Self {
        Self { start: Instant::now(), cpu_before: cpu_s(), enqueued: None }
    }

    /// All jobs are in.
    pub fn enqueued(&mut self) {
        self.enqueued = Some(self.start.elapsed());
    }

    /// All jobs are finished, and that is on the disk: prints the line.
    pub fn finish(self, args: &Args, queue: &str, version: &str, durability: &str) {
        let total_s = self.start.elapsed().as_secs_f64();
        let enqueue_s = self.enqueued.unwrap_or_default().as_secs_f64();
        let (work_s, jobs) = (total_s - enqueue_s, args.jobs as f64);
        let line = serde_json::json!({
            "queue": queue, "version": version, "jobs": args.jobs,
            "enqueue_s": enqueue_s, "work_s": work_s,
            "jobs_per_s_enqueue": jobs / enqueue_s, "jobs_per_s_work": jobs / work_s, "jobs_per_s_total": jobs / total_s,
            "cpu_s": cpu_s() - self.cpu_before, "durability": durability, "peak_rss_kb": peak_rss_kb(),
        });
        println!("{line}");
    }
}

/// Seconds of processor time of this process, user and system, all threads.
pub fn cpu_s() -> f64 {
    /// What Linux counts in, on every architecture that matters here.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold spaces: fields 14 and 15 of proc(5) are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) / TICKS
}

/// The most memory it has had, in KiB.
pub fn peak_rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
