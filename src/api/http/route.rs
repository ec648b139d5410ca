//! Which endpoint a path and a method mean.

use uuid::Uuid;
use warp::{
    Reply,
    http::{HeaderValue, Method, StatusCode, header},
    reply::Response,
};

use super::ApiError;
use crate::{queue::Steer, task::TaskId};

/// A path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Tasks,
    Task(TaskId),
    Jobs(TaskId),
    Events(TaskId),
    /// Cancel, pause or resume.
    Steer(TaskId, Steer),
    Retry(TaskId),
    Quarantine(TaskId),
    Receipt(TaskId),
    Verify(TaskId),
    Previews,
    Things,
    /// The devices of a thing.
    Devices(Uuid),
    Service,
    /// Drain an instance, or let it go on.
    Drain(Uuid, bool),
}

/// A path and a method of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Submit,
    List,
    Show(TaskId),
    SetRate(TaskId),
    Jobs(TaskId),
    Events(TaskId),
    Steer(TaskId, Steer),
    Retry(TaskId),
    Quarantine(TaskId),
    Receipt(TaskId),
    Verify(TaskId),
    Preview,
    Things,
    Devices(Uuid),
    Service,
    Drain(Uuid, bool),
}

impl Action {
    /// Whether the request has a body that means something.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Submit | Self::Preview | Self::SetRate(_) | Self::Retry(_))
    }
}

impl Route {
    /// The route of a path below the prefix.
    ///
    /// # Errors
    /// There is no such path, or an id in it is malformed.
    pub fn of(path: &str) -> Result<Self, ApiError> {
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let id = |text: &str| match Uuid::try_parse(text) {
            Ok(id) => Ok(TaskId(id)),
            Err(_) => Err(ApiError::task_id(text)),
        };
        let instance = |text: &str| Uuid::try_parse(text).map_err(|_| ApiError::instance_id(text));
        Ok(match segments.as_slice() {
            ["tasks"] => Self::Tasks,
            ["previews"] => Self::Previews,
            ["things"] => Self::Things,
            ["things", thing, "devices"] => Self::Devices(Uuid::try_parse(thing).map_err(|_| ApiError::thing_id(thing))?),
            ["service"] => Self::Service,
            ["instances", id, "drain"] => Self::Drain(instance(id)?, true),
            ["instances", id, "resume"] => Self::Drain(instance(id)?, false),
            ["tasks", task] => Self::Task(id(task)?),
            ["tasks", task, "jobs"] => Self::Jobs(id(task)?),
            ["tasks", task, "events"] => Self::Events(id(task)?),
            ["tasks", task, "cancel"] => Self::Steer(id(task)?, Steer::Cancel),
            ["tasks", task, "pause"] => Self::Steer(id(task)?, Steer::Pause),
            ["tasks", task, "resume"] => Self::Steer(id(task)?, Steer::Resume),
            ["tasks", task, "retry"] => Self::Retry(id(task)?),
            ["tasks", task, "quarantine"] => Self::Quarantine(id(task)?),
            ["tasks", task, "receipt"] => Self::Receipt(id(task)?),
            ["tasks", task, "verify"] => Self::Verify(id(task)?),
            _ => return Err(ApiError::unknown_path()),
        })
    }

    /// The methods of this path, for the header `Allow`.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Tasks => "GET, HEAD, POST, OPTIONS",
            Self::Task(_) => "GET, HEAD, PATCH, OPTIONS",
            Self::Steer(..) | Self::Retry(_) | Self::Verify(_) | Self::Previews | Self::Drain(..) => "POST, OPTIONS",
            Self::Jobs(_)
            | Self::Events(_)
            | Self::Quarantine(_)
            | Self::Receipt(_)
            | Self::Things
            | Self::Devices(_)
            | Self::Service => "GET, HEAD, OPTIONS",
        }
    }

    /// What a method means here.
    ///
    /// # Errors
    /// The path does not have this method.
    pub fn action(self, method: &Method) -> Result<Action, ApiError> {
        let reads = method == Method::GET || method == Method::HEAD;
        Ok(match self {
            Self::Tasks if reads => Action::List,
            Self::Tasks if method == Method::POST => Action::Submit,
            Self::Task(id) if reads => Action::Show(id),
            Self::Task(id) if method == Method::PATCH => Action::SetRate(id),
            Self::Jobs(id) if reads => Action::Jobs(id),
            Self::Events(id) if reads => Action::Events(id),
            Self::Quarantine(id) if reads => Action::Quarantine(id),
            Self::Receipt(id) if reads => Action::Receipt(id),
            Self::Verify(id) if method == Method::POST => Action::Verify(id),
            Self::Steer(id, steer) if method == Method::POST => Action::Steer(id, steer),
            Self::Retry(id) if method == Method::POST => Action::Retry(id),
            Self::Previews if method == Method::POST => Action::Preview,
            Self::Things if reads => Action::Things,
            Self::Devices(thing) if reads => Action::Devices(thing),
            Self::Service if reads => Action::Service,
            Self::Drain(id, drains) if method == Method::POST => Action::Drain(id, drains),
            _ => return Err(ApiError::method(method, self.allow())),
        })
    }

    /// The answer to OPTIONS.
    pub fn options(self) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(self.allow()));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_mean_actions() {
        let id = TaskId(Uuid::from_u128(7));
        let action = |path: &str, method: Method| Route::of(&path.replace("{id}", &id.to_string()))?.action(&method);
        for (path, method, expected) in [
            ("/tasks", Method::GET, Action::List),
            ("/tasks", Method::POST, Action::Submit),
            ("/tasks/{id}", Method::HEAD, Action::Show(id)),
            ("/tasks/{id}", Method::PATCH, Action::SetRate(id)),
            ("/tasks/{id}/pause", Method::POST, Action::Steer(id, Steer::Pause)),
            ("/tasks/{id}/events", Method::GET, Action::Events(id)),
            ("/tasks/{id}/receipt", Method::GET, Action::Receipt(id)),
            ("/tasks/{id}/verify", Method::POST, Action::Verify(id)),
            ("/previews", Method::POST, Action::Preview),
            ("/things", Method::GET, Action::Things),
            ("/things/{id}/devices", Method::GET, Action::Devices(id.0)),
            ("/service", Method::GET, Action::Service),
        ] {
            assert_eq!(action(path, method).ok(), Some(expected), "{path}");
        }
        for (path, method, status) in [
            ("/tasks", Method::DELETE, 405),
            ("/tasks/{id}/pause", Method::GET, 405),
            ("/previews", Method::GET, 405),
            ("/tasks/", Method::GET, 400),
            ("/tasks/x", Method::GET, 400),
            ("/things/x/devices", Method::GET, 400),
            ("/things/{id}", Method::GET, 404),
            ("/tasks/{id}/x", Method::GET, 404),
            ("", Method::GET, 404),
            ("/", Method::GET, 404),
        ] {
            assert_eq!(action(path, method).unwrap_err().status().as_u16(), status, "{path}");
        }
    }
}
