//! Decides whether the consumer, ET, can read a raw reading, without building a tree of it.
//!
//! ```
//! use data_patch_validate::{InvalidRow, Validator, ValidationMode};
//!
//! let device = uuid::Uuid::nil();
//! let validator = Validator::new(ValidationMode::Et, device);
//! let reading = format!(r#"{{"deviceId":"{device}","triggerTime":"","data":{{"data":{{"value":1.5}}}}}}"#);
//! assert!(validator.check(Some(reading.into())).is_ok());
//! assert!(matches!(validator.check(None), Err(InvalidRow::NoDocument)));
//! ```

mod json;
mod validator;

pub use json::JsonType;
pub use validator::{InvalidRow, ValidationMode, Validator};
