//! What a request says: names in its path, and its query.
//!
//! User names are bytes. In a path or query they are percent-encoded; in an answer they are text
//! where they are UTF-8, and percent-encoded where not.

use std::fmt::Display;
use std::str::FromStr;

use axum::http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::answers::Encoding;
use super::{MOST, Problem};

/// The part of a path behind so many slashes, decoded.
pub(super) fn segment(uri: &Uri, slashes: usize) -> Vec<u8> {
    let segment = uri.path().split('/').nth(slashes).unwrap_or_default();
    percent_decode(segment.as_bytes()).collect()
}

/// A name for a path or a query.
pub(crate) fn encoded(name: &[u8]) -> String {
    percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// A name for an answer; nothing of it is lost.
pub(super) fn text_of(name: &[u8]) -> (String, Encoding) {
    match std::str::from_utf8(name) {
        Ok(text) => (text.to_owned(), Encoding::Utf8),
        Err(_) => (encoded(name), Encoding::Percent),
    }
}

/// The name that an answer means.
pub(crate) fn bytes_of(text: &str, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Utf8 => text.as_bytes().to_vec(),
        Encoding::Percent => percent_decode(text.as_bytes()).collect(),
    }
}

/// A query, decoded.
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// # Errors
    ///
    /// A parameter that is not `known`, or is there twice: a misspelt filter would show everything.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters = Vec::<(String, Vec<u8>)>::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = String::from_utf8_lossy(&decoded(key)).into_owned();
            if !known.contains(&key.as_str()) {
                let known = if known.is_empty() { "none" } else { &known.join(", ") };
                return Err(Problem::bad_request(format!(
                    "the parameter {key:?} is unknown; there are: {known}"
                )));
            }
            if parameters.iter().any(|(other, _)| *other == key) {
                return Err(Problem::bad_request(format!("the parameter {key} is there twice")));
            }
            parameters.push((key, decoded(value)));
        }
        Ok(Self(parameters))
    }

    /// A parameter's bytes.
    pub(super) fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| &**value)
    }

    /// A parameter of some type.
    ///
    /// # Errors
    ///
    /// It is not of the type.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self, key: &str) -> Result<Option<T>, Problem> {
        let Some(bytes) = self.bytes(key) else { return Ok(None) };
        let text = String::from_utf8_lossy(bytes);
        let value = text.parse().map_err(|error| {
            Problem::bad_request(format!("{key}={}: {error}", text.escape_debug()))
        });
        value.map(Some)
    }

    /// How many elements are wanted.
    ///
    /// # Errors
    ///
    /// Not a number, none, or more than [`MOST`].
    pub(super) fn amount(&self, key: &str, usual: usize) -> Result<usize, Problem> {
        match self.parse(key)?.unwrap_or(usual) {
            amount if (1..=MOST).contains(&amount) => Ok(amount),
            amount => Err(Problem::bad_request(format!("{key}={amount}: write 1 to {MOST}"))),
        }
    }
}

/// As web forms encode it: a plus is a space.
fn decoded(text: &str) -> Vec<u8> {
    percent_decode(text.replace('+', " ").as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn every_name_survives_a_path_a_query_and_an_answer() {
        let all: Vec<u8> = (0..=255).collect();
        for name in [&b"alice"[..], "größe/../%2F? &=+".as_bytes(), b"..", b"\xff\xfe", &all] {
            let path = uri(&format!("/v1/users/{}/sessions", encoded(name)));
            assert_eq!(segment(&path, 3), name);
            let query = uri(&format!("/v1/sessions?user={}", encoded(name)));
            assert_eq!(Query::read(&query, &["user"]).unwrap().bytes("user"), Some(name));
            let (text, encoding) = text_of(name);
            assert_eq!(bytes_of(&text, encoding), name);
        }
        assert_eq!(text_of(b"%FF"), ("%FF".to_owned(), Encoding::Utf8));
        assert_eq!(text_of(b"\xff"), ("%FF".to_owned(), Encoding::Percent));
    }

    #[test]
    fn a_query_is_taken_at_its_word() {
        let read = |text: &str| Query::read(&uri(text), &["limit", "user"]);
        let error = |text: &str| read(text).map(drop).unwrap_err().detail;
        assert_eq!(read("/x?user=a+b%2Bc").unwrap().bytes("user"), Some(&b"a b+c"[..]));
        assert_eq!(read("/x?user").unwrap().bytes("user"), Some(&b""[..]));
        assert_eq!(read("/x").unwrap().bytes("user"), None);
        assert!(error("/x?usr=a").contains("\"usr\" is unknown; there are: limit, user"));
        assert!(error("/x?user=a&user=b").contains("twice"));
        let limit = |text: &str| read(text).unwrap().amount("limit", 7).map_err(|it| it.detail);
        assert_eq!(limit("/x"), Ok(7));
        assert_eq!(limit("/x?limit=1000"), Ok(1000));
        for wrong in ["0", "1001", "-1", "x", "", "99999999999999999999999"] {
            let error = limit(&format!("/x?limit={wrong}")).unwrap_err();
            assert!(error.starts_with(&format!("limit={wrong}: ")), "{error}");
        }
    }
}
