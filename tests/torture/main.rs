//! Tests of the guarantees under faults: the real program on a real PostgreSQL and a real Kafka,
//! killed, frozen and starved of resources.
//!
//! `make torture` runs all of it and prints a table; the kill matrix is part of `scripts/test-real`
//! too. The rows in Kafka are always compared with the rows in the source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod queue_reader;
mod row_counts;
mod seeded;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other suite, which uses the rest")]
mod support;
mod table;

mod clock;
mod cluster;
mod disk;
mod hostile;
mod instances;
mod kill;
mod locks;
mod outage;
mod soak;
mod walk;
