//! Feeds the properties of `properties/time.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../properties/time.rs"]
mod properties;

fuzz_target!(|input: &[u8]| properties::check(input));
