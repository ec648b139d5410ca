//! The wire contract: what clients say, and what they are told. Pure: no I/O, no clock, nothing of the crate but [`crate::task`].

mod fields;
pub mod message;
pub mod refusal;
pub mod reply;
pub mod time;
pub mod token;

pub use message::{Attach, Authorized, ClientMessage, Rules, Submit};
pub use refusal::Refusal;
pub use token::Token;

/// Where the WebSocket is.
pub const PATH: &str = "/data-patch/websocket";
