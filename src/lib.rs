//! data-patch replays an IoT platform's raw readings into Kafka, and never loses, scrambles or forgets one.
//!
//! `docs/architecture.md` explains how. Modules form layers and import downward only (`tests/it/layers.rs` checks it):
//!
//! | layer | modules |
//! | --- | --- |
//! | commands | `cli` |
//! | composition | [`app`] |
//! | ways in | [`api`] (connections), [`worker`] (leases) |
//! | use cases | [`service`] |
//! | one job | [`replay`] |
//! | durable state | [`queue`] |
//! | the outside | [`source`] (the IoTA store), [`sink`] (Kafka), [`db`] (SQL connections) |
//! | plain types and pure functions | [`protocol`], [`task`], [`config`], [`telemetry`]; [`failpoint`] for tests |

pub use data_patch_failpoint as failpoint;
pub use data_patch_protocol::{self as protocol, task};
pub use data_patch_queue as queue;
pub use data_patch_validate as validate;

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod db;
pub mod replay;
pub mod service;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod worker;
