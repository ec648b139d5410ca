//! Profiles: services and their tokens by name, in a file of the user.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::UsageError;
use crate::config::did_you_mean;

const KEYS: [&str; 3] = ["url", "token", "token_file"];

/// A service as a profile names it. Its token is not shown.
#[derive(Default)]
pub struct Profile {
    pub url: Option<String>,
    pub token: Option<String>,
    pub token_file: Option<PathBuf>,
}

/// The profile of this name, in the user's file.
///
/// # Errors
/// There is no such file or profile, it has a key that is not known, or others can read a token in
/// the file.
pub fn load(name: &str) -> Result<Profile, UsageError> {
    let folder = config_folder(|variable| std::env::var_os(variable).map(PathBuf::from)).ok_or_else(|| {
        UsageError("--profile needs HOME or XDG_CONFIG_HOME, which name the folder of profiles.toml".to_owned())
    })?;
    read(&folder.join("data-patch/profiles.toml"), name)
}

/// The user's folder of configuration, by the XDG Base Directory Specification: a relative path in
/// the variable is ignored.
fn config_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

fn read(path: &Path, name: &str) -> Result<Profile, UsageError> {
    let shown = path.display();
    let failed = |error: &dyn std::fmt::Display| UsageError(format!("the profiles in {shown} cannot be read: {error}"));
    let text = fs::read_to_string(path).map_err(|error| {
        let example = format!("[{name}]\nurl = \"https://iota.example.com\"\ntoken_file = \"/home/me/{name}.token\"");
        match error.kind() {
            std::io::ErrorKind::NotFound => UsageError(format!("there is no {shown}; make it, with lines like\n\n{example}")),
            _ => failed(&error),
        }
    })?;
    // The message and not the error itself, which quotes the line: it may have a token.
    let profiles: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
        failed(&format!("line {line}: {}", error.message()))
    })?;
    let has_token = profiles.values().any(|profile| profile.get("token").is_some());
    let mode = fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
    if has_token && mode & 0o077 != 0 {
        return Err(UsageError(format!(
            "{shown} has a token, and others can read it (mode {:03o}); run: chmod 600 {shown}   or name a token_file in it",
            mode & 0o777
        )));
    }
    let profile = match profiles.get(name) {
        Some(Value::Table(profile)) => profile,
        Some(_) => return Err(UsageError(format!("{name} in {shown} is no profile; a profile begins with [{name}]"))),
        None => {
            let known: Vec<_> = profiles.keys().cloned().collect();
            let meant = did_you_mean(name, &known);
            let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(UsageError(format!("there is no profile {name} in {shown}{meant} It has: {has}")));
        }
    };
    parse(name, profile, path)
}

fn parse(name: &str, profile: &Table, path: &Path) -> Result<Profile, UsageError> {
    let shown = path.display();
    if let Some(unknown) = profile.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let meant = did_you_mean(unknown, &KEYS.map(str::to_owned));
        let has = KEYS.join(", ");
        return Err(UsageError(format!("{name}.{unknown} in {shown} is no key of a profile{meant} It may have: {has}")));
    }
    let text = |key: &str| match profile.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // Its value is not shown: it may be a token.
        Some(value) => Err(UsageError(format!("{name}.{key} in {shown} is a {}; it must be a text", value.type_str()))),
    };
    let (token, token_file) = (text("token")?, text("token_file")?);
    if token.is_some() && token_file.is_some() {
        return Err(UsageError(format!("{name} in {shown} has both token and token_file; keep one")));
    }
    // Relative to the file that names it.
    let token_file = token_file.map(|file| path.parent().map_or_else(|| PathBuf::from(&file), |folder| folder.join(&file)));
    Ok(Profile { url: text("url")?, token, token_file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, mode: u32, name: &str) -> Result<Profile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiles.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let profile = read(&path, name).map_err(|error| error.0)?;
        let file = profile.token_file.map(|file| file.strip_prefix(folder.path()).map(Path::to_owned).unwrap_or(file));
        Ok(Profile { token_file: file, ..profile })
    }

    #[test]
    fn a_profile_has_a_service_and_its_token() {
        let text =
            "[site]\nurl = \"https://a\"\ntoken = \"s3cret\"\n[test]\ntoken_file = \"test.token\"\n[far]\ntoken_file = \"/x\"";
        let site = read_text(text, 0o600, "site").ok().unwrap();
        assert_eq!((site.url.as_deref(), site.token.as_deref(), site.token_file), (Some("https://a"), Some("s3cret"), None));
        let other = read_text(text, 0o600, "test").ok().unwrap();
        assert_eq!((other.url, other.token, other.token_file), (None, None, Some(PathBuf::from("test.token"))));
        assert_eq!(read_text(text, 0o600, "far").ok().unwrap().token_file, Some(PathBuf::from("/x")));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name_and_no_token_is_shown() {
        let token = "token = \"s3cret\"\n";
        for (text, mode, name, says) in [
            ("[site]\nurl = \"a\"", 0o600, "sites", &["no profile sites", "did you mean site?", "It has: site"][..]),
            ("", 0o600, "site", &["It has: none"]),
            ("site = 5", 0o600, "site", &["begins with [site]"]),
            (&format!("[site]\n{token}"), 0o644, "site", &["others can read it (mode 644)", "chmod 600"]),
            // The token of another profile is as readable.
            (&format!("[a]\n{token}[site]\nurl = \"a\""), 0o640, "site", &["mode 640"]),
            (&format!("[site]\n{token}tokenfile = \"x\""), 0o600, "site", &["site.tokenfile", "did you mean token_file?"]),
            (&format!("[site]\n{token}token_file = \"x\""), 0o600, "site", &["both token and token_file"]),
            ("[site]\ntoken = 4711", 0o600, "site", &["site.token", "is a integer"]),
            ("[site]\ntoken = \"s3cret", 0o600, "site", &["cannot be read: line 2"]),
        ] {
            let error = read_text(text, mode, name).err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(says.iter().all(|expected| error.contains(expected)), "{text}: {error}");
            assert!(!error.contains("s3cret") && !error.contains("4711"), "{error}");
        }
        assert!(read_text("[site]\nurl = \"a\"", 0o644, "site").is_ok(), "there is no token in it");
    }

    #[test]
    fn the_folder_is_that_of_the_xdg_specification() {
        let folder = |xdg: Option<&str>, home: Option<&str>| {
            config_folder(|name| if name == "HOME" { home } else { xdg }.map(PathBuf::from))
        };
        assert_eq!(folder(Some("/x"), Some("/home/me")), Some(PathBuf::from("/x")));
        assert_eq!(folder(Some("x"), Some("/home/me")), Some(PathBuf::from("/home/me/.config")));
        assert_eq!(folder(None, None), None);
    }
}
