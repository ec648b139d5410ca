//! Connection strings, and how they are shown without their secrets.

use std::fmt;

use serde::Deserialize;

/// Keys of a connection string's query, in lower case, whose values are not secret. The values of
/// all others are hidden.
const HARMLESS: [&str; 14] = [
    "application_name",
    "cache",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "immutable",
    "mode",
    "port",
    "ssl-mode",
    "sslmode",
    "statement-cache-capacity",
    "user",
    "vfs",
];

/// Headers of HTTP requests, `name=value` with commas between them. `Debug` shows their names only.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretHeaders(String);

impl SecretHeaders {
    /// Names and values. A part without `=` is a name with an empty value.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let parts = self.0.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').map_or((part, ""), |(name, value)| (name.trim(), value.trim())))
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.pairs().map(|(name, _)| name)).finish()
    }
}

/// A password or token. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"…\"" })
    }
}

/// A connection string. `Display` and `Debug` never show the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The complete string, to connect with.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `scheme:` is enough: a missing slash must not expose the rest.
        let scheme = self
            .0
            .split_once(':')
            .map_or(0, |(scheme, rest)| scheme.len() + 1 + rest.bytes().take_while(|byte| *byte == b'/').count());
        let (scheme, rest) = self.0.split_at_checked(scheme).unwrap_or(("", "…"));
        f.write_str(scheme)?;
        // A password may contain any character, so everything from the first `:` to the last `@`
        // counts as one.
        let rest = match rest.rsplit_once('@') {
            // Either the password contains `?` or `#`, or the query contains `@`: the secret's
            // bounds are unknown.
            Some((before, _)) if before.contains(['?', '#']) => return f.write_str("…"),
            Some((credentials, rest)) => {
                let (user, hidden) = credentials.split_once(':').map_or((credentials, ""), |(user, _)| (user, ":…"));
                write!(f, "{user}{hidden}@")?;
                rest
            }
            None => rest,
        };
        let Some(end) = rest.find(['?', '#']) else { return f.write_str(rest) };
        let (address, query) = rest.split_at_checked(end).unwrap_or(("", ""));
        let shown = query.strip_prefix('?').is_some_and(|query| query.split('&').all(is_harmless));
        if shown { f.write_str(rest) } else { write!(f, "{address}?…") }
    }
}

/// Whether a part of a query, `key=value`, may be shown. A key in an unusual spelling (`PASSWORD`,
/// `p%61ssword`) is not in the list, so it may not.
fn is_harmless(part: &str) -> bool {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    HARMLESS.contains(&key) && !value.contains(['#', ';', '?'])
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::SecretUrl;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("postgres://u:p@ss:w@h:5/db", "postgres://u:…@h:5/db"),
            ("postgres://u:pa?ss@h/db", "postgres://…"),
            ("postgres://u:pa/ss@h/db", "postgres://u:…@h/db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://h/db?user=u&password=secret", "postgres://h/db?…"),
            ("postgres://h/db?PASSWORD=secret", "postgres://h/db?…"),
            ("postgres://h/db?Password=secret", "postgres://h/db?…"),
            ("postgres://h/db?p%61ssword=secret", "postgres://h/db?…"),
            ("postgres://h/db?sslmode=require&p%61ssword=secret", "postgres://h/db?…"),
            ("postgres://h/db?sslkey=secret", "postgres://h/db?…"),
            ("postgres://h/db?sslpassword=secret", "postgres://h/db?…"),
            ("postgres://h/db?password=sec@ret", "postgres://…"),
            ("postgres://h:5/db?password=sec@ret", "postgres://…"),
            ("postgres://u:p@h/db?passfile=x@y", "postgres://…"),
            ("postgres://h/db?options=-c%20my.secret=x", "postgres://h/db?…"),
            ("postgres://h/db?mode=x;password=secret", "postgres://h/db?…"),
            ("postgres://h/db#secret", "postgres://h/db?…"),
            ("postgres:/u:secret@h/db", "postgres:/u:…@h/db"),
            ("postgres:u:secret@h/db", "postgres:u:…@h/db"),
            ("postgres://u@h/db?sslmode=require&application_name=x", "postgres://u@h/db?sslmode=require&application_name=x"),
            ("sqlite://data/queue.db?mode=rw", "sqlite://data/queue.db?mode=rw"),
            ("sqlite:data/queue.db", "sqlite:data/queue.db"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), format!("\"{shown}\""));
        }
    }

    /// `password`, each letter in any case or percent-encoded.
    fn key() -> impl Strategy<Value = String> {
        proptest::collection::vec(0..3, 8).prop_map(|ways| {
            "password"
                .chars()
                .zip(ways)
                .map(|(c, way)| match way {
                    0 => c.to_string(),
                    1 => c.to_uppercase().to_string(),
                    _ => format!("%{:02x}", c as u32),
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn nor_in_any_spelling_or_place(key in key(), before in "[a-z=&?@:/#%]{0,12}", after in "[a-z=&?@:/#%]{0,12}") {
            for url in [format!("postgres://h/{before}?{key}=S3CRET{after}"), format!("postgres://{before}:S3CRET{after}@h")] {
                prop_assert!(!SecretUrl::new(&*url).to_string().contains("S3CRET"), "{}: {}", url, SecretUrl::new(&*url));
            }
        }
    }
}
