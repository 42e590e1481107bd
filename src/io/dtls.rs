//! The sessions of DTLS clients (RFC 7350), by their addresses.
//!
//! A client gets a place here only when it has returned a cookie; `turnway-dtls` answers all others
//! without remembering them.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::SocketAddr;

use turnway_dtls as dtls;
use turnway_relay::{Client, FiveTuple, Link, RealmId, Transport};

use super::sources::Place;
use super::tcp::{Idle, Patience};

/// One client's session.
pub struct Entry {
    /// Keys and handshake.
    pub session: dtls::Session,
    /// The session that takes its place when its handshake is complete, of a client that has
    /// begun anew: anybody can send a recorded ClientHello in its name (RFC 6347 section 4.2.8).
    pub successor: Option<Box<Successor>>,
    /// The client as it is reached without DTLS: its link is a listener.
    pub below: Client,
    /// Its place among those of its source.
    _place: Place,
    /// `mono_ns` of its beginning, or of when it was last seen to have an allocation.
    used_ns: u64,
}

/// A session that is not yet a client's only one.
pub struct Successor {
    /// In its handshake.
    pub session: dtls::Session,
    /// `mono_ns` of its beginning.
    pub began_ns: u64,
}

impl Entry {
    /// Lets the successor take the session's place.
    pub fn succeed(&mut self, now_ns: u64) {
        if let Some(successor) = self.successor.take() {
            self.session = successor.session;
            self.used_ns = now_ns;
        }
    }

    /// Takes the realm of the server name that the client has given, if that is a realm's.
    pub fn enter_realm(&mut self, realm_of: impl FnOnce(&str) -> Option<RealmId>) {
        if let Some(realm) = self.session.server_name().and_then(realm_of) {
            self.below.realm = realm;
        }
    }
}

/// The sessions of a shard.
#[derive(Default)]
pub struct Sessions {
    by_client: HashMap<[SocketAddr; 2], u32, RandomState>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
}

impl Sessions {
    /// The session of whoever sent a datagram to a listener.
    pub fn find(&self, below: &Client) -> Option<u32> {
        self.by_client.get(&key(below)).copied()
    }

    /// Takes in the first session of a client, and names it.
    pub fn insert(
        &mut self,
        session: dtls::Session,
        below: Client,
        place: Place,
        now_ns: u64,
    ) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.by_client.insert(key(&below), index);
        let entry = Entry { session, successor: None, below, _place: place, used_ns: now_ns };
        self.slots[index as usize] = Some(entry);
        index
    }

    /// A session by name.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The session of a client as the rules know it, unless it was replaced by another's.
    pub fn of(&mut self, client: &Client) -> Option<&mut Entry> {
        let same = |entry: &&mut Entry| {
            let FiveTuple { client: address, server, .. } = entry.below.tuple;
            [address, server] == key(client)
        };
        self.get_mut(client.link.0).filter(same)
    }

    /// The client of a session, as the rules know it.
    pub fn client(&self, index: u32) -> Option<Client> {
        let entry = self.slots.get(index as usize)?.as_ref()?;
        let tuple = FiveTuple { transport: Transport::Dtls, ..entry.below.tuple };
        Some(Client { tuple, link: Link(index), realm: entry.below.realm })
    }

    /// Takes a session out.
    pub fn remove(&mut self, index: u32) -> Option<Entry> {
        let entry = self.slots.get_mut(index as usize)?.take()?;
        self.by_client.remove(&key(&entry.below));
        self.free.push(index);
        Some(entry)
    }

    /// All of them, to be closed.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> + '_ {
        self.slots.drain(..).flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Those whose handshake is under way, or their successor's.
    pub fn opening(&self) -> Vec<u32> {
        let is_opening =
            |entry: &Entry| !entry.session.is_established() || entry.successor.is_some();
        let entries = self.slots.iter().enumerate();
        let opening = entries.filter(|(_, slot)| slot.as_ref().is_some_and(is_opening));
        opening.map(|(index, _)| index as u32).collect()
    }

    /// Those that have had no allocation for too long, and those that take too long over their
    /// handshake.
    pub fn idle(
        &mut self,
        now_ns: u64,
        patience: Patience,
        has_allocation: impl Fn(&FiveTuple) -> bool,
    ) -> Vec<(u32, Idle)> {
        let mut idle = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(entry) = slot else { continue };
            let is_late =
                |it: &mut Box<Successor>| now_ns.saturating_sub(it.began_ns) > patience.opening_ns;
            entry.successor.take_if(is_late);
            let unused_ns = now_ns.saturating_sub(entry.used_ns);
            let tuple = FiveTuple { transport: Transport::Dtls, ..entry.below.tuple };
            if !entry.session.is_established() {
                if unused_ns > patience.opening_ns {
                    idle.push((index as u32, Idle::Opening));
                }
            } else if has_allocation(&tuple) {
                entry.used_ns = now_ns;
            } else if unused_ns > patience.unused_ns {
                idle.push((index as u32, Idle::Unused));
            }
        }
        idle
    }
}

/// What tells clients apart. No two listeners have the same address.
fn key(client: &Client) -> [SocketAddr; 2] {
    [client.tuple.client, client.tuple.server]
}
