//! How many connections each source has, over all shards.
//!
//! Connections begin and end seldom: a lock for each of both, divided by source, is in nobody's
//! way.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pieces of the table, each with a lock of its own.
const PIECES: usize = 64;

/// Counts connections and DTLS sessions by source: an IPv4 address, or an IPv6 network of /64,
/// of which one client can have every address.
pub struct Sources {
    pieces: [Mutex<HashMap<IpAddr, u32>>; PIECES],
    random: RandomState,
    limit: u32,
}

/// One connection's place among those of its source; dropping it makes room for another.
pub struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// Nobody is there yet. `limit` is the most that one source may have; 0: as many as there can be.
    pub fn new(limit: u32) -> Self {
        let pieces = std::array::from_fn(|_| Mutex::default());
        Self { pieces, random: RandomState::new(), limit }
    }

    /// Counts one more of a source, unless there are as many as there may be.
    pub fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let source = source_of(ip);
        let mut piece = self.piece(source);
        let count = piece.entry(source).or_insert(0);
        if self.limit > 0 && *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(self), source })
    }

    fn piece(&self, source: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let index = self.random.hash_one(source) as usize % PIECES;
        self.pieces[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut piece = self.sources.piece(self.source);
        if let Some(count) = piece.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                piece.remove(&self.source);
            }
        }
    }
}

/// What counts as one source.
fn source_of(ip: IpAddr) -> IpAddr {
    match turnway_relay::address::canonical_ip(ip) {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_as_many_places_as_the_limit_and_gets_them_back() {
        let sources = Arc::new(Sources::new(2));
        let first = sources.enter(ip("192.0.2.1")).unwrap();
        let _second = sources.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert!(sources.enter(ip("192.0.2.1")).is_none());
        assert!(sources.enter(ip("192.0.2.2")).is_some(), "another source");
        drop(first);
        assert!(sources.enter(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let sources = Arc::new(Sources::new(1));
        let _place = sources.enter(ip("2001:db8::1")).unwrap();
        assert!(sources.enter(ip("2001:db8::ffff:0:1:2")).is_none());
        assert!(sources.enter(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn who_has_left_takes_no_memory() {
        let sources = Arc::new(Sources::new(0));
        let places: Vec<_> = (0..100).map(|at| sources.enter([192, 0, 2, at].into())).collect();
        assert!(places.iter().all(Option::is_some));
        drop(places);
        assert!(sources.pieces.iter().all(|piece| piece.lock().unwrap().is_empty()));
    }
}
