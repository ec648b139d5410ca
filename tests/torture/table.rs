//! What was tried, how often, lost, repeated: one line a test, gathered in `target/torture/table.tsv` and printed by
//! `scripts/torture`.

use std::{io::Write, path::Path};

use crate::account::Account;

/// What a test found.
#[derive(Debug, Default)]
pub struct Found<'a> {
    /// The promise, or the trouble that it was put to.
    pub what: &'a str,
    /// How often it was tried.
    pub times: usize,
    /// Rows that the store holds, and that must be in the topic.
    pub rows: usize,
    /// Rows that are in the store and not in the topic, or out of order there. A test fails unless it is 0.
    pub lost: usize,
    /// Rows that are in the topic more than once.
    pub repeated: usize,
    /// Figures of its own.
    pub note: String,
}

impl<'a> Found<'a> {
    /// What an account says.
    pub fn of(what: &'a str, times: usize, account: Account, note: String) -> Self {
        let Account { rows, lost, repeated } = account;
        Self { what, times, rows, lost, repeated, note }
    }

    /// Adds a line to the table.
    pub fn write(&self) {
        let Self { what, times, rows, lost, repeated, note } = self;
        println!("{what}: tried {times} times, {rows} rows, {lost} lost, {repeated} repeated. {note}");
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/torture");
        std::fs::create_dir_all(&folder).unwrap();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("table.tsv")).unwrap();
        // One write: tests that run side by side do not mix their lines.
        file.write_all(format!("{what}\t{times}\t{rows}\t{lost}\t{repeated}\t{note}\n").as_bytes()).unwrap();
    }
}
