//! The endpoints of things and devices.

use uuid::Uuid;
use warp::{http::StatusCode, reply::Response};

use super::{ApiError, Call, json, tasks::CURSOR};
use crate::service::CatalogFilter;

const MAX_TEXT_CHARS: usize = 100;

impl Call<'_> {
    /// `GET /things`
    pub async fn things(&self) -> Result<Response, ApiError> {
        Ok(json(StatusCode::OK, &self.state.catalog.things(self.catalog_filter()?).await?))
    }

    /// `GET /things/{id}/devices`
    pub async fn devices(&self, thing: Uuid) -> Result<Response, ApiError> {
        Ok(json(StatusCode::OK, &self.state.catalog.devices(thing, self.catalog_filter()?).await?))
    }

    fn catalog_filter(&self) -> Result<CatalogFilter, ApiError> {
        self.query.check(&["q", "cursor", "limit"])?;
        let text = self.query.one("q")?.map(str::trim).filter(|text| !text.is_empty());
        if let Some(text) = text.filter(|text| text.chars().count() > MAX_TEXT_CHARS || text.contains('\0')) {
            let expected =
                format!("it must be a part of a name or of an id: at most {MAX_TEXT_CHARS} characters, none of them NUL");
            return Err(ApiError::invalid("q", text, &expected));
        }
        let after = self.query.parsed("cursor", CURSOR)?;
        Ok(CatalogFilter { text: text.map(str::to_owned), after, limit: self.query.limit()? })
    }
}
