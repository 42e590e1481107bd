//! Time-limited credentials and the `iceServers` that browsers take.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use turnway_relay::auth::rest_password;

use crate::config::{Config, Listen, Secret, Transport};
use crate::run::machine;

/// A username and password that expire.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// `<unix expiry>:<name>`
    pub username: String,
    /// base64(HMAC-SHA1(secret, username)).
    pub password: Secret,
}

/// Why no credentials could be made; the text says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsError(String);

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CredentialsError {}

/// Seconds since 1970, as REST usernames count them.
#[must_use]
pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}

/// Makes credentials for `name` that expire at `expires_unix` (seconds since 1970).
///
/// # Errors
///
/// When the name is empty, has control characters, or makes a USERNAME of more than 508 bytes
/// (RFC 8489 section 14.3).
pub fn mint(
    secret: &Secret,
    separator: char,
    name: &str,
    expires_unix: u64,
) -> Result<Credentials, CredentialsError> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(CredentialsError(format!("{name:?} is not a name; give one, such as alice")));
    }
    let username = format!("{expires_unix}{separator}{name}");
    if username.len() > 508 {
        return Err(CredentialsError(format!(
            "the name has {} bytes; with the expiry before it, a username has at most 508",
            name.len()
        )));
    }
    let password = rest_password(secret.expose().as_bytes(), username.as_bytes());
    Ok(Credentials { username, password: Secret::new(password) })
}

/// The `turn:` and `turns:` URIs (RFC 7065) of a configuration's listeners, UDP first.
///
/// A listener's host is `host` if given, else its own address as peers know it, else (for
/// `0.0.0.0` and `[::]`) the first external relay address of its family, which is the default
/// route's where none is configured.
///
/// # Errors
///
/// When no host is known.
pub fn uris(config: &Config, host: Option<&str>) -> Result<Vec<String>, CredentialsError> {
    let host = host.map(check_host).transpose()?;
    let mut uris = Vec::new();
    for wanted in Way::ALL {
        for listener in config.listen.iter().filter(|listener| wanted.is_spoken(listener)) {
            let own = || public_address(config, listener.address).map(bracketed);
            let Some(host) = host.clone().or_else(own) else {
                continue;
            };
            let uri = uri(&host, listener.address.port(), wanted);
            if !uris.contains(&uri) {
                uris.push(uri);
            }
        }
    }
    if uris.is_empty() {
        return Err(CredentialsError(
            "the configuration does not say by which address clients reach the server; add \
             --host turn.example.org (or `addresses` to [relay])"
                .to_owned(),
        ));
    }
    Ok(uris)
}

/// The URIs of a server of which only the name is known: UDP and TCP on port 3478.
///
/// # Errors
///
/// When `host` is not a host name or address.
pub fn default_uris(host: &str) -> Result<Vec<String>, CredentialsError> {
    let host = check_host(host)?;
    Ok([Way::Udp, Way::Tcp].map(|way| uri(&host, 3478, way)).to_vec())
}

/// `{"iceServers": [...]}`, ready for `new RTCPeerConnection(...)`, indented.
#[must_use]
pub fn ice_servers(uris: &[String], credentials: &Credentials) -> String {
    let servers = IceServers {
        ice_servers: [IceServer {
            urls: uris,
            username: &credentials.username,
            credential: credentials.password.expose(),
        }],
    };
    serde_json::to_string_pretty(&servers).expect("strings are always valid JSON")
}

/// What `turnway serve` without a file prints: that it is a development server, and `iceServers`
/// to paste. `now_unix` is in seconds since 1970; the credentials are valid for a day.
///
/// # Errors
///
/// When `config` is not one of [`Config::development`].
pub fn development_text(config: &Config, now_unix: u64) -> Result<String, CredentialsError> {
    let secret = first_secret(config)?;
    let expires = now_unix.saturating_add(86_400);
    let credentials = mint(secret, config.auth.rest_separator, "dev", expires)?;
    let servers = ice_servers(&uris(config, None)?, &credentials);
    Ok(format!(
        "Turnway in development mode: this machine only, and peers on it only.\n\
         Paste into new RTCPeerConnection(...), valid for 24 hours or until Turnway stops:\n\n\
         {servers}\n\n\
         For a server that others can use: turnway init, then turnway serve -c turnway.toml\n"
    ))
}

