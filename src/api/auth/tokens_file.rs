//! The file of named tokens, `server.tokens_file`: one `[[token]]` each, with `name`, `sha256` and
//! `role`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::DEFAULT_NAME;
use crate::protocol::{Identity, Role, Token};

const MAX_NAME_CHARS: usize = 64;
/// Each message's token is compared with all tokens.
const MAX_TOKENS: usize = 1_000;
const MAX_BYTES: u64 = 1 << 20;

const FIELDS: [&str; 3] = ["name", "sha256", "role"];
const ENTRY_EXPECTED: &str = "each token is a table [[token]] with name, sha256 and role";
const SHA256_EXPECTED: &str = "it must be 64 hexadecimal digits, as data-patch token prints them";
const ROLE_EXPECTED: &str = "it must be \"viewer\" or \"operator\"";

/// A token that the service accepts.
#[derive(Debug, Clone)]
pub struct NamedToken {
    pub identity: Identity,
    pub token: Token,
}

/// Why the file is refused. No value of the file is shown: it may be a token in the wrong place.
#[derive(Debug, thiserror::Error)]
pub enum TokensFileError {
    #[error("server.tokens_file: {} cannot be read: {source}; correct the path or the file's rights", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("server.tokens_file: {}, line {line}: {problem}", path.display())]
    Invalid { path: PathBuf, line: usize, problem: String },
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("has {0} characters; it must have 1 to {MAX_NAME_CHARS}")]
    Length(usize),
    #[error("has the character {0:?}; it may have letters, digits, '-', '_' and '.'")]
    Character(char),
    #[error("is \"{DEFAULT_NAME}\", the name of the token that the service is started with; choose another")]
    Reserved,
}

/// Checks the name of a token.
///
/// # Errors
/// It is empty or too long, has a character other than letters, digits, `-`, `_` and `.`, or is
/// reserved.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let chars = name.chars().count();
    if !(1..=MAX_NAME_CHARS).contains(&chars) {
        return Err(NameError::Length(chars));
    }
    if let Some(other) = name.chars().find(|c| !(c.is_alphanumeric() || ['-', '_', '.'].contains(c))) {
        return Err(NameError::Character(other));
    }
    if name == DEFAULT_NAME {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// The lines of a token in the file. The name must be valid.
pub fn entry(NamedToken { identity: Identity { name, role }, token }: &NamedToken) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\nrole = \"{role}\"\n", token.sha256())
}

/// Reads the file. Its tokens must differ from each other and from `others`.
///
/// # Errors
/// The file cannot be read, or the first problem in it.
pub fn read(path: &Path, others: &[NamedToken]) -> Result<Vec<NamedToken>, TokensFileError> {
    parse(path, &read_text(path)?, others)
}

/// Reads the text of the file.
///
/// # Errors
/// It cannot be read, is not a file, or is too large.
pub fn read_text(path: &Path) -> Result<String, TokensFileError> {
    let read = || {
        // A pipe would block here without end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut text = String::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes")));
        }
        Ok(text)
    };
    read().map_err(|source| TokensFileError::Read { path: path.to_owned(), source })
}

/// Parses the text of the file at `path`. Its tokens must differ from each other and from `others`.
///
/// # Errors
/// The first problem, with its line.
pub fn parse(path: &Path, text: &str, others: &[NamedToken]) -> Result<Vec<NamedToken>, TokensFileError> {
    tokens(text, others).map_err(|Problem { at, text: problem }| {
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        TokensFileError::Invalid { path: path.to_owned(), line, problem }
    })
}

/// A problem, and the byte at which it is.
struct Problem {
    at: usize,
    text: String,
}

impl Problem {
    fn new(at: usize, text: impl Into<String>) -> Self {
        Self { at, text: text.into() }
    }
}

