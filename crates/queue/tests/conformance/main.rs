//! The queue's promises, on its public interface alone, so that they hold whatever store is under it. `support.rs` lists the
//! stores.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod copy;
mod crashes;
mod large;
mod metrics;
mod model;
mod operations;
mod partition;
mod postgres;
mod sqlite;
mod tasks;
