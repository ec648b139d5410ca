//! The result of each test as one line of `target/torture/table.tsv`, printed by `scripts/torture`.

use std::{io::Write, path::Path};

use crate::row_counts::RowCounts;

/// The result of a test.
#[derive(Debug, Default)]
pub struct TestResult<'a> {
    /// The guarantee or the fault that was tested.
    pub what: &'a str,
    /// Number of trials.
    pub times: usize,
    /// Rows of the source that must be in the topic.
    pub rows: usize,
    /// Rows that are missing in the topic or out of order. The test fails unless it is 0.
    pub lost: usize,
    /// Rows that are in the topic more than once.
    pub repeated: usize,
    /// Further figures.
    pub note: String,
}

impl<'a> TestResult<'a> {
    /// Creates a result from an account.
    pub fn of(what: &'a str, times: usize, counts: RowCounts, note: String) -> Self {
        let RowCounts { rows, lost, repeated } = counts;
        Self { what, times, rows, lost, repeated, note }
    }

    /// Adds a line to the table.
    pub fn write(&self) {
        let Self { what, times, rows, lost, repeated, note } = self;
        println!("{what}: tried {times} times, {rows} rows, {lost} lost, {repeated} repeated. {note}");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/torture");
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("table.tsv")).unwrap();
        // One write, so that parallel tests do not mix their lines.
        file.write_all(format!("{what}\t{times}\t{rows}\t{lost}\t{repeated}\t{note}\n").as_bytes()).unwrap();
    }
}
