//! Where clients are sent instead (RFC 8489 section 10).
//!
//! [`Selection::pick`] is all that the rest of the rules know: what it goes by may be changed here
//! alone. Today it is a fixed list, from which each client gets the next one that suits it.

use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use turnway_wire::{AlternateDomain, AlternateServer, BufferFull, Builder};

use crate::address::{FiveTuple, Transport, family_of};

/// Another server, and whose clients it can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// Its transport addresses: at least one, and at most one of each family.
    pub addresses: Vec<SocketAddr>,
    /// The name in its certificate, if that is another than ours: ASCII, 1 to 255 characters.
    pub domain: Option<Arc<str>>,
    /// How clients may reach it there.
    pub transports: Vec<Transport>,
}

/// When clients are sent elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Whenever they ask for an allocation.
    #[default]
    Always,
    /// Where they would be told 508: this server drains, or what it has is used up.
    Busy,
}

/// The servers to choose from.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    when: When,
    servers: Vec<Alternate>,
}

impl Selection {
    /// Sends clients to these servers, none of which may be this one.
    pub fn new(when: When, servers: Vec<Alternate>) -> Self {
        Self { when, servers }
    }

    /// Whether every client is sent elsewhere.
    pub fn is_always(&self) -> bool {
        match self.when {
            When::Always => true,
            When::Busy => false,
        }
    }

    /// The server for a client, if there is one for its transport and its family. `turn` is
    /// another number for each client.
    pub fn pick(&self, client: &FiveTuple, turn: u64) -> Option<&Alternate> {
        let suits = |server: &&Alternate| server.suits(client);
        let count = self.servers.iter().filter(suits).count() as u64;
        let nth = usize::try_from(turn.checked_rem(count)?).ok()?;
        self.servers.iter().filter(suits).nth(nth)
    }
}

impl Alternate {
    /// A client that came by way of an address is not sent there again.
    fn suits(&self, client: &FiveTuple) -> bool {
        let ours = SocketAddr::new(client.server.ip().to_canonical(), client.server.port());
        self.transports.contains(&client.transport)
            && self.of_family(client.client.ip(), true).is_some()
            && !self.addresses.contains(&ours)
    }

    fn of_family(&self, client: IpAddr, same: bool) -> Option<SocketAddr> {
        let family = family_of(client.to_canonical());
        self.addresses.iter().copied().find(|own| (family_of(own.ip()) == family) == same)
    }

    /// Adds what a 300 carries.
    //= rfc8489#section-10
    //# The server MUST include at least
    //# one ALTERNATE-SERVER attribute in the error response, which MUST
    //# contain an IP address of the same address family as the source IP
    //# address of the request message.
    pub(crate) fn describe(&self, b: &mut Builder<'_>, client: IpAddr) -> Result<(), BufferFull> {
        //= rfc8489#section-10
        //# The server SHOULD include an
        //# additional ALTERNATE-SERVER attribute, after the mandatory one, that
        //# contains an IP address of the address family other than the source IP
        //# address of the request message.
        let both = [self.of_family(client, true), self.of_family(client, false)];
        for address in both.into_iter().flatten() {
            b.add(&AlternateServer(address))?;
        }
        //= rfc8489#section-10
        //# If the transaction uses TLS or DTLS, if the transaction is
        //# authenticated by a MESSAGE-INTEGRITY-SHA256 attribute, and if the
        //# server wants to redirect to a server that uses a different
        //# certificate, then it MUST include an ALTERNATE-DOMAIN attribute
        //# containing the name inside the subjectAltName of that certificate.
        // Who does not know the attribute, or has no certificate to check, ignores it.
        if let Some(domain) = &self.domain {
            b.add(&AlternateDomain(domain.as_bytes()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(addresses: &[&str], transports: &[Transport]) -> Alternate {
        Alternate {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            domain: None,
            transports: transports.to_vec(),
        }
    }

    fn client(transport: Transport, client: &str, server: &str) -> FiveTuple {
        FiveTuple { transport, client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn picked(selection: &Selection, client: &FiveTuple) -> Vec<String> {
        let first = |turn| selection.pick(client, turn).map(|server| server.addresses[0]);
        (0..4).filter_map(first).map(|address| address.to_string()).collect()
    }

    #[test]
    fn clients_are_shared_among_the_servers_that_suit_them() {
        let both = [Transport::Udp, Transport::Tcp];
        let selection = Selection::new(
            When::Always,
            vec![
                server(&["192.0.2.1:3478"], &both),
                server(&["[2001:db8::2]:3478"], &both),
                server(&["192.0.2.3:3478", "[2001:db8::3]:3478"], &[Transport::Tcp]),
            ],
        );
        let v4 = |transport| client(transport, "198.51.100.1:5", "203.0.113.7:3478");
        let first = "192.0.2.1:3478";
        let third = "192.0.2.3:3478";
        assert_eq!(picked(&selection, &v4(Transport::Udp)), [first; 4]);
        assert_eq!(picked(&selection, &v4(Transport::Tcp)), [first, third, first, third]);
        let v6 = client(Transport::Udp, "[2001:db8:9::1]:5", "[2001:db8:7::7]:3478");
        assert_eq!(picked(&selection, &v6), ["[2001:db8::2]:3478"; 4]);
    }

    #[test]
    fn nobody_is_sent_back_to_where_he_came() {
        let selection =
            Selection::new(When::Always, vec![server(&["203.0.113.7:3478"], &[Transport::Udp])]);
        let from = |server| client(Transport::Udp, "198.51.100.1:5", server);
        assert_eq!(selection.pick(&from("203.0.113.7:3478"), 0), None);
        assert_eq!(selection.pick(&from("[::ffff:203.0.113.7]:3478"), 0), None);
        assert!(selection.pick(&from("203.0.113.7:3479"), 0).is_some());
    }

    #[test]
    fn without_servers_nobody_is_sent_anywhere() {
        let from = client(Transport::Udp, "198.51.100.1:5", "203.0.113.7:3478");
        assert_eq!(Selection::default().pick(&from, 3), None);
    }
}
