//! The service of the demo: `data-patch serve` in a separate process, so that it can be killed.

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

/// Timeout for the start, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for a graceful stop of the idle service.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings that the service is started with.
pub struct Setup<'a> {
    pub listen: SocketAddr,
    pub token: &'a str,
    /// The folder of the queue, the sample database and the service's log.
    pub folder: &'a Path,
    pub database: &'a Path,
    pub brokers: &'a str,
}

/// A running service, killed on drop.
pub struct Service {
    child: Child,
    /// Its standard input; the service stops when it is closed. Not left in `child`, which would
    /// close it before it waits.
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
        // The demo does not depend on the caller's environment.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command
            .args(["serve", "--until-stdin-ends"])
            .env("DATA_PATCH_TOKEN", self.token)
            .env("DATA_PATCH_SERVER_LISTEN", self.listen.to_string())
            .env("DATA_PATCH_QUEUE_URL", format!("sqlite://{}", self.folder.join("queue.db").display()))
            .env("DATA_PATCH_IOTA_URL", format!("sqlite://{}", self.database.display()))
            .env("DATA_PATCH_IOTA_THING_TABLE", "Thing")
            .env("DATA_PATCH_KAFKA_BROKERS", self.brokers)
            .env("DATA_PATCH_LOG_LEVEL", "warn")
            // Progress that can be watched, and few rows in flight, so that the kill interrupts the
            // task.
            .env("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "100")
            .env("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "65536")
            // The embedded broker does not answer queries for topic settings, so librdkafka waits
            // this long for each. Its other answers are delayed, so the timeout can't be shorter.
            .env("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Ctrl-C must reach only the demo, which then stops the service.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().context("the service can't be started")?;
        let pid = child.id().context("the service ended immediately")?;
        let stdin = child.stdin.take();
        let mut service = Service { child, stdin, pid, log };
        tokio::select! {
            error = service.died() => Err(error),
            listening = timeout(START_TIMEOUT, self.wait_until_listening()) => listening.context("the service does not listen"),
        }?;
        Ok(service)
    }

    async fn wait_until_listening(&self) {
        while TcpStream::connect(self.listen).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whether a variable configures data-patch or a failpoint.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("DATA_PATCH_") || name == "FAILPOINT"
}

impl Service {
    /// Waits until the service ends by itself, which is an error; returns its last log lines.
    pub async fn died(&mut self) -> anyhow::Error {
        let ended = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(10).collect();
        anyhow::anyhow!("the service has ended ({ended}): {}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Kills the service with SIGKILL.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the service can't be killed")
    }

    /// Stops the service gracefully.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        let _ = timeout(STOP_TIMEOUT, self.child.wait()).await;
    }
}
