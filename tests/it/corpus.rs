//! What the fuzz targets of `fuzz/` have found worth keeping holds on every run, with no fuzzer and no nightly Rust.

#[path = "../../fuzz/properties/client_message.rs"]
mod client_message;
#[path = "../../fuzz/properties/guard.rs"]
mod guard;
#[path = "../../fuzz/properties/time.rs"]
mod time;

use std::path::Path;

/// Gives each file of a target's corpus to its properties.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "{} is the corpus", folder.display());
    for file in files {
        // Shown when it fails: the last is the one.
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
    replay("guard", guard::check);
}
