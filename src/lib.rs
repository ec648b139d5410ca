//! data-patch replays the raw readings of an IoT platform into Kafka, without losing, reordering or
//! forgetting any.
//!
//! `docs/architecture.md` describes the design. The modules form layers and import downward only,
//! which `tests/it/layers.rs` checks:
//!
//! | layer | modules |
//! | --- | --- |
//! | commands | `cli` |
//! | composition | [`app`] |
//! | entry points | [`api`] (connections), [`worker`] (leases) |
//! | use cases | [`service`] |
//! | one job | [`replay`] |
//! | durable state | [`queue`] |
//! | external systems | [`source`] (the IoTA database), [`sink`] (Kafka) |
//! | plain types and pure functions | [`protocol`], [`task`], [`config`], [`telemetry`]; below them [`validate`], and [`failpoint`] for tests |

pub use data_patch_failpoint as failpoint;
pub use data_patch_protocol::{self as protocol, task};
pub use data_patch_queue as queue;
pub use data_patch_validate as validate;

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod replay;
pub mod service;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod worker;
