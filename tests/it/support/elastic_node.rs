//! A private node of a real Elasticsearch or `OpenSearch`, which may be killed and frozen.

use std::{path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use super::tree::root;

/// The first start may have to fetch the server.
const START_TIMEOUT: Duration = Duration::from_mins(3);

/// A running node. It ends when dropped.
pub struct ElasticNode {
    version: String,
    home: TempDir,
    settings: Vec<String>,
    child: Child,
    /// For requests.
    pub http_port: u16,
    /// For other nodes.
    pub transport_port: u16,
}

impl ElasticNode {
    /// Starts a node of a version, such as `opensearch-2.19`, and waits until it answers.
    pub async fn start(version: &str, settings: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let (child, http_port, transport_port) = start(version, home.path(), 0, &settings).await;
        Self { version: version.to_owned(), home, settings, child, http_port, transport_port }
    }

    pub fn server(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again on its data and its port.
    pub async fn restart(&mut self) {
        let started = start(&self.version, self.home.path(), self.http_port, &self.settings).await;
        (self.child, self.http_port, self.transport_port) = started;
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it has ended").to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

async fn start(version: &str, home: &Path, port: u16, settings: &[String]) -> (Child, u16, u16) {
    let mut child = Command::new(root().join("scripts/elastic/node"))
        .args([version, &home.display().to_string(), &port.to_string()])
        .args(settings)
        // It ends with this pipe.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ports = tokio::time::timeout(START_TIMEOUT, ports(&mut lines)).await.ok().flatten();
    let (http, transport) = ports.unwrap_or_else(|| {
        let log = std::fs::read_to_string(home.join("node.log")).unwrap_or_default();
        panic!("{version} has not started: {log}")
    });
    (child, http, transport)
}

async fn ports(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<(u16, u16)> {
    let (mut http, mut transport) = (None, None);
    while http.is_none() || transport.is_none() {
        let line = lines.next_line().await.ok()??;
        let port = |word: &str| line.strip_prefix(word)?.trim().parse().ok();
        http = http.or_else(|| port("READY "));
        transport = transport.or_else(|| port("TRANSPORT "));
    }
    http.zip(transport)
}
