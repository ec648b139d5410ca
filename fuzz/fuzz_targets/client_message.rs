//! Feeds the properties of `properties/client_message.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/client_message.rs"]
mod properties;

fuzz_target!(|input: &[u8]| properties::check(input));
