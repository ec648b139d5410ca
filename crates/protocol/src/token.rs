//! Tokens: compared in constant time and never printed; whose they are, and what they permit.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

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

    /// Reads the digest of a token: 64 hexadecimal digits, in any case.
    ///
    /// ```
    /// use data_patch_protocol::Token;
    ///
    /// let token = Token::from_sha256("8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92");
    /// assert!(token.is_some_and(|token| token.matches("123456")));
    /// assert!(Token::from_sha256("123456").is_none());
    /// ```
    pub fn from_sha256(hex: &str) -> Option<Self> {
        let mut digest = [0; 32];
        if hex.len() != 2 * digest.len() {
            return None;
        }
        for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let mut digits = pair.iter().map(|digit| char::from(*digit).to_digit(16));
            *byte = u8::try_from(digits.try_fold(0, |value, digit| Some(value * 16 + digit?))?).ok()?;
        }
        Some(Self(digest))
    }

    /// The digest as 64 hexadecimal digits. From the digest of a token that can be guessed, the
    /// token can be found.
    pub fn sha256(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Whether `candidate` is the token. Takes the same time for every wrong candidate.
    pub fn matches(&self, candidate: &str) -> bool {
        self.is(&Self::new(candidate))
    }

    /// Whether both are the same token. Takes the same time for all.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The position of this token in a list. All of the list is compared, so the time depends only
    /// on its length.
    pub fn position<'a>(&self, list: impl IntoIterator<Item = &'a Self>) -> Option<usize> {
        let mut found = u64::MAX;
        for (index, token) in (0_u64..).zip(list) {
            found.conditional_assign(&index, self.0.ct_eq(&token.0));
        }
        (found != u64::MAX).then(|| usize::try_from(found).ok())?
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Whose token a message has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the token, which is not secret.
    pub name: Arc<str>,
    pub role: Role,
}

impl Identity {
    /// ```
    /// use data_patch_protocol::{Identity, Role};
    ///
    /// assert_eq!(&*Identity::new("night-duty", Role::Operator).name, "night-duty");
    /// ```
    pub fn new(name: impl Into<Arc<str>>, role: Role) -> Self {
        Self { name: name.into(), role }
    }
}

/// What the holder of a token may do. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Read, submit and steer.
    Operator,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Viewer, Self::Operator];

    /// The name in messages and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let token = Token::new("补数据");
        assert!(Token::from_sha256(&token.sha256()).unwrap().matches("补数据"));
        assert!(Token::from_sha256(&token.sha256().to_uppercase()).unwrap().matches("补数据"));
        for wrong in ["", "8d", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32), &"0".repeat(63), &"0".repeat(65)] {
            assert!(Token::from_sha256(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_found_wherever_it_is_in_a_list() {
        let list = ["a", "b", "c"].map(Token::new);
        let position = |token| Token::new(token).position(&list);
        assert_eq!(["a", "b", "c", "d"].map(position), [Some(0), Some(1), Some(2), None]);
        assert_eq!(Token::new("a").position([]), None);
    }
}
