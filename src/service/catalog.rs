//! Things and devices to choose from.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::view::part;
use crate::{
    protocol::{
        RequestError,
        http::{DeviceView, Page, ThingView},
    },
    source::{CatalogPosition, CatalogQuery, Source, SourceError, requestable},
};

/// Lists things and devices; clones are the same.
#[derive(Clone)]
pub struct Catalog {
    source: Source,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone)]
pub struct CatalogFilter {
    /// Only those whose name or id contains it.
    pub text: Option<String>,
    /// Only those after this one.
    pub after: Option<CatalogCursor>,
    pub limit: u32,
}

/// A place in a list, as clients send it back: opaque to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogCursor(CatalogPosition);

impl Catalog {
    pub fn new(source: Source) -> Self {
        Self { source }
    }

    /// Things that have devices, ordered by the beginning of their name and by id.
    ///
    /// # Errors
    /// The source cannot be read.
    pub async fn things(&self, filter: CatalogFilter) -> Result<Page<ThingView>, RequestError> {
        let limit = filter.limit;
        let rows = self.source.things(&query(filter)).await.map_err(|error| source_error(&error))?;
        let (rows, next) = part(rows, limit, |row| cursor(&row.sort, &row.id));
        let view = |row: crate::source::ThingRow| {
            let thing_id = requestable(&row.id)?;
            Some(ThingView { thing_id, name: row.name, devices: row.devices })
        };
        Ok(Page { items: rows.into_iter().filter_map(view).collect(), next })
    }

    /// Devices of a thing, in the same order; none if there is no such thing.
    ///
    /// # Errors
    /// The source cannot be read.
    pub async fn devices(&self, thing: Uuid, filter: CatalogFilter) -> Result<Page<DeviceView>, RequestError> {
        let limit = filter.limit;
        let rows = self.source.devices_of(thing, &query(filter)).await.map_err(|error| source_error(&error))?;
        let (rows, next) = part(rows, limit, |row| cursor(&row.sort, &row.id));
        let view = |row: crate::source::DeviceRow| Some(DeviceView { device_id: requestable(&row.id)?, name: row.name });
        Ok(Page { items: rows.into_iter().filter_map(view).collect(), next })
    }
}

/// One row more than the page has, to know whether there are more.
fn query(filter: CatalogFilter) -> CatalogQuery {
    let CatalogFilter { text, after, limit } = filter;
    CatalogQuery { text, after: after.map(|cursor| cursor.0), limit: limit.saturating_add(1) }
}

fn cursor(sort: &str, id: &str) -> String {
    CatalogCursor(CatalogPosition { sort: sort.to_owned(), id: id.to_owned() }).to_string()
}

impl fmt::Display for CatalogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(&(&self.0.sort, &self.0.id)).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for CatalogCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(drop)?;
        let (sort, id): (String, String) = serde_json::from_slice(&bytes).map_err(drop)?;
        // No text in PostgreSQL has this character, and no statement may.
        if sort.contains('\0') || id.contains('\0') {
            return Err(());
        }
        Ok(Self(CatalogPosition { sort, id }))
    }
}

/// An error of the source, for clients.
pub(super) fn source_error(error: &SourceError) -> RequestError {
    tracing::warn!(%error, "the IoTA source cannot be read: a request is rejected");
    RequestError::SourceUnavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for (sort, id) in [("", ""), ("静力水准仪06", "b34299aa-625e-4404-a580-fde1d7cbc3e8"), ("a\"b'c\\", "[]")] {
            let position = CatalogPosition { sort: sort.to_owned(), id: id.to_owned() };
            assert_eq!(cursor(sort, id).parse(), Ok(CatalogCursor(position)));
        }
        let nul = URL_SAFE_NO_PAD.encode("[\"\\u0000\",\"\"]");
        for text in ["", "x", "W10", "bnVsbA", nul.as_str()] {
            assert!(text.parse::<CatalogCursor>().is_err(), "{text}");
        }
    }
}
