//! The wire contract: what clients say, and what they are told. Pure: no I/O, no clock, nothing of the crate but [`crate::task`].

pub mod message;
pub mod refusal;
pub mod reply;
pub mod time;
pub mod token;

pub use message::{Attach, ClientMessage, Rules};
pub use refusal::Refusal;
pub use token::Token;

/// Where the WebSocket is.
pub const PATH: &str = "/data-patch/websocket";
