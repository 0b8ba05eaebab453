//! The bearer token that a server may ask for.

use std::path::Path;

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

use super::error::ServeError;

/// Bytes of a token at most.
const LONGEST: usize = 4096;

/// A token; never printed.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// A token from the text of `whence`, a file or a variable; white space around it is not part of it.
    ///
    /// # Errors
    /// When it is empty, too long or holds other characters than visible ASCII.
    pub fn new(text: &str, whence: &str) -> Result<Self, ServeError> {
        let token = text.trim_ascii();
        let problem = match token.len() {
            0 => "the token is empty".to_string(),
            1..=LONGEST => match token.bytes().position(|byte| !byte.is_ascii_graphic()) {
                None => return Ok(Self(token.as_bytes().into())),
                Some(place) => format!("character {} of the token is not visible ASCII", place + 1),
            },
            length => format!("the token has {length} bytes"),
        };
        Err(ServeError::Token { whence: whence.to_string(), problem })
    }

    /// The token in a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no token.
    pub fn from_file(path: &Path) -> Result<Self, ServeError> {
        let whence = path.display().to_string();
        let text = std::fs::read_to_string(path);
        let text = text
            .map_err(|error| ServeError::Token { whence: whence.clone(), problem: format!("cannot read: {error}") })?;
        Self::new(&text, &whence)
    }

    /// Whether a request carries it. How long that takes tells nothing of where a wrong one differs.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
        let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.trim_ascii().ct_eq(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new(" s3cret\n", "KILN_TOKEN").expect("a token");
        let opens = |value: &str| {
            let value = HeaderValue::from_str(value).expect("a header");
            token.is_in(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
        };
        assert!(opens("Bearer s3cret") && opens("bearer  s3cret "));
        for wrong in
            ["Bearer s3cre", "Bearer s3cret2", "Bearer S3CRET", "Basic s3cret", "Bearer ", "Bearer", "s3cret", ""]
        {
            assert!(!opens(wrong), "{wrong}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn what_cannot_be_sent_is_no_token() {
        for (text, says) in
            [(" \n", "empty"), ("two words", "character 4"), ("gr\u{fc}n", "character 3"), (&"x".repeat(5000), "5000")]
        {
            let message = Token::new(text, "token.txt").expect_err("refused").to_string();
            assert!(message.contains(says) && message.contains("token.txt"), "{message}");
        }
        let missing = Token::from_file(Path::new("/no/such/token")).expect_err("refused").to_string();
        assert!(missing.contains("/no/such/token: cannot read"), "{missing}");
    }
}
