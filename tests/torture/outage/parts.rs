//! The real PostgreSQL and Kafka, stopped, killed and frozen by `scripts/services`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::real;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services")
}

/// Whether the parts are private processes of this checkout: others may not be stopped. Says so if they are not.
pub fn are_ours(test: &str) -> bool {
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

/// A part that is away. It is given back at the latest when this is dropped, so that a test that fails does not take the
/// others with it.
pub struct Away {
    part: &'static str,
    way_back: &'static str,
    is_back: bool,
}

impl Away {
    /// Takes a part away: `stop`, `kill` or `freeze`.
    pub async fn take(way: &'static str, part: &'static str) -> Self {
        let away = Self { part, way_back: if way == "freeze" { "thaw" } else { "start" }, is_back: false };
        order(way, part).await;
        away
    }

    /// Gives it back; returns when it answers.
    pub async fn give_back(mut self) {
        order(self.way_back, self.part).await;
        self.is_back = true;
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if !self.is_back {
            // It is said by the script if it can't.
            let _ = Command::new(script()).args([self.way_back, self.part]).status();
        }
    }
}

async fn order(command: &str, part: &str) {
    let status = tokio::process::Command::new(script()).args([command, part]).status().await.unwrap();
    assert!(status.success(), "scripts/services {command} {part}: {status}");
}
