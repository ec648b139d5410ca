//! The sink of rows: Kafka, and the tracking of its acknowledgements.

pub mod kafka;
