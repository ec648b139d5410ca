//! The wire contract: messages of clients, replies, and the events of a task's log. Pure: no I/O
//! and no clock.

mod fields;
pub mod http;
pub mod message;
pub mod reply;
pub mod request_error;
pub mod task;
pub mod time;
pub mod token;

pub use message::{
    Attach, Authorized, ClientMessage, RequestPolicy, Steering, Submit, ensure_allowed_topic, lowered_rate, rate_within,
};
pub use request_error::RequestError;
pub use token::{Identity, Role, Token};

/// The URL path of the WebSocket.
pub const PATH: &str = "/data-patch/websocket";
