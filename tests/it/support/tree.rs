//! The files of this repository, for the tests that read them.

use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files in a folder and below it with one of these extensions.
pub fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| !path.ends_with("node_modules"))
        .flat_map(|path| if path.is_dir() { files(&path, extensions) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|its| extensions.iter().any(|extension| its == *extension)))
        .collect()
}
