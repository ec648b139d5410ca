//! Things and devices to choose from, in pages.

use uuid::Uuid;

use super::{IdType, Source, SourceError, backend::CatalogBackend as _};
use crate::config::ThingTable;

/// The table that has the names of things.
#[derive(Debug, Clone)]
pub struct ThingNames {
    pub table: ThingTable,
    pub id_type: IdType,
}

/// A page of a list that is ordered by name and id.
#[derive(Debug, Clone)]
pub struct CatalogQuery {
    /// Only those whose name or id contains it, in upper or lower case.
    pub text: Option<String>,
    /// Only those after this one.
    pub after: Option<CatalogPosition>,
    pub limit: u32,
}

/// A place in a list that is ordered by name and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogPosition {
    /// The beginning of the name.
    pub sort: String,
    pub id: String,
}

/// A thing with its devices counted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ThingRow {
    pub id: String,
    pub name: Option<String>,
    pub sort: String,
    #[sqlx(try_from = "i64")]
    pub devices: u64,
}

/// A device of a thing.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeviceRow {
    pub id: String,
    pub name: Option<String>,
    pub sort: String,
}

/// The id of a list's row, if requests can name it: other ids than UUIDs in the form that is
/// compared are not found by a task either.
pub fn requestable(id: &str) -> Option<Uuid> {
    Uuid::try_parse(id).ok().filter(|uuid| uuid.to_string() == id)
}

impl Source {
    /// Lists things that have devices.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn things(&self, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError> {
        let list = async {
            let mapping = self.mapping().await?;
            match self.shared.catalog.things(&mapping, query).await {
                // A column's type may have changed.
                Err(SourceError::Rejected(_)) => {
                    let mapping = self.refresh_mapping(&mapping).await?;
                    self.shared.catalog.things(&mapping, query).await
                }
                listed => listed,
            }
        };
        let _permit = self.browsing_permit().await;
        self.with_timeout("listing things", self.shared.config.timeout_seconds, list).await
    }

    /// Lists devices of a thing.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn devices_of(&self, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError> {
        let list = async {
            let mapping = self.mapping().await?;
            match self.shared.catalog.devices_of(&mapping, thing, query).await {
                Err(SourceError::Rejected(_)) => {
                    let mapping = self.refresh_mapping(&mapping).await?;
                    self.shared.catalog.devices_of(&mapping, thing, query).await
                }
                listed => listed,
            }
        };
        let _permit = self.browsing_permit().await;
        self.with_timeout("listing devices", self.shared.config.timeout_seconds, list).await
    }
}
