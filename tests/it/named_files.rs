//! Every file of the code that a document names exists.

use std::path::Path;

use crate::support::tree::{files, root};

/// The names of Rust files in a text: `api/session.rs`, `slots.rs`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(move |c| !is_of_path(c)).map(|word| word.trim_start_matches("../")).filter(|word| {
        let name = word.rsplit('/').next().unwrap();
        // `*_tests.rs` is a pattern.
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && Path::new(word).extension().is_some_and(|its| its == "rs")
    })
}

#[test]
fn every_file_that_a_document_names_exists() {
    // Documents name a file by the end of its path, and leave out `src` and `crates`.
    let code: Vec<String> = ["src", "crates", "tests", "benches", "bench", "fuzz"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), &["rs"]))
        .map(|file| format!("/{}", file.strip_prefix(root()).unwrap().display()))
        .collect();
    let short: Vec<String> = code.iter().map(|file| file.replace("/src/", "/")).collect();
    let mut pages = files(&root().join("docs"), &["md"]);
    pages.extend(
        ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "crates/queue/README.md", "fuzz/README.md"]
            .map(|page| root().join(page)),
    );
    let (mut count, mut missing) = (0, Vec::new());
    for page in pages {
        for name in names(&std::fs::read_to_string(&page).unwrap()) {
            count += 1;
            let end = format!("/{name}");
            if !code.iter().chain(&short).any(|file| file.ends_with(&end)) {
                missing.push(format!("{}: {name}", page.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "there is no such file:\n{}", missing.join("\n"));
    assert!(count > 100, "only {count} names were found");
}
