//! Who a client is: the tokens that are accepted, and the check of an HTTP request's token.

mod tokens;
mod tokens_file;

use std::{net::IpAddr, time::Duration};

use warp::http::{HeaderMap, header};

use super::LoginThrottle;
use crate::protocol::Identity;

pub use tokens::Tokens;
pub use tokens_file::{NameError, NamedToken, TokensFileError, check_name, entry, read as read_tokens_file};

pub use crate::service::DEFAULT_TOKEN as DEFAULT_NAME;

/// Why an HTTP request is not authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("the token is missing; send the header Authorization: Bearer <token>")]
    Missing,
    #[error("the header Authorization is malformed; send it once, as Authorization: Bearer <token>")]
    Malformed,
    #[error("the token is wrong; it is the one that the service was started with, or one of its named tokens")]
    Wrong,
}

/// Finds out whose token a request has (RFC 6750, section 2.1). A valid token is answered at once;
/// the answer to a wrong one is delayed, longer for each from its address. Also returns the token.
///
/// # Errors
/// The request has no valid token.
pub async fn authenticate(
    headers: &HeaderMap,
    address: IpAddr,
    tokens: &Tokens,
    throttle: &LoginThrottle,
) -> Result<(Identity, String), AuthError> {
    let candidate = bearer(headers)?;
    if let Some(identity) = tokens.authenticate(candidate) {
        return Ok((identity, candidate.to_owned()));
    }
    tokio::time::sleep(wrong_token(throttle, address)).await;
    Err(AuthError::Wrong)
}

/// Counts and logs a wrong token; returns the delay of its answer.
pub fn wrong_token(throttle: &LoginThrottle, address: IpAddr) -> Duration {
    let failure = throttle.record_failure(address);
    if failure.should_log() {
        tracing::warn!(%address, times = failure.attempts, "wrong tokens from an address");
    }
    failure.delay
}

/// The token in `Authorization`. It may have any character, as the token of the start parameter may.
fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    if values.next().is_some() {
        return Err(AuthError::Malformed);
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| AuthError::Malformed)?;
    let (scheme, token) = text.trim().split_once(' ').ok_or(AuthError::Malformed)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthError::Malformed);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::protocol::{Role, Token};

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn the_token_is_what_follows_bearer() {
        for (values, expected) in [
            (&["Bearer 123456"][..], Ok("123456")),
            (&["bearer   a b "], Ok("a b")),
            (&["Bearer 补数据"], Ok("补数据")),
            (&[], Err(AuthError::Missing)),
            (&[""], Err(AuthError::Malformed)),
            (&["123456"], Err(AuthError::Malformed)),
            (&["Bearer "], Err(AuthError::Malformed)),
            (&["Basic MTIzNDU2"], Err(AuthError::Malformed)),
            (&["Bearer 123456", "Bearer 123456"], Err(AuthError::Malformed)),
        ] {
            assert_eq!(bearer(&headers(values)), expected, "{values:?}");
        }
    }

    #[tokio::test]
    async fn only_wrong_tokens_are_delayed() {
        let tokens = Tokens::load(Token::new("123456"), None).unwrap();
        let (throttle, address) = (LoginThrottle::default(), "192.0.2.1".parse().unwrap());
        let ask = async |value: &str| {
            let start = Instant::now();
            let identity = authenticate(&headers(&[value]), address, &tokens, &throttle).await.map(|(identity, _)| identity);
            (identity, start.elapsed())
        };
        let (first, second) = (ask("Bearer 12345").await, ask("Bearer 12345").await);
        assert_eq!((&first.0, &second.0), (&Err(AuthError::Wrong), &Err(AuthError::Wrong)));
        assert!(first.1 >= Duration::from_millis(100) && second.1 >= Duration::from_millis(200), "{first:?}, {second:?}");
        assert_eq!(ask("Bearer 123456").await.0, Ok(Identity::new(DEFAULT_NAME, Role::Operator)));
        // Neither of these counts as a wrong token.
        assert_eq!((ask("Basic x").await.0, ask("").await.0), (Err(AuthError::Malformed), Err(AuthError::Malformed)));
        assert_eq!(throttle.record_failure(address).attempts, 3);
    }
}
