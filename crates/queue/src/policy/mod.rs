//! The rules of the queue as pure functions, shared by every store.

pub mod crash;
