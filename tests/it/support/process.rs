//! The real program as a child process that can be killed.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use data_patch::protocol::PATH;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{TIMEOUT, TOKEN, TestSource, TestTopic, queue_url};

/// The program, without the environment variables that configure it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_data-patch"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DATA_PATCH_")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// As [`program`], with a limit of open files.
pub fn program_with_files(files: u32) -> Command {
    let (mut plain, mut limited) = (program(), Command::new("sh"));
    limited.arg("-c").arg("ulimit -n \"$0\" && exec \"$@\"").arg(files.to_string()).arg(plain.as_std().get_program());
    for (name, _) in plain.as_std_mut().get_envs() {
        limited.env_remove(name);
    }
    limited.kill_on_drop(true).stdin(Stdio::null());
    limited
}

pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub url: String,
}

impl Process {
    /// Starts a service with the queue in `folder`, and waits until it listens. Another process on
    /// the same folder continues its tasks.
    pub async fn serve(folder: &TempDir, source: &TestSource, topic: &TestTopic, more: &[(&str, &str)]) -> Self {
        Self::serve_as(program(), folder, source, topic, more).await
    }

    /// As [`serve`](Self::serve), with another command.
    pub async fn serve_as(
        program: Command,
        folder: &TempDir,
        source: &TestSource,
        topic: &TestTopic,
        more: &[(&str, &str)],
    ) -> Self {
        let mut process = Self::start_as(program, folder, source, topic, more);
        while tokio::net::TcpStream::connect(process.address).await.is_err() {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("the service ended with {status}: {}", Self::log(folder));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process
    }

    /// As [`serve`](Self::serve), without waiting until it listens.
    pub fn start(folder: &TempDir, source: &TestSource, topic: &TestTopic, more: &[(&str, &str)]) -> Self {
        Self::start_as(program(), folder, source, topic, more)
    }

    fn start_as(mut program: Command, folder: &TempDir, source: &TestSource, topic: &TestTopic, more: &[(&str, &str)]) -> Self {
        // A free port: after the listener is closed, the system does not reuse it at once.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        let child = program
            .arg("serve")
            .env("DATA_PATCH_TOKEN", TOKEN)
            .env("DATA_PATCH_SERVER_LISTEN", address.to_string())
            .env("DATA_PATCH_QUEUE_URL", queue_url(folder))
            .env("DATA_PATCH_IOTA_URL", source.url())
            .envs(source.index().map(|index| ("DATA_PATCH_IOTA_READINGS_URL", index.url())))
            .envs(source.index().map(|_| ("DATA_PATCH_IOTA_READINGS_SETTLE_SECONDS", "0")))
            .env("DATA_PATCH_KAFKA_BROKERS", topic.broker.brokers())
            .env("DATA_PATCH_KAFKA_DEFAULT_TOPIC", &topic.name)
            // No test waits for leases to expire: a killed service is detected at once.
            .env("DATA_PATCH_WORKER_LEASE_SECONDS", "600")
            .env("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "50")
            // The embedded broker does not answer queries for topic settings, so each look-up takes
            // this long.
            .env("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", if topic.broker.is_real() { "10" } else { "1" })
            .envs(more.iter().copied())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address, url: format!("ws://{address}{PATH}") }
    }

    /// Waits until it ends by itself; returns the signal that ended it.
    pub async fn died(mut self) -> Option<i32> {
        let status = tokio::time::timeout(TIMEOUT, self.child.wait()).await.expect("it is still running").unwrap();
        std::os::unix::process::ExitStatusExt::signal(&status)
    }

    /// Waits until it ends by itself; returns its exit code.
    pub async fn exit_code(mut self) -> Option<i32> {
        tokio::time::timeout(TIMEOUT, self.child.wait()).await.expect("it is still running").unwrap().code()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has ended")
    }

    /// Its resident memory in KiB: now (`VmRSS`), or at its peak (`VmHWM`).
    pub fn memory(&self, which: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends a signal, such as `-TERM`, without waiting.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The log of the services in this folder.
    pub fn log(folder: &TempDir) -> String {
        std::fs::read_to_string(folder.path().join("log")).unwrap()
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; returns the exit code and how long it took.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        let started = std::time::Instant::now();
        self.signal("-TERM");
        let status = tokio::time::timeout(TIMEOUT, self.child.wait()).await.expect("it did not end").unwrap();
        (status.code(), started.elapsed())
    }

    /// Suspends the process with SIGSTOP; it keeps its leases and locks.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }
}
