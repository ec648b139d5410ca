//! The fixtures of the tests.

mod app;
mod bouncer;
mod broker;
mod client;
pub mod elastic;
pub mod elastic_node;
pub mod elastic_proxy;
mod process;
mod queue;
pub mod raw;
pub mod replay;
mod source;
pub mod tree;

pub use app::{TOKEN, TestApp, call, config, get, get_with, open_queue};
pub use bouncer::Bouncer;
pub use broker::{Found, PARTITIONS, TestBroker, TestTopic, partition};
pub use client::{Client, is_end, message, seqs};
pub use elastic::ElasticIndex;
pub use process::{Process, program, program_with_files};
pub use queue::{queue_url, queue_url_at};
pub use raw::RawClient;
pub use source::{Reading, TestSource, doc};

use std::time::Duration;

/// Timeout for everything that is awaited, also on a slow machine.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// The address of a real server, if the suite runs on real servers.
pub fn real(part: &str) -> Option<String> {
    std::env::var(format!("DATA_PATCH_TEST_{part}")).ok().filter(|address| !address.is_empty())
}

/// Polls until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let polling = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, polling).await.unwrap_or_else(|_| panic!("{what}: not within {TIMEOUT:?}"));
}
