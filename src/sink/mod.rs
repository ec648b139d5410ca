//! Where rows go: the Kafka sink, and the tracking of its acknowledgements.

pub mod kafka;
