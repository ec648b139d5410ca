//! The queue in an SQLite file.

pub mod claim;
pub mod clock;
pub mod connection;
pub mod instance;
pub mod open;
pub mod probe;
mod schema;
pub mod sql;
pub mod writer;
