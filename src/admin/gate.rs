//! Who may ask. Over TCP whoever shows the token; over the Unix socket whoever may open it, and the
//! mode of its file says who that is.
//!
//! A web page that a browser of this machine shows may send requests to loopback addresses, also
//! under a name of its own (DNS rebinding). It does not have the token and no browser adds one by
//! itself, so the Host header need not be looked at. No answer has CORS headers.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;

use super::Problem;
use crate::config::Secret;

/// The token that clients must show. A reload may change it.
#[derive(Debug)]
pub struct Token(RwLock<Option<Secret>>);

impl Token {
    /// `None`: there is none, and whoever shows one is refused.
    pub fn new(token: Option<Secret>) -> Self {
        Self(RwLock::new(token))
    }

    /// From now on this one.
    pub fn set(&self, token: Option<Secret>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Compares in constant time. The length of the token shows, and is no secret.
    fn is(&self, shown: &[u8]) -> bool {
        let token = self.0.read().unwrap_or_else(PoisonError::into_inner);
        token.as_ref().is_some_and(|token| token.expose().as_bytes().ct_eq(shown).into())
    }
}

/// What stands before the token (RFC 6750 section 2.1).
const SCHEME: &[u8] = b"Bearer ";

pub(super) struct Gate {
    pub(super) token: Arc<Token>,
    pub(super) required: bool,
}

impl Gate {
    /// # Errors
    ///
    /// What to do to be let in.
    fn check(&self, shown: Option<&HeaderValue>) -> Result<(), &'static str> {
        let Some(shown) = shown else {
            return match self.required {
                true => Err("send the token of [admin] as `Authorization: Bearer <token>`"),
                false => Ok(()),
            };
        };
        let token = match shown.as_bytes().split_at_checked(SCHEME.len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => token,
            Some(_) | None => return Err("write `Authorization: Bearer <token>`"),
        };
        match self.token.is(token) {
            true => Ok(()),
            false => Err("the token is not the one of [admin]"),
        }
    }
}

pub(super) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.check(request.headers().get(header::AUTHORIZATION)) {
        Ok(()) => next.run(request).await,
        Err(detail) => {
            let mut refused = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
            let challenge = HeaderValue::from_static("Bearer realm=\"turnway admin\"");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn check(token: Option<&str>, required: bool, shown: Option<&str>) -> bool {
        let token = Arc::new(Token::new(token.map(|token| Secret::new(token.to_owned()))));
        let shown = shown.map(|shown| HeaderValue::from_str(shown).unwrap());
        Gate { token, required }.check(shown.as_ref()).is_ok()
    }

    #[test]
    fn over_tcp_only_the_token_opens() {
        let shown = |shown: Option<&str>| check(Some(TOKEN), true, shown);
        assert!(shown(Some("Bearer 0123456789abcdef")));
        assert!(shown(Some("bearer 0123456789abcdef")));
        assert!(!shown(None));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer 1123456789abcdef",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!shown(Some(wrong)), "{wrong:?}");
        }
        assert!(!check(None, true, Some("Bearer ")), "no token is not the empty token");
    }

    #[test]
    fn over_the_socket_no_token_is_needed_but_a_wrong_one_is_refused() {
        assert!(check(None, false, None));
        assert!(check(Some(TOKEN), false, None));
        assert!(check(Some(TOKEN), false, Some("Bearer 0123456789abcdef")));
        assert!(!check(Some(TOKEN), false, Some("Bearer x")));
        assert!(!check(None, false, Some("Bearer 0123456789abcdef")));
    }

    #[test]
    fn a_new_token_replaces_the_old_one() {
        let token = Token::new(Some(Secret::new(TOKEN.to_owned())));
        token.set(Some(Secret::new("fedcba9876543210".to_owned())));
        assert!(!token.is(TOKEN.as_bytes()));
        assert!(token.is(b"fedcba9876543210"));
        assert!(!format!("{token:?}").contains("fedcba"));
    }
}
