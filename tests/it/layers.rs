//! Checks the layers that `lib.rs` describes, and the length of files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::support::tree::{files, root};

/// From top to bottom. Modules of one layer do not import each other, except for [`SAME_LAYER`].
const LAYERS: [&[&str]; 8] = [
    &["main"],
    &["cli"],
    &["app"],
    &["api", "worker"],
    &["service", "replay"],
    &["queue", "source", "sink", "client"],
    &["protocol", "task", "config", "telemetry"],
    &["failpoint", "validate"],
];

/// Allowed imports within a layer.
const SAME_LAYER: [(&str, &str); 2] = [("protocol", "task"), ("telemetry", "config")];

/// The crates of this workspace that a file's code names (`data_patch_queue`), by their layer.
fn imported_crates(text: &str) -> Vec<String> {
    let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
    text.match_indices("data_patch_")
        .filter(|(at, _)| !text[..*at].ends_with(|c| is_name(&c)))
        .map(|(at, word)| text[at + word.len()..].chars().take_while(is_name).collect::<String>())
        .filter(|name| root().join("crates").join(name).is_dir())
        .collect()
}

/// The top-level modules that a file's code imports by `crate::`.
fn imported(text: &str) -> Vec<String> {
    let mut imported = Vec::new();
    for (_, rest) in text.match_indices("crate::").map(|(at, word)| (at, &text[at + word.len()..])) {
        match rest.strip_prefix('{') {
            None => imported.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
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
                        imported.push(std::mem::take(&mut word));
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    imported
}

/// Each file with its module, or with its crate if it is not of the service's own.
fn files_of_layers() -> Vec<(String, PathBuf)> {
    let root = root();
    let first = |file: &Path, folder: &Path| {
        let first = file.strip_prefix(folder).unwrap().iter().next().unwrap();
        first.to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let (src, crates) = (root.join("src"), root.join("crates"));
    let modules = files(&src, &["rs"]).into_iter().map(|file| (first(&file, &src), file)).filter(|(module, _)| module != "lib");
    let in_src = |file: &PathBuf| file.strip_prefix(&crates).unwrap().iter().nth(1).is_some_and(|folder| folder == "src");
    modules.chain(files(&crates, &["rs"]).into_iter().filter(in_src).map(|file| (first(&file, &crates), file))).collect()
}

#[test]
fn imports_go_downward_only() {
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(n, layer)| layer.iter().map(move |name| (*name, n))).collect();
    let mut crates = 0;
    for (module, file) in files_of_layers() {
        let code = code(&file);
        let own = layer.get(module.as_str()).unwrap_or_else(|| panic!("{module} is in no layer"));
        let other_crates = imported_crates(&code);
        crates += other_crates.len();
        let is_crate = file.iter().any(|folder| folder == "crates");
        let modules = if is_crate { Vec::new() } else { imported(&code) };
        for other in modules.iter().chain(&other_crates) {
            let Some(below) = layer.get(other.as_str()) else { panic!("{other} is in no layer: {}", file.display()) };
            let is_allowed = SAME_LAYER.contains(&(module.as_str(), other.as_str()));
            assert!(*other == module || own < below || is_allowed, "{} imports {other}", file.display());
        }
    }
    assert!(crates > 0, "no import of a crate was found");
}

/// The lines of a file without comments.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_queue_names_a_database_in_its_store_only() {
    let root = root().join("crates/queue/src");
    let databases = ["rusqlite", "sqlx", "sea_query", "SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA "];
    let stores = ["sqlite", "postgres"];
    let (store, outside): (Vec<_>, Vec<_>) = files(&root, &["rs"])
        .into_iter()
        .partition(|file| stores.iter().any(|store| file.starts_with(root.join("store").join(store))));
    for database in ["rusqlite", "PgConnection"] {
        assert!(store.iter().any(|file| code(file).contains(database)), "the store of {database} is elsewhere");
    }
    for file in outside {
        let code = code(&file);
        for word in databases {
            assert!(!code.contains(word), "{} contains {word:?}", file.display());
        }
        // `store/mod.rs` lists the stores, and whatever else asks for an operation asks `AnyStore`.
        if !file.ends_with("store/mod.rs") {
            assert!(!code.contains("sqlite"), "{} names a store of one kind", file.display());
        }
    }
}

#[test]
fn the_rules_of_the_queue_are_pure() {
    let root = root().join("crates/queue/src/policy");
    for file in files(&root, &["rs"]) {
        let code = code(&file);
        let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        let impure = ["store", "Queue", "async", "Instant", "SystemTime", "Utc", "tokio", "tracing", "failpoint", "fs"];
        for word in words {
            assert!(!impure.contains(&word), "{} contains {word:?}", file.display());
        }
    }
}

#[test]
fn no_file_is_long() {
    for folder in ["src", "tests", "crates", "assets"] {
        for file in files(&root().join(folder), &["rs", "js", "mjs", "css", "py"]) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 400, "{} has {lines} lines", file.display());
        }
    }
}
