//! The real program as a child process, to be killed.

use std::{process::Stdio, time::Duration};

use data_patch::protocol::PATH;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{PATIENCE, TOKEN, TestStore, TestTopic, eventually};

/// The program, with nothing of the tests' environment that would configure it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_data-patch"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DATA_PATCH_")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

pub struct Process {
    child: Child,
    pub url: String,
}

impl Process {
    /// Serves from a queue in `folder`; a process started later on the same folder goes on with its work.
    pub async fn serve(folder: &TempDir, store: &TestStore, topic: &TestTopic, more: &[(&str, &str)]) -> Self {
        // A port that was free a moment ago; the listener is closed, and the port is not given to others at once.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        let child = program()
            .arg("serve")
            .env("DATA_PATCH_TOKEN", TOKEN)
            .env("DATA_PATCH_SERVER_LISTEN", address.to_string())
            .env("DATA_PATCH_QUEUE_URL", format!("sqlite://{}", folder.path().join("queue.db").display()))
            .env("DATA_PATCH_IOTA_URL", store.url())
            .env("DATA_PATCH_KAFKA_BROKERS", topic.broker.brokers())
            .env("DATA_PATCH_KAFKA_DEFAULT_TOPIC", &topic.name)
            // No test waits for it: that a service was killed is seen at once.
            .env("DATA_PATCH_WORKER_LEASE_SECONDS", "600")
            .env("DATA_PATCH_WORKER_PROGRESS_MS", "50")
            // The embedded broker never answers what topics allow, and librdkafka waits for it as long as this.
            .env("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", if topic.broker.is_real() { "10" } else { "1" })
            .envs(more.iter().copied())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Self { child, url: format!("ws://{address}{PATH}") };
        eventually("the service listens", || async { tokio::net::TcpStream::connect(address).await.is_ok() }).await;
        process
    }

    /// All that it has logged to this folder.
    pub fn log(folder: &TempDir) -> String {
        std::fs::read_to_string(folder.path().join("log")).unwrap()
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; returns the exit code and how long it took.
    pub async fn terminate(mut self) -> (Option<i32>, Duration) {
        let begun = std::time::Instant::now();
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it did not end").unwrap();
        (status.code(), begun.elapsed())
    }
}
