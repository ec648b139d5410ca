//! The wire contract: what clients say, and what they are told. Pure: no I/O, no clock, nothing of the crate but [`crate::task`].

mod fields;
pub mod message;
pub mod reply;
pub mod request_error;
pub mod time;
pub mod token;

pub use message::{Attach, Authorized, ClientMessage, RequestPolicy, Submit};
pub use request_error::RequestError;
pub use token::Token;

/// Where the WebSocket is.
pub const PATH: &str = "/data-patch/websocket";
