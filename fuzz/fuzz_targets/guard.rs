//! Feeds the properties of `properties/guard.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/guard.rs"]
mod properties;

fuzz_target!(|input: &[u8]| properties::check(input));
