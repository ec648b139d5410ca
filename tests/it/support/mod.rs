//! What the tests stand on.

mod app;
mod bouncer;
mod broker;
mod client;
pub mod patch;
mod process;
pub mod queue;
pub mod raw;
mod store;

pub use app::{TOKEN, TestApp, config, get, get_with, open_queue};
pub use bouncer::Bouncer;
pub use broker::{TestBroker, TestTopic, partition};
pub use client::{Client, is_end, message, seqs};
pub use process::{Process, program, program_with_files};
pub use raw::RawClient;
pub use store::{Reading, TestStore, doc};

use std::time::Duration;

/// Long enough for a slow machine; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The address of a real part, if the suite runs on real ones.
pub fn real(part: &str) -> Option<String> {
    std::env::var(format!("DATA_PATCH_TEST_{part}")).ok().filter(|address| !address.is_empty())
}

/// Waits until something holds, asking again and again.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}
