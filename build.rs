//! Prepares the page: each file of `assets/page` is compressed once, here, and compiled in twice, as
//! it is and with Brotli.
//!
//! The files are served under a path that contains a hash of all of them. So browsers may keep them
//! for ever, and never combine files of two versions.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use brotli::enc::BrotliEncoderParams;
use sha2::{Digest, Sha256};

/// The file that is served at `/data-patch/`. Words in double braces are replaced in it.
const INDEX: &str = "index.html";

fn main() -> io::Result<()> {
    let root = Path::new("assets/page");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let mut contents = Vec::new();
    let mut all = Sha256::new();
    for path in &files {
        let bytes = fs::read(path)?;
        let name = name_of(root, path);
        all.update(format!("{name}\0{}\0", bytes.len()));
        all.update(&bytes);
        contents.push((name, bytes));
    }
    all.update(&version);
    let build = hex(&all.finalize());
    let modules: Vec<_> = contents.iter().map(|(name, _)| name.clone()).filter(|name| is_preloaded(name)).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut table = format!("/// The hash of all files.\nconst BUILD: &str = \"{build}\";\nstatic FILES: &[File] = &[\n");
    for (number, (name, bytes)) in contents.into_iter().enumerate() {
        let bytes = if name == INDEX { fill_in(bytes, &version, &build, &modules)? } else { bytes };
        let (plain, compressed) = (format!("page-{number}"), format!("page-{number}.br"));
        fs::write(out.join(&compressed), compress(&bytes)?)?;
        fs::write(out.join(&plain), &bytes)?;
        let _ = writeln!(
            table,
            "File {{ name: {name:?}, media_type: {:?}, hash: \"{}\", plain: {}, brotli: {} }},",
            media_type(&name)?,
            hex(&Sha256::digest(&bytes)),
            include(&plain),
            include(&compressed),
        );
    }
    table.push_str("];\n");
    fs::write(out.join("page.rs"), table)
}

/// The expression that compiles in a file of the output folder.
fn include(name: &str) -> String {
    format!("include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// The path below the root, with slashes.
fn name_of(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Whether the index names a module, so that browsers load all of them side by side and not one
/// after the other, as they find the imports.
fn is_preloaded(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, extension)| extension == "js" && stem != "boot" && stem != "main")
}

fn fill_in(bytes: Vec<u8>, version: &str, build: &str, modules: &[String]) -> io::Result<Vec<u8>> {
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let links = modules.iter().map(|name| format!("<link rel=\"modulepreload\" href=\"assets/{build}/{name}\">"));
    let links = links.collect::<Vec<_>>().join("\n  ");
    Ok(text.replace("{{preload}}", &links).replace("{{version}}", version).replace("{{build}}", build).into_bytes())
}

fn media_type(name: &str) -> io::Result<&'static str> {
    match name.rsplit('.').next() {
        Some("html") => Ok("text/html; charset=utf-8"),
        Some("css") => Ok("text/css; charset=utf-8"),
        Some("js") => Ok("text/javascript; charset=utf-8"),
        Some("svg") => Ok("image/svg+xml"),
        _ => Err(io::Error::other(format!("assets/page/{name}: no media type is known for it"))),
    }
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressed = Vec::new();
    let parameters = BrotliEncoderParams { quality: 11, lgwin: 22, ..BrotliEncoderParams::default() };
    brotli::BrotliCompress(&mut &bytes[..], &mut compressed, &parameters)?;
    Ok(compressed)
}

/// The first half of a hash, which is enough to tell contents apart.
fn hex(hash: &[u8]) -> String {
    hash.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
