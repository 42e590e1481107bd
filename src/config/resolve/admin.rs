//! The admin API: where it is served and what its clients must show.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use toml::Spanned;

use super::Checks;
use super::network::overlap;
use crate::config::raw::RawAdmin;
use crate::config::{Admin, AdminListen, Listen, Secret, Transport};

/// What the kernel's `sockaddr_un` holds, without the byte that ends it.
const MAX_SOCKET_PATH_BYTES: usize = 107;

impl Checks<'_> {
    pub(super) fn admin(
        &mut self,
        raw: &RawAdmin,
        listeners: &[Spanned<Listen>],
        metrics: Option<SocketAddr>,
    ) -> Admin {
        let token = self.admin_token(raw);
        let Some(listen) = &raw.listen else { return Admin { listen: None, token } };
        let Some(path) = listen.get_ref().strip_prefix("unix:") else {
            let address = self.admin_address(listen, listeners, metrics);
            let has_token = raw.token.is_some() || raw.token_file.is_some();
            if let Some(address) = address {
                self.admin_over_tcp(listen, address, has_token);
            }
            return Admin { listen: address.map(AdminListen::Tcp), token };
        };
        let path = self.beside_file(Path::new(path));
        let bytes = path.as_os_str().as_bytes();
        if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.contains(&0) {
            self.error(
                listen.span(),
                "does not name a socket; write for example \"unix:/run/turnway/admin.sock\"",
            );
        } else if bytes.len() > MAX_SOCKET_PATH_BYTES {
            self.error(
                listen.span(),
                format!(
                    "{} has {} bytes; the path of a socket has at most {MAX_SOCKET_PATH_BYTES}",
                    path.display(),
                    bytes.len()
                ),
            );
        }
        Admin { listen: Some(AdminListen::Unix(path)), token }
    }

    fn admin_address(
        &mut self,
        raw: &Spanned<String>,
        listeners: &[Spanned<Listen>],
        metrics: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let text = raw.get_ref();
        if text.starts_with(['/', '.']) || text.ends_with(".sock") {
            self.error(
                raw.span(),
                format!("\"{text}\" looks like a path; write \"unix:{text}\" for a socket"),
            );
            return None;
        }
        let address = self.socket_address(raw, 9642)?;
        let admin = Listen::new(Transport::Tcp, address);
        let others = listeners.iter().map(|other| (other.get_ref().clone(), "the TCP listener"));
        let metrics = metrics.map(|address| Listen::new(Transport::Tcp, address));
        let mut others = others.chain(metrics.map(|metrics| (metrics, "[metrics] listen =")));
        if let Some((other, what)) = others.find(|(other, _)| overlap(other, &admin)) {
            let other = other.address;
            self.error(
                raw.span(),
                format!("{address} is already covered by {what} {other}; change one port"),
            );
        }
        Some(address)
    }

    fn admin_over_tcp(&mut self, raw: &Spanned<String>, address: SocketAddr, has_token: bool) {
        if !has_token {
            self.error(
                raw.span(),
                format!(
                    "{address} without a token is open to every program that reaches it; add a \
                     `token` to [admin] (`openssl rand -base64 32` prints a good one), or listen \
                     on \"unix:/run/turnway/admin.sock\""
                ),
            );
        } else if !address.ip().is_loopback() {
            self.warn(
                raw.span(),
                format!(
                    "the token travels in the clear to {address}; listen on \"127.0.0.1:{}\", \
                     behind a proxy that speaks TLS",
                    address.port()
                ),
            );
        }
    }

    fn admin_token(&mut self, raw: &RawAdmin) -> Option<Secret> {
        let (span, token) = match (&raw.token, &raw.token_file) {
            (Some(_), Some(file)) => {
                self.error(file.span(), "`token` and `token_file` are both there; remove one");
                return None;
            }
            (Some(token), None) => (token.span(), token.get_ref().clone()),
            (None, Some(file)) => (file.span(), self.one_secret_file(file)?),
            (None, None) => return None,
        };
        self.strength(span.clone(), &token);
        if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            self.error(
                span,
                "the token contains spaces or other characters that an HTTP header cannot carry; \
                 `openssl rand -base64 32` prints a good one",
            );
        }
        Some(token)
    }
}
