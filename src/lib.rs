//! data-patch plays an IoT platform's raw readings again into Kafka, and never loses, scrambles or forgets one.
//!
//! `docs/architecture.md` tells how. Modules stand in layers and import downward only (`tests/layers.rs` holds it):
//!
//! | layer | modules |
//! | --- | --- |
//! | commands | `cli` |
//! | putting together | [`app`] |
//! | the two ways in | [`server`] (sockets), [`worker`] (leases) |
//! | one job | [`patch`] |
//! | the durable part | [`queue`], [`events`] |
//! | the outside | [`iota`] (store), [`kafka`] (broker), [`db`] (SQL connections) |
//! | plain types and pure functions | [`protocol`], [`task`], [`config`], [`telemetry`]; and [`kill`], for tests |

pub mod app;
pub mod cli;
pub mod config;
pub mod db;
pub mod events;
pub mod failpoint;
pub mod iota;
pub mod kafka;
pub mod protocol;
pub mod queue;
pub mod replay;
pub mod server;
pub mod task;
pub mod telemetry;
pub mod worker;
