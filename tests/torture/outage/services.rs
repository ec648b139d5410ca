//! The real PostgreSQL and Kafka, stopped, killed and frozen by `scripts/services`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::real;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services")
}

/// Whether the servers are private processes of this checkout, since others must not be stopped.
/// Prints a message if they are not.
pub fn are_private(test: &str) -> bool {
    let modes: Vec<_> = ["postgres", "kafka"]
        .iter()
        .map(|part| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/services/{part}.state")))
        .map(|file| std::fs::read_to_string(file).unwrap_or_default())
        .collect();
    let ours = modes.iter().all(|mode| mode.contains("mode=private")) && real("POSTGRES").is_some() && real("KAFKA").is_some();
    if !ours {
        println!(
            "NOT RUN: {test} needs PostgreSQL and Kafka as private processes of this checkout: \
             DATA_PATCH_TEST_DOCKER=no scripts/services up; eval \"$(scripts/services env)\""
        );
    }
    ours
}

/// An outage of a server. It ends on drop at the latest, so that a failed test does not affect
/// others.
pub struct Outage {
    server: &'static str,
    recovery: &'static str,
    has_ended: bool,
}

impl Outage {
    /// Starts an outage: `stop`, `kill` or `freeze`.
    pub async fn start(command: &'static str, server: &'static str) -> Self {
        let outage = Self { server, recovery: if command == "freeze" { "thaw" } else { "start" }, has_ended: false };
        run_script(command, server).await;
        outage
    }

    /// Ends the outage; returns when the server answers.
    pub async fn end(mut self) {
        run_script(self.recovery, self.server).await;
        self.has_ended = true;
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if !self.has_ended {
            // The script prints its errors.
            let _ = Command::new(script()).args([self.recovery, self.server]).status();
        }
    }
}

async fn run_script(command: &str, server: &str) {
    let status = tokio::process::Command::new(script()).args([command, server]).status().await.unwrap();
    assert!(status.success(), "scripts/services {command} {server}: {status}");
}