/// The secret that signs: the first of `rest_secrets`.
///
/// # Errors
///
/// When there is none.
pub fn first_secret(config: &Config) -> Result<&Secret, CredentialsError> {
    config.auth.rest_secrets.first().ok_or_else(|| {
        CredentialsError(
            "the configuration has no rest_secrets, so there is nothing to make time-limited \
             credentials with; add one to [auth], or use the name and password of a [[auth.user]]"
                .to_owned(),
        )
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IceServers<'a> {
    ice_servers: [IceServer<'a>; 1],
}

#[derive(Serialize)]
struct IceServer<'a> {
    urls: &'a [String],
    username: &'a str,
    credential: &'a str,
}

fn public_address(config: &Config, listener: SocketAddr) -> Option<IpAddr> {
    let addresses = &config.relay.addresses;
    let ip = listener.ip();
    if ip.is_unspecified() {
        let same_family = |other: IpAddr| other.is_ipv4() == ip.is_ipv4();
        if addresses.is_empty() {
            return machine::default_addresses().into_iter().find(|own| same_family(*own));
        }
        let relay = addresses.iter().find(|relay| same_family(relay.local));
        return relay.map(|relay| relay.external);
    }
    let relay = addresses.iter().find(|relay| relay.local == ip);
    Some(relay.map_or(ip, |relay| relay.external))
}

/// How a client may reach a listener, in the order of the URIs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

impl Way {
    const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];

    fn is_spoken(self, listener: &Listen) -> bool {
        match listener.transport {
            Transport::Udp => self == Self::Udp,
            Transport::Tcp => self == Self::Tcp,
            Transport::Tls => self == Self::Tls,
            Transport::Dtls => self == Self::Dtls,
            Transport::Auto => true,
        }
    }
}

fn uri(host: &str, port: u16, way: Way) -> String {
    let (scheme, transport) = match way {
        Way::Udp => ("turn", "udp"),
        Way::Tcp => ("turn", "tcp"),
        Way::Tls => ("turns", "tcp"),
        Way::Dtls => ("turns", "udp"),
    };
    format!("{scheme}:{host}:{port}?transport={transport}")
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// A host name or address as it stands in a URI; not a URI, and without a port.
fn check_host(host: &str) -> Result<String, CredentialsError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(v6) = bare.parse::<Ipv6Addr>() {
        return Ok(bracketed(v6.into()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(CredentialsError(format!(
            "{host:?} is not a host; give a name or address without scheme and port, such as \
             turn.example.org"
        )));
    }
    Ok(host.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[auth]\nrest_secrets = [\"0123456789abcdef\"]\n");
        Config::parse(Path::new("turnway.toml"), &text).unwrap().0
    }

    const BOTH: &str = "listen = [\n\
        { transport = \"tcp\", address = \"0.0.0.0:3478\" },\n\
        { transport = \"udp\", address = \"0.0.0.0:3478\" },\n\
        { transport = \"udp\", address = \"[::]:3478\" },\n]\n";

    #[test]
    fn the_password_is_what_any_rest_service_computes() {
        // printf 1433895918:user | openssl dgst -sha1 -hmac secret -binary | base64
        let secret = Secret::new("secret".to_owned());
        let credentials = mint(&secret, ':', "user", 1_433_895_918).unwrap();
        assert_eq!(credentials.username, "1433895918:user");
        assert_eq!(credentials.password.expose(), "duY86vsmGEXM+Ma7pGS//SXJIv0=");
    }

    #[test]
    fn names_that_no_client_could_send_are_refused() {
        let secret = Secret::new("secret".to_owned());
        assert!(mint(&secret, ':', "", 1).is_err());
        assert!(mint(&secret, ':', "a\nb", 1).is_err());
        assert!(mint(&secret, ':', &"a".repeat(506), 1).is_ok());
        assert!(mint(&secret, ':', &"a".repeat(507), 1).is_err());
    }

    #[test]
    fn uris_name_the_external_relay_address() {
        let config = config(&format!(
            "{BOTH}[relay]\naddresses = [{{ local = \"10.0.0.5\", external = \"203.0.113.7\" }}, \
             \"2001:db8::7\"]"
        ));
        assert_eq!(
            uris(&config, None).unwrap(),
            [
                "turn:203.0.113.7:3478?transport=udp",
                "turn:[2001:db8::7]:3478?transport=udp",
                "turn:203.0.113.7:3478?transport=tcp",
            ]
        );
    }

    #[test]
    fn secured_listeners_are_turns() {
        let listeners = "listen = [\n\
            { transport = \"dtls\", address = \"0.0.0.0:5349\" },\n\
            { transport = \"tls\", address = \"0.0.0.0:5349\" },\n\
            { transport = \"auto\", address = \"0.0.0.0:443\" },\n]\n\
            tls.certificate = [{ certificate = \"a.pem\", key = \"a.key\" }]";
        assert_eq!(
            uris(&config(listeners), Some("turn.example.org")).unwrap(),
            [
                "turn:turn.example.org:443?transport=udp",
                "turn:turn.example.org:443?transport=tcp",
                "turns:turn.example.org:5349?transport=tcp",
                "turns:turn.example.org:443?transport=tcp",
                "turns:turn.example.org:5349?transport=udp",
                "turns:turn.example.org:443?transport=udp",
            ]
        );
    }

    #[test]
    fn a_host_replaces_addresses_and_is_named_once() {
        assert_eq!(
            uris(&config(BOTH), Some("turn.example.org")).unwrap(),
            [
                "turn:turn.example.org:3478?transport=udp",
                "turn:turn.example.org:3478?transport=tcp"
            ]
        );
        assert_eq!(
            default_uris("2001:db8::7").unwrap()[0],
            "turn:[2001:db8::7]:3478?transport=udp"
        );
        assert!(default_uris("turn:example.org").is_err());
        assert!(default_uris("example.org:3478").is_err());
    }

    #[test]
    fn without_an_address_it_is_the_default_route_s_or_the_host_is_asked_for() {
        let own = machine::default_addresses();
        match uris(&config(BOTH), None) {
            Ok(uris) => assert!(own.iter().any(|ip| uris[0].contains(&bracketed(*ip))), "{uris:?}"),
            Err(error) => {
                assert_eq!(own, Vec::<IpAddr>::new());
                assert!(error.to_string().contains("--host"), "{error}");
            }
        }
    }

    #[test]
    fn the_development_text_can_be_pasted() {
        let config = Config::development(Secret::random().unwrap());
        let text = development_text(&config, 1_000_000).unwrap();
        let json = &text[text.find('{').unwrap()..=text.rfind('}').unwrap()];
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let server = &value["iceServers"][0];
        assert_eq!(server["urls"][0], "turn:127.0.0.1:3478?transport=udp");
        assert_eq!(server["urls"][1], "turn:127.0.0.1:3478?transport=tcp");
        assert_eq!(server["username"], "1086400:dev");
        assert_eq!(server["credential"].as_str().unwrap().len(), 28);
        assert!(!text.contains(config.auth.rest_secrets[0].expose().as_str()));
    }
}
