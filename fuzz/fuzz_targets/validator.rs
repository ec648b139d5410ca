//! Feeds the properties of `properties/validator.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/validator.rs"]
mod properties;

fuzz_target!(|input: &[u8]| properties::check(input));
