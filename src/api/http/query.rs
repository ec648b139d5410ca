//! The parameters of a request, and the preferences in its headers.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use warp::http::{HeaderMap, header};

use super::ApiError;
use crate::{
    protocol::{
        http::{DEFAULT_LIMIT, MAX_LIMIT},
        time::{self, Bound},
    },
    task::Language,
};

/// The parameters of a request's URL.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// Checks that every parameter is known: a misspelt filter must not show everything.
    ///
    /// # Errors
    /// One is not.
    pub fn check(&self, known: &[&str]) -> Result<(), ApiError> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) else { return Ok(()) };
        let shown: String = name.chars().take(60).collect();
        let detail = if known.is_empty() {
            format!("{shown:?} is not known here; this endpoint has no parameters")
        } else {
            format!("{shown:?} is not known here; known are {}", known.join(", "))
        };
        Err(ApiError::unknown_parameter(detail, name))
    }

    /// The values of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// It is given more often.
    pub fn one(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(second) => Err(ApiError::invalid(name, second, "it is given more than once; give it once")),
            None => Ok(first),
        }
    }

    /// A parameter of a type that is read from text.
    ///
    /// # Errors
    /// It is malformed, or given more than once.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::invalid(name, text, expected))
    }

    /// The values of a repeatable parameter of a type that is read from text.
    ///
    /// # Errors
    /// One of them is malformed.
    pub fn parsed_all<T: FromStr>(&self, name: &str, expected: &str) -> Result<Vec<T>, ApiError> {
        self.all(name).map(|text| text.parse().map_err(|_| ApiError::invalid(name, text, expected))).collect()
    }

    /// The number of items of a page.
    ///
    /// # Errors
    /// It is not from 1 to [`MAX_LIMIT`].
    pub fn limit(&self) -> Result<u32, ApiError> {
        let expected = format!("it must be a number from 1 to {MAX_LIMIT}");
        match self.parsed("limit", &expected)? {
            None => Ok(DEFAULT_LIMIT),
            Some(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            Some(limit) => Err(ApiError::invalid("limit", &limit.to_string(), &expected)),
        }
    }

    /// A time, in the forms that requests have.
    ///
    /// # Errors
    /// It has another form, or is given more than once.
    pub fn time(&self, name: &str, zone: Tz, bound: Bound) -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        time::parse(text, zone, bound).map(|time| Some(time.to_utc())).map_err(|_| ApiError::invalid(name, text, time::ACCEPTED))
    }
}

/// The language that a client prefers: Chinese if it names it before English.
pub fn language(headers: &HeaderMap) -> Language {
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let quality = |prefix: &str| {
        let weight = |part: &str| {
            let mut fields = part.split(';');
            let tag = fields.next()?.trim().to_ascii_lowercase();
            let quality = fields.find_map(|field| field.trim().strip_prefix("q=")?.trim().parse().ok()).unwrap_or(1.0);
            (tag == prefix || tag.starts_with(&format!("{prefix}-"))).then_some(quality)
        };
        accepted.split(',').filter_map(weight).fold(0.0, f32::max)
    };
    if quality("zh") > quality("en") { Language::Chinese } else { Language::English }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked_by_name_and_number() {
        let query = Query::parse("state=failed&state=cancelled&limit=7&q=%E6%B0%B4");
        assert_eq!(query.all("state").collect::<Vec<_>>(), ["failed", "cancelled"]);
        assert_eq!((query.limit().ok(), query.one("q").ok().flatten()), (Some(7), Some("水")));
        assert!(query.one("state").is_err() && query.check(&["state", "limit"]).is_err());
        assert!(query.check(&["state", "limit", "q"]).is_ok());
        for limit in ["0", "501", "-1", "x", "4294967296"] {
            assert!(Query::parse(&format!("limit={limit}")).limit().is_err(), "{limit}");
        }
    }

    #[test]
    fn the_language_is_the_one_that_weighs_more() {
        for (accepted, expected) in [
            ("", Language::English),
            ("zh-CN,zh;q=0.9,en;q=0.8", Language::Chinese),
            ("en-GB,zh;q=0.9", Language::English),
            ("zh", Language::Chinese),
            ("de,zh;q=0.1", Language::Chinese),
            ("zhx, *", Language::English),
        ] {
            let headers: HeaderMap = [(header::ACCEPT_LANGUAGE, accepted.parse().unwrap())].into_iter().collect();
            assert_eq!(language(&headers), expected, "{accepted}");
        }
    }
}
