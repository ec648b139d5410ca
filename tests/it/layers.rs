//! The architecture that `lib.rs` tells of: imports go downward only, and files stay short.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// From top to bottom; modules of one layer do not know each other, but for those named beside it.
const LAYERS: [&[&str]; 8] = [
    &["main"],
    &["cli"],
    &["app"],
    &["api", "worker"],
    &["service", "replay"],
    &["queue", "source", "sink"],
    &["protocol", "task", "config", "telemetry"],
    &["failpoint"],
];

/// Within the outside and the durable part, and among plain types: who may know whom.
const BESIDE: [(&str, &str); 2] = [("protocol", "task"), ("telemetry", "config")];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The top-level modules that a file names after `crate::`.
fn known(text: &str) -> Vec<String> {
    let mut known = Vec::new();
    let text: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (_, rest) in text.match_indices("crate::").map(|(at, word)| (at, &text[at + word.len()..])) {
        match rest.strip_prefix('{') {
            None => known.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
            Some(list) => {
                let (mut depth, mut word, mut fresh) = (1, String::new(), true);
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => fresh = true,
                        ':' => fresh = false,
                        c if fresh && depth == 1 && (c.is_alphanumeric() || c == '_') => word.push(c),
                        _ => {}
                    }
                    if (c == ':' || c == ',' || depth == 0) && !word.is_empty() {
                        known.push(std::mem::take(&mut word));
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    known
}

#[test]
fn imports_go_downward_only() {
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(n, layer)| layer.iter().map(move |name| (*name, n))).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let own = layer.get(module.as_str()).unwrap_or_else(|| panic!("{module} is in no layer"));
        for other in known(&std::fs::read_to_string(&file).unwrap()) {
            let Some(below) = layer.get(other.as_str()) else { continue };
            let beside = BESIDE.contains(&(module.as_str(), other.as_str()));
            assert!(other == module || own < below || beside, "{} imports crate::{other}", relative.display());
        }
    }
}

#[test]
fn no_file_is_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "tests", "crates"] {
        for file in sources(&root.join(folder)) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 400, "{} has {lines} lines", file.display());
        }
    }
}
