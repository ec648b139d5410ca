//! Checks the corpus of the fuzz targets (`fuzz/`) without a fuzzer and nightly Rust.

#[path = "../../fuzz/properties/client_message.rs"]
mod client_message;
#[path = "../../fuzz/properties/time.rs"]
mod time;
#[path = "../../fuzz/properties/validator.rs"]
mod validator;

use std::path::Path;

/// Checks the properties of a target on each file of its corpus.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{} is the corpus", folder.display());
    for file in files {
        // If the check fails, the last printed file is the cause.
        println!("{}", file.display());
        check(&std::fs::read(file).unwrap());
    }
}

#[test]
fn client_messages() {
    replay("client_message", client_message::check);
}

#[test]
fn times() {
    replay("time", time::check);
}

#[test]
fn documents() {
    replay("validator", validator::check);
}
