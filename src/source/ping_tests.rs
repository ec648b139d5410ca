//! Readiness leaves the store's last connection to the jobs.

use std::pin::pin;

use super::{Source, sample, sample_store};
use crate::config::{self, Overrides};

#[tokio::test]
async fn a_ping_takes_no_connection_while_pages_have_all_but_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("iota.db");
    sample_store::write(&path).await.unwrap();
    let mut overrides = Overrides::default();
    overrides.set(&["iota", "url"], format!("sqlite://{}", path.display())).set(&["iota", "connections"], 2);
    let store = Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap();
    store.ping().await.unwrap();
    let page = store.pages.acquire().await.unwrap();
    let mut ping = pin!(store.ping());
    // Each look-up is a way to the file and back, and so would a ping be.
    for _ in 0..20 {
        tokio::select! {
            biased;
            _ = &mut ping => panic!("it took the last connection"),
            device = store.device(sample::BRIDGE.thing_id, sample::LEVEL_06) => assert!(device.unwrap().is_some()),
        }
    }
    drop(page);
    ping.await.unwrap();
}
