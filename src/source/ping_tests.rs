//! Readiness checks leave the reserved connection to the jobs.

use std::pin::pin;

use super::{Source, sample, sample_database};
use crate::config::{self, Overrides};

#[tokio::test]
async fn a_ping_takes_no_connection_while_pages_have_all_but_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iota.db");
    sample_database::write(&path).await.unwrap();
    let mut overrides = Overrides::default();
    overrides.set(&["iota", "url"], format!("sqlite://{}", path.display())).set(&["iota", "connections"], 2);
    let source = Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap();
    source.ping().await.unwrap();
    let page = source.shared.pages.acquire().await.unwrap();
    let mut ping = pin!(source.ping());
    // Each look-up takes as long as the ping would take.
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = &mut ping => panic!("it took the last connection"),
            device = source.device(sample::BRIDGE.thing_id, sample::LEVEL_06) => assert!(device.unwrap().is_some()),
        }
    }
    drop(page);
    ping.await.unwrap();
}
