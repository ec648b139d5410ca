//! Tests whose choices all come from one seed: TORTURE_SEED repeats them, TORTURE_ROUNDS sets their
//! length.

use std::sync::Arc;

use fastrand::Rng;
use tempfile::TempDir;

use crate::{row_counts::RowCounts, table::TestResult};

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs a test in a folder, for so many rounds, and adds its result to the table. The folder is kept
/// if it panics.
pub async fn run<F>(what: &str, default_rounds: u64, test: impl FnOnce(Rng, Arc<TempDir>, usize) -> F)
where
    F: Future<Output = (RowCounts, String)> + Send + 'static,
{
    let seed = number("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let rounds = number("TORTURE_ROUNDS").unwrap_or(default_rounds) as usize;
    println!("{what}, {rounds} rounds: TORTURE_SEED={seed} repeats it");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    // A separate task, so that a panic is reported with the seed.
    let tested = tokio::spawn(test(Rng::with_seed(seed), Arc::clone(&folder), rounds));
    let (counts, note) = match tested.await {
        Ok(found) => found,
        Err(error) => {
            let path = folder.path().to_owned();
            // Queue file and service logs are kept for diagnosis.
            std::mem::forget(folder);
            panic!("{what}, TORTURE_SEED={seed}, {rounds} rounds, see {}: {error}", path.display());
        }
    };
    TestResult::of(&format!("{what}, seed {seed}"), rounds, counts, note).write();
    assert_eq!(counts.lost, 0, "{what}, TORTURE_SEED={seed}");
}
