//! The whole service, over its real WebSocket, on real databases and a broker that speaks the real
//! protocol.
//!
//! By default these are SQLite and librdkafka's mock cluster; with DATA_PATCH_TEST_POSTGRES and
//! DATA_PATCH_TEST_KAFKA set (`eval "$(scripts/services env)"`) the same tests run on PostgreSQL
//! and Apache Kafka. Each has a schema, a topic and a queue of its own, so they run side by side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, unused_imports, reason = "shared with the torture suite, which uses the rest")]
mod support;

mod api;
mod asyncapi;
mod cancel;
mod catalog;
mod check;
mod client;
mod commands;
mod commands_api;
mod commands_preview;
mod commands_shell;
mod configuration;
mod connections;
mod contract;
mod corpus;
mod crashes;
mod elastic;
mod elastic_access;
mod elastic_cluster;
mod elastic_faults;
mod elastic_layout;
mod handshake;
mod hostile;
mod instances;
mod kafka;
mod layers;
mod layout;
mod locks;
mod named_files;
mod outages;
mod page;
mod pgbouncer;
mod preview;
mod preview_source;
mod quarantine;
mod queue_copy;
mod quoted_texts;
mod ready;
mod receipt;
mod reconnect;
mod refusals;
mod replay;
mod restart;
mod row_counters;
mod secrets;
mod source;
mod stack;
mod steering;
mod telemetry;
mod tokens;
#[cfg(feature = "otlp")]
mod traces;
mod unauthenticated;
mod upgrade;
