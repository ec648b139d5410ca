//! Typed clients for data-patch: [`Client`] for its WebSocket, [`HttpClient`] for its HTTP API.
//!
//! A [`Client`] submits tasks, follows their logs as typed [`LogLine`]s, and cancels them. It
//! restores a lost connection by itself, and attaches to every watched task again after the last
//! received entry, so that no entry is missing or duplicated.
//!
//! ```no_run
//! use data_patch_client::{Client, Event, Request};
//!
//! # async fn publish() -> Result<(), data_patch_client::Error> {
//! let mut client = Client::connect("ws://127.0.0.1:18010/data-patch/websocket", "123456").await?;
//! let request = Request::new(
//!     "9d9d14b3-cf77-4cba-934b-faeaf2d153ba",
//!     ["b34299aa-625e-4404-a580-fde1d7cbc3e8"],
//!     "2019-01-11T21:03:00.000+0800",
//!     "2019-01-15T14:30:00.000+0800",
//! );
//! let task = client.submit(&request).await?;
//! while let Some(entry) = client.next().await? {
//!     match entry.event {
//!         Event::Published { device, published, total } => println!("{device}: {published} of {total}"),
//!         _ => println!("{}", entry.text),
//!     }
//! }
//! println!("{task} has ended");
//! # Ok(())
//! # }
//! ```

mod client;
mod connection;
mod error;
mod http;
mod request;
mod retry;

pub use client::{Cancelled, Client};
pub use data_patch_protocol::{
    PATH,
    reply::LogLine,
    task::{Event, Summary, TaskId, TaskState},
};
pub use error::{ConnectionError, Error};
pub use http::{EventStream, HttpClient, HttpError, JsonLines, StreamItem, TaskQuery};
pub use request::{Moment, Request};
pub use retry::RetryPolicy;
