//! The options of a store of readings that is not the database of things and devices.

use std::path::PathBuf;

use hyper::Uri;
use serde::Deserialize;

use super::{Secret, SecretUrl, path_or_none};

/// An Elasticsearch or OpenSearch that has the readings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readings {
    /// Empty: the readings are in the database of `iota.url`.
    pub url: SecretUrl,
    pub device: String,
    pub time: String,
    pub settle_seconds: u32,
    pub username: String,
    pub password: Secret,
    pub api_key: Secret,
    pub bearer_token: Secret,
    #[serde(deserialize_with = "path_or_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "path_or_none")]
    pub client_certificate_file: Option<PathBuf>,
    pub verify_certificates: bool,
}

/// A parsed `iota.readings.url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadingsUrl {
    /// The URL of each node, without a slash at its end.
    pub nodes: Vec<String>,
    /// Index, alias, data stream or pattern; several are separated by commas.
    pub index: String,
    /// User and password, if the URL has them.
    pub credentials: Option<(String, Secret)>,
}

impl Readings {
    /// Whether the readings are in another store than things and devices.
    pub fn is_configured(&self) -> bool {
        !self.url.reveal().is_empty()
    }

    /// How clients prove who they are; at most one of the ways may be configured.
    pub fn has_one_credential_at_most(&self, url: &ReadingsUrl) -> bool {
        let given = [
            url.credentials.is_some(),
            !self.username.is_empty() || !self.password.reveal().is_empty(),
            !self.api_key.reveal().is_empty(),
            !self.bearer_token.reveal().is_empty(),
        ];
        given.into_iter().filter(|given| *given).count() <= 1
    }
}

impl ReadingsUrl {
    const DEFAULT_PORT: u16 = 9_200;

    /// Parses `https://host1:9200,host2:9200/index`. A path before the index is kept for proxies.
    ///
    /// # Errors
    /// What is wrong with it, without showing it.
    pub fn parse(url: &SecretUrl) -> Result<Self, &'static str> {
        const SHAPE: &str = "must be like \"https://es1:9200,es2:9200/raw_data\"";
        let (scheme, rest) = url.reveal().split_once("://").ok_or(SHAPE)?;
        if !matches!(scheme, "http" | "https") {
            return Err("must begin with http:// or https://");
        }
        let (authority, path) = rest.split_once('/').ok_or("names no index; end it with one: \"https://es1:9200/raw_data\"")?;
        if path.contains(['?', '#', '"', '\\', '<', '>', '|', ' ']) {
            return Err("has a character that no index name has; other options of the store are in iota.readings");
        }
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(parse_credentials(credentials)?), hosts),
            None => (None, authority),
        };
        let (prefix, index) =
            path.rsplit_once('/').map_or((String::new(), path), |(prefix, index)| (format!("/{prefix}"), index));
        if index.is_empty() || index.split(',').any(str::is_empty) {
            return Err("names no index; end it with one: \"https://es1:9200/raw_data\"");
        }
        if index.starts_with('_') || index.split(',').any(|name| name.starts_with('-')) {
            return Err("names no index: names begin neither with _ nor with -");
        }
        let node = |host: &str| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let port = if has_port { String::new() } else { format!(":{}", Self::DEFAULT_PORT) };
            let node = format!("{scheme}://{host}{port}{prefix}");
            let parsed: Option<Uri> = node.parse().ok();
            parsed.is_some_and(|uri| uri.host().is_some_and(|host| !host.is_empty())).then_some(node).ok_or(SHAPE)
        };
        let nodes = hosts.split(',').map(node).collect::<Result<_, _>>()?;
        Ok(Self { nodes, index: index.to_owned(), credentials })
    }
}

fn parse_credentials(text: &str) -> Result<(String, Secret), &'static str> {
    let (user, password) = text.split_once(':').ok_or("has a user without a password; write user:password@host")?;
    let decoded = |text: &str| {
        let decoded: Vec<u8> = percent_decode(text).ok_or("has a % that begins no two hexadecimal digits; write % as %25")?;
        String::from_utf8(decoded).map_err(|_| "has a user or password that is not UTF-8")
    };
    Ok((decoded(user)?, Secret::new(decoded(password)?)))
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<ReadingsUrl, &'static str> {
        ReadingsUrl::parse(&SecretUrl::new(url))
    }

    #[test]
    fn nodes_and_index_are_read() {
        let url = parse("https://es1,es2:9201,[::1]:9202/raw_data").unwrap();
        assert_eq!(url.nodes, ["https://es1:9200", "https://es2:9201", "https://[::1]:9202"]);
        assert_eq!((url.index.as_str(), &url.credentials), ("raw_data", &None));
        let url = parse("http://gate/search/raw_data-2019,raw_data-20*").unwrap();
        assert_eq!(url.nodes, ["http://gate:9200/search"]);
        assert_eq!(url.index, "raw_data-2019,raw_data-20*");
    }

    #[test]
    fn a_password_may_hold_anything() {
        let url = parse("https://reader:p%40ss:w%25@es1/raw_data").unwrap();
        assert_eq!(url.credentials, Some(("reader".to_owned(), Secret::new("p@ss:w%"))));
        assert_eq!(url.nodes, ["https://es1:9200"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, problem) in [
            ("es1:9200/raw_data", "must be like"),
            ("ftp://es1/raw_data", "must begin with http://"),
            ("https://es1:9200", "names no index"),
            ("https://es1:9200/", "names no index"),
            ("https://es1:9200/_all", "names no index"),
            ("https://es1:9200/a,,b", "names no index"),
            ("https://,es2/raw_data", "must be like"),
            ("https://reader@es1/raw_data", "user without a password"),
            ("https://a:%zz@es1/raw_data", "begins no two hexadecimal digits"),
            ("https://es1/raw_data?routing=1", "no index name has"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(problem), "{url}: {error}");
        }
    }
}
