//! The endpoint of previews.

use warp::reply::Response;

use super::{ApiError, Call};
use crate::protocol::Submit;

impl Call<'_> {
    /// `POST /previews`
    pub async fn preview(&self) -> Result<Response, ApiError> {
        self.query.check(&[])?;
        let submit = Submit::from_body(self.text()?, &self.secret, self.state.tasks.policy())?;
        let preview = self.state.previews.start(submit).await?;
        Ok(self.json_lines(|lines| preview.run(lines)))
    }
}
