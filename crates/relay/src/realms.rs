//! Which realm a request is for. A server has one or several, each with its own users, limits and
//! peer policy; who shares a realm's name with another server shares nothing else.
//!
//! A client is asked for the credentials of one realm: the one its ORIGIN belongs to, or else the
//! one of the way it came ([`crate::Client::realm`]: by the name it gave to TLS, or the listener).
//! It answers with REALM and a nonce. A nonce is good in its own realm only, so the pair says that
//! it was we who asked for that realm: also later, when ORIGIN is not repeated.

use turnway_wire::{AttributeType, Message, Origin};

use crate::address::RealmId;
use crate::auth::Auth;
use crate::policy::Policy;

/// One realm.
#[derive(Debug)]
pub struct Realm {
    /// Who may use the relay, and the realm's name.
    pub auth: Auth,
    /// Which peers may be reached.
    pub policy: Policy,
    /// The web origins whose clients belong to it: `https://example.org`.
    pub origins: Vec<String>,
    /// The server names (SNI) by which its clients connect over TLS and DTLS.
    pub server_names: Vec<String>,
}

impl Realm {
    /// A realm that no origin and no server name leads to.
    pub fn new(auth: Auth, policy: Policy) -> Self {
        Self { auth, policy, origins: Vec::new(), server_names: Vec::new() }
    }
}

/// The realms of a server, at least one. Their number and order stay as they are while it runs.
#[derive(Debug)]
pub struct Realms {
    first: Realm,
    others: Vec<Realm>,
}

/// The realms of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whose credentials it shows.
    pub(crate) shown: RealmId,
    /// Whose credentials the client is asked for if those are none.
    pub(crate) wanted: RealmId,
}

/// ORIGIN attributes of one request that are looked at.
const ORIGINS_MAX: usize = 8;

impl Realms {
    /// The realm that holds where nothing leads to another, and the others.
    pub fn new(first: Realm, others: Vec<Realm>) -> Self {
        Self { first, others }
    }

    /// A realm; of a number that none has, the first.
    pub fn get(&self, id: RealmId) -> &Realm {
        match usize::from(id.0).checked_sub(1) {
            Some(index) => self.others.get(index).unwrap_or(&self.first),
            None => &self.first,
        }
    }

    /// The realm that clients of a server name (SNI) belong to.
    pub fn of_server_name(&self, name: &str) -> Option<RealmId> {
        if self.others.is_empty() {
            return None;
        }
        self.find(|realm| realm.server_names.iter().any(|own| own.eq_ignore_ascii_case(name)))
    }

    /// Every realm, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Realm> {
        core::iter::once(&self.first).chain(&self.others)
    }

    /// `held`: the realm of the allocation on the request's five-tuple.
    pub(crate) fn asked(&self, msg: &Message<'_>, here: RealmId, held: Option<RealmId>) -> Asked {
        if self.others.is_empty() {
            return Asked { shown: RealmId::FIRST, wanted: RealmId::FIRST };
        }
        // Some clients send several, of which only one is theirs. A stranger may send thousands.
        let mut origins = msg.all::<Origin<'_>>().flatten().take(ORIGINS_MAX);
        let here = origins.find_map(|origin| self.of_origin(origin.0)).unwrap_or(here);
        let named = msg.raw(AttributeType::REALM).and_then(|name| self.named(name));
        let shown = named.unwrap_or(here);
        let wanted = if held == Some(shown) { shown } else { here };
        Asked { shown, wanted }
    }

    fn of_origin(&self, origin: &[u8]) -> Option<RealmId> {
        let is_it = |own: &String| own.as_bytes().eq_ignore_ascii_case(origin);
        self.find(|realm| realm.origins.iter().any(is_it))
    }

    fn named(&self, name: &[u8]) -> Option<RealmId> {
        self.find(|realm| **realm.auth.realm() == *name)
    }

    fn find(&self, is_it: impl Fn(&Realm) -> bool) -> Option<RealmId> {
        self.iter().position(is_it).and_then(|index| u16::try_from(index).ok()).map(RealmId)
    }
}