fn tokens(text: &str, others: &[NamedToken]) -> Result<Vec<NamedToken>, Problem> {
    let file = DeTable::parse(text).map_err(|error| {
        Problem::new(error.span().map_or(0, |span| span.start), format!("it is not valid TOML: {}", error.message()))
    })?;
    if let Some((key, _)) = file.get_ref().iter().find(|(key, _)| key.get_ref() != "token") {
        return Err(Problem::new(key.span().start, format!("`{}` is not known here; {ENTRY_EXPECTED}", key.get_ref())));
    }
    let Some(list) = file.get_ref().get("token") else { return Ok(Vec::new()) };
    let Some(entries) = list.get_ref().as_array() else {
        return Err(Problem::new(list.span().start, format!("`token` is not a list; {ENTRY_EXPECTED}")));
    };
    let mut tokens: Vec<NamedToken> = Vec::with_capacity(entries.len());
    for entry in entries {
        let at = entry.span().start;
        if tokens.len() == MAX_TOKENS {
            return Err(Problem::new(at, format!("there are more than {MAX_TOKENS} tokens; remove some")));
        }
        let Some(table) = entry.get_ref().as_table() else {
            return Err(Problem::new(at, format!("`token` has an element that is not a table; {ENTRY_EXPECTED}")));
        };
        let token = token(table, at)?;
        let name = &token.identity.name;
        let mut known = others.iter().chain(&tokens);
        if tokens.iter().any(|other| other.identity.name == *name) {
            return Err(Problem::new(at, format!("there is another token with the name {name}; rename one of them")));
        }
        if let Some(other) = known.find(|other| other.token.is(&token.token)) {
            let problem = format!("the token {name} has the same sha256 as the token {}; make another", other.identity.name);
            return Err(Problem::new(at, problem));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// Reads one entry that begins at byte `at`.
fn token(table: &DeTable<'_>, at: usize) -> Result<NamedToken, Problem> {
    let field = |name: &str, label: &str, expected: &str| {
        let Some(value) = table.get(name) else {
            return Err(Problem::new(at, format!("{name} of {label} is missing; {expected}")));
        };
        match value.get_ref() {
            DeValue::String(text) => Ok((text.as_ref().to_owned(), value.span().start)),
            _ => Err(Problem::new(value.span().start, format!("{name} of {label} is not a string; {expected}"))),
        }
    };
    let (name, name_at) = field("name", "a token", "give each token a name of its own")?;
    check_name(&name).map_err(|error| Problem::new(name_at, format!("name {error}")))?;
    let label = format!("the token {name}");
    if let Some((key, _)) = table.iter().find(|(key, _)| !FIELDS.contains(&key.get_ref().as_ref())) {
        let problem = format!("`{}` of {label} is not known here; {ENTRY_EXPECTED}", key.get_ref());
        return Err(Problem::new(key.span().start, problem));
    }
    let (digest, digest_at) = field("sha256", &label, SHA256_EXPECTED)?;
    let token = Token::from_sha256(&digest)
        .ok_or_else(|| Problem::new(digest_at, format!("sha256 of {label} is not a digest; {SHA256_EXPECTED}")))?;
    let (role, role_at) = field("role", &label, ROLE_EXPECTED)?;
    let role = Role::ALL
        .into_iter()
        .find(|known| known.as_str() == role)
        .ok_or_else(|| Problem::new(role_at, format!("role of {label} is not known; {ROLE_EXPECTED}")))?;
    Ok(NamedToken { identity: Identity::new(name, role), token })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, token: &str, role: Role) -> NamedToken {
        NamedToken { identity: Identity::new(name, role), token: Token::new(token) }
    }

    fn problem(text: &str) -> String {
        let others = [named(DEFAULT_NAME, "123456", Role::Operator)];
        parse(Path::new("tokens.toml"), text, &others).expect_err(text).to_string()
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        let written = [named("night-duty", "one", Role::Operator), named("值班_2.b", "two", Role::Viewer)];
        let entries: Vec<_> = written.iter().map(|token| format!("# A comment\n{}", entry(token))).collect();
        let text = entries.join("\n");
        let read = parse(Path::new("tokens.toml"), &text, &[]).unwrap();
        assert_eq!(read.len(), 2);
        for (written, read) in written.iter().zip(&read) {
            assert_eq!(written.identity, read.identity);
            assert!(written.token.is(&read.token));
        }
        assert!(parse(Path::new("tokens.toml"), "# none yet\n", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_problem_names_file_line_entry_and_remedy() {
        let digest = Token::new("one").sha256();
        let entry =
            |name: &str, sha256: &str, role: &str| format!("[[token]]\nname = {name}\nsha256 = {sha256}\nrole = {role}\n");
        let good = entry("\"a\"", &format!("\"{digest}\""), "\"viewer\"");
        let with_name = |name: &str| entry(name, &format!("\"{digest}\""), "\"viewer\"");
        for (text, line, expected) in [
            ("[[token]\n".to_owned(), 1, "it is not valid TOML"),
            (format!("{good}\nname = \"again\"\n"), 6, "it is not valid TOML"),
            ("[[tokens]]\nname = \"a\"\n".to_owned(), 1, "`tokens` is not known here; each token is a table [[token]]"),
            ("[token]\nname = \"a\"\n".to_owned(), 1, "`token` is not a list; each token is a table [[token]]"),
            ("token = [\"S3CRET\"]\n".to_owned(), 1, "`token` has an element that is not a table"),
            (format!("{good}[[token]]\nsha256 = \"{digest}\"\n"), 5, "name of a token is missing"),
            (with_name("5"), 2, "name of a token is not a string"),
            (with_name("\"\""), 2, "name has 0 characters; it must have 1 to 64"),
            (with_name(&format!("\"{}\"", "名".repeat(65))), 2, "name has 65 characters"),
            (with_name("\"S3CRET duty\""), 2, "name has the character ' '; it may have letters"),
            (with_name("\"default\""), 2, "name is \"default\", the name of the token that the service is started with"),
            (good.replace("role", "roll"), 4, "`roll` of the token a is not known here"),
            (entry("\"a\"", "\"S3CRET\"", "\"viewer\""), 3, "sha256 of the token a is not a digest; it must be 64"),
            (entry("\"a\"", "[\"S3CRET\"]", "\"viewer\""), 3, "sha256 of the token a is not a string"),
            (
                entry("\"a\"", &format!("\"{digest}\""), "\"admin\""),
                4,
                "role of the token a is not known; it must be \"viewer\" or",
            ),
            (good.replace("role = \"viewer\"\n", ""), 1, "role of the token a is missing; it must be"),
            (format!("{good}\n{good}"), 6, "there is another token with the name a; rename one"),
            (format!("{good}\n{}", with_name("\"b\"")), 6, "the token b has the same sha256 as the token a"),
            (
                entry("\"a\"", &format!("\"{}\"", Token::new("123456").sha256()), "\"viewer\""),
                1,
                "the token a has the same sha256 as the token default",
            ),
        ] {
            let problem = problem(&text);
            let place = format!("server.tokens_file: tokens.toml, line {line}: ");
            assert!(problem.starts_with(&format!("{place}{expected}")), "{text}\n{problem}");
            assert!(!problem.contains("S3CRET"), "{problem}");
        }
    }

    #[test]
    fn what_is_not_a_small_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        for (expected, prepare) in [("No such file", None), ("more than 1048576 bytes", Some("#".repeat(1 + MAX_BYTES as usize)))]
        {
            if let Some(text) = prepare {
                std::fs::write(&path, text).unwrap();
            }
            let error = read(&path, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read(folder.path(), &[]).unwrap_err().to_string().contains("it is not a file"));
    }
}
