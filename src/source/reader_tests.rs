//! How many connections read, and which are left for the rest.

use std::{path::Path, pin::pin};

use super::{Source, sample, sample_database};
use crate::config::{self, Overrides};

async fn source(folder: &Path, connections: u32) -> Source {
    let path = folder.join("iota.db");
    sample_database::write(&path).await.unwrap();
    let mut overrides = Overrides::default();
    overrides.set(&["iota", "url"], format!("sqlite://{}", path.display())).set(&["iota", "connections"], connections);
    Source::new(&config::load(None, std::iter::empty(), overrides).unwrap().iota).unwrap()
}

#[tokio::test]
async fn a_ping_takes_no_connection_while_pages_have_all_but_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), 2).await;
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

#[tokio::test]
async fn readers_are_limited_as_soon_as_their_pages_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), 5).await;
    let free = || source.shared.pages.available_permits();
    assert_eq!(free(), 4);
    let reading = source.shared.pages.acquire_many(3).await.unwrap();
    source.limit_readers(2);
    tokio::task::yield_now().await;
    assert_eq!(free(), 0, "the free one is taken, and the next that is freed");
    drop(reading);
    tokio::task::yield_now().await;
    assert_eq!(free(), 2);
    for (limit, readers) in [(3, 3), (0, 1), (9, 4)] {
        source.limit_readers(limit);
        tokio::task::yield_now().await;
        assert_eq!(free(), readers, "at least one, and at most as many as there are");
    }
}
