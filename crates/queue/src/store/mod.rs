//! Where the queue is kept.

pub mod sqlite;
