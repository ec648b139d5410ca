//! The service's token: compared in constant time and never printed.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Only the SHA-256 digest is kept, so the time of a comparison does not depend on the length, and
/// the token cannot be printed.
///
/// ```
/// let token = data_patch_protocol::Token::new("123456");
/// assert!(token.matches("123456") && !token.matches("12345"));
/// assert_eq!(format!("{token:?}"), "Token(…)");
/// ```
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Hashes a token.
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether `candidate` is the token. Takes the same time for every wrong candidate.
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.ct_eq(&Self::new(candidate).0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
