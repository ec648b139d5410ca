//! The demo's service: `data-patch serve` as a process of its own, so that it can be killed.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

/// What it takes to start, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What it takes to stop gently; it has nothing to do then.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How the service is started, each time.
pub struct Setup<'a> {
    pub listen: SocketAddr,
    pub token: &'a str,
    /// Has the queue, the sample store and the service's log.
    pub folder: &'a Path,
    pub store: &'a Path,
    pub brokers: &'a str,
}

/// A service that runs. Dropping it kills it.
pub struct Service {
    child: Child,
    /// Its standard input, which it ends with. Kept apart from `child`, which would close it before it waits.
    stdin: Option<ChildStdin>,
    pub pid: u32,
    log: PathBuf,
}

impl Setup<'_> {
    /// Starts the service, and waits until it listens.
    pub async fn start(&self) -> anyhow::Result<Service> {
        let log = self.folder.join("service.log");
        let stderr = OpenOptions::new().create(true).append(true).open(&log).context("the service's log can't be written")?;
        let mut command = Command::new(std::env::current_exe().context("the path of this program is not known")?);
        // Nothing of the caller's environment: the demo is the same everywhere.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .args(["serve", "--until-stdin-ends"])
            .env("DATA_PATCH_TOKEN", self.token)
            .env("DATA_PATCH_SERVER_LISTEN", self.listen.to_string())
            .env("DATA_PATCH_QUEUE_URL", format!("sqlite://{}", self.folder.join("queue.db").display()))
            .env("DATA_PATCH_IOTA_URL", format!("sqlite://{}", self.store.display()))
            .env("DATA_PATCH_KAFKA_BROKERS", self.brokers)
            .env("DATA_PATCH_LOG_LEVEL", "warn")
            // Enough to watch, and little enough in flight that there is something left to be killed.
            .env("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "100")
            .env("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "65536")
            // The embedded broker never answers what topics allow, and librdkafka waits for it as long as this. Not less:
            // each of its other answers is delayed.
            .env("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C is for the demo, which then stops the service.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("the service can't be started")?;
        let pid = child.id().context("the service has ended at once")?;
        let stdin = child.stdin.take();
        let mut service = Service { child, stdin, pid, log };
        tokio::select! {
            died = service.died() => Err(died),
            listens = timeout(START_TIMEOUT, self.listens()) => listens.context("the service does not listen"),
        }?;
        Ok(service)
    }

    async fn listens(&self) {
        while TcpStream::connect(self.listen).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whether a variable configures data-patch, or makes it kill itself in tests.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("DATA_PATCH_") || name == "FAILPOINT"
}

impl Service {
    /// Waits until it has ended by itself, which it should not.
    pub async fn died(&mut self) -> anyhow::Error {
        let ended = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(10).collect();
        anyhow::anyhow!("the service has ended ({ended}): {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the service can't be killed")
    }

    /// Stops it gently.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
    }
}
