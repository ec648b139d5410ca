//! `data-patch token`.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use console::Term;
use serde_json::json;

use super::{TokenArgs, out};
use crate::{
    api::auth::{self, NameError, NamedToken},
    protocol::{Identity, Role, Token},
};

/// A token with fewer characters may be found from its digest by trying all.
const MIN_SAFE_CHARS: usize = 20;

/// Parses the name of a token.
pub fn name(text: &str) -> Result<String, NameError> {
    auth::check_name(text).map(|()| text.to_owned())
}

/// Parses a role.
pub fn role(text: &str) -> Result<Role, &'static str> {
    Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or("it must be viewer or operator")
}

/// Makes a token. It alone goes to standard output, so that a pipe or file gets nothing else.
pub fn new(TokenArgs { name, role, json }: TokenArgs) -> anyhow::Result<ExitCode> {
    let token = random_token()?;
    let named = NamedToken { identity: Identity::new(name, role), token: Token::new(&token) };
    if json {
        return print_json(&named, Some(&token));
    }
    let mut messages = io::stderr().lock();
    writeln!(messages, "The token, shown only now; give it to who will use it:")?;
    out::line(&token)?;
    write!(messages, "\nIts lines for the file of server.tokens_file:\n{}", auth::entry(&named))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the lines of a token that is read from standard input.
pub fn hash(TokenArgs { name, role, json }: TokenArgs) -> anyhow::Result<ExitCode> {
    let token = read_token()?;
    anyhow::ensure!(!token.is_empty(), "the token is empty; give it on the first line of standard input");
    if token.chars().count() < MIN_SAFE_CHARS {
        let _ = writeln!(
            io::stderr(),
            "data-patch: the token is short: anyone who reads the file can find it by trying; `data-patch token new` makes a longer one"
        );
    }
    let named = NamedToken { identity: Identity::new(name, role), token: Token::new(&token) };
    if json {
        return print_json(&named, None);
    }
    // The first line break ends a last line that has none, where this is appended to a file.
    out::line(&format!("\n{}", auth::entry(&named).trim_end()))?;
    Ok(ExitCode::SUCCESS)
}

fn print_json(
    NamedToken { identity: Identity { name, role }, token: digest }: &NamedToken,
    token: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let mut object = json!({ "name": &**name, "role": role, "sha256": digest.sha256() });
    if let (Some(token), Some(fields)) = (token, object.as_object_mut()) {
        fields.insert("token".to_owned(), token.into());
    }
    out::line(&object.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// 32 bytes from the system's random source, in base64url.
fn random_token() -> anyhow::Result<String> {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).context("the system has no random bytes")?;
        let token = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        // Programs would take a `-` for a flag: `--token -Ab…`.
        if !token.starts_with('-') {
            return Ok(token);
        }
    }
}

/// The first line of standard input; on a terminal it is asked for, without echo.
fn read_token() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        return ask();
    }
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("standard input cannot be read")?;
    Ok(line.trim().to_owned())
}

/// Asks for a token on the terminal, without echo.
pub fn ask() -> anyhow::Result<String> {
    let terminal = Term::stderr();
    terminal.write_str("token (not shown): ")?;
    Ok(terminal.read_secure_line()?.trim().to_owned())
}
