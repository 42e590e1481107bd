//! A second data path that relays in virtual time: it does with its accounts exactly what the
//! kernel's program does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use turnway_relay::effect::ChannelPath;
use turnway_relay::mirror::Counts;
use turnway_relay::{Direction, Event, FiveTuple, SecondPath};

use super::World;

/// What the second path does with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Relayed,
    Dropped,
    /// It is the rules' to decide.
    PassedUp,
}

impl World {
    /// The rules relayed a datagram of a channel that the second path had passed up.
    pub(crate) fn passed_up(
        &mut self,
        shard: usize,
        local: SocketAddr,
        direction: Direction,
        number: u16,
    ) {
        let Some((_, mirrors)) = &mut self.second else { return };
        let found = self.sockets[shard].iter().find(|&(_, socket)| *socket == local);
        let (&relay, _) = found.expect("what is relayed has a socket");
        let (server, ledger, now) = (&mut self.servers[shard], &mut self.ledger, self.now);
        let message = number.to_be_bytes();
        mirrors[shard].passed_up(relay, direction, &message, server, now, |server| {
            ledger.exchange(shard as u16, server.exchange(), now.mono_ns);
            server.handle(Event::Exchanged, now, &mut []);
        });
    }
}

/// One that all shards share, and whoever looks.
#[derive(Clone)]
pub(crate) struct FakePath(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    /// Free ones are closed.
    places: Vec<Option<Place>>,
    free: Vec<u32>,
    from_clients: HashMap<(FiveTuple, u16), u32>,
    from_peers: HashMap<(SocketAddr, SocketAddr), u32>,
}

#[derive(Default)]
struct Place {
    deadline_ns: u64,
    metered: bool,
    accounts: [Account; 2],
    keys: Option<((FiveTuple, u16), (SocketAddr, SocketAddr))>,
}

#[derive(Clone, Copy, Default)]
struct Account {
    counts: Counts,
    shut: bool,
}

impl FakePath {
    pub(crate) fn new(places: u32) -> Self {
        let state = State {
            places: (0..places).map(|_| None).collect(),
            free: (0..places).rev().collect(),
            ..State::default()
        };
        Self(Rc::new(RefCell::new(state)))
    }

    /// A client sends ChannelData.
    pub(crate) fn client_sends(&self, from: FiveTuple, number: u16, len: u64, now_ns: u64) -> Fate {
        let mut state = self.0.borrow_mut();
        let place = state.from_clients.get(&(from, number)).copied();
        state.datagram(place, Direction::ToPeer, len, now_ns)
    }

    /// A peer sends a datagram to a relayed transport address.
    pub(crate) fn peer_sends(
        &self,
        from: SocketAddr,
        relay: SocketAddr,
        len: u64,
        now_ns: u64,
    ) -> Fate {
        let mut state = self.0.borrow_mut();
        let place = state.from_peers.get(&(from, relay)).copied();
        state.datagram(place, Direction::ToClient, len, now_ns)
    }

    /// Bytes in all pockets.
    pub(crate) fn lent(&self) -> u64 {
        self.accounts(|account| account.counts.pocket)
    }

    /// How many directions drop what their pockets do not cover.
    pub(crate) fn shut(&self) -> u64 {
        self.accounts(|account| u64::from(account.shut))
    }

    /// How many places are in use.
    pub(crate) fn open_places(&self) -> usize {
        self.0.borrow().places.iter().flatten().count()
    }

    fn accounts(&self, of: impl Fn(&Account) -> u64) -> u64 {
        self.0.borrow().places.iter().flatten().flat_map(|place| &place.accounts).map(of).sum()
    }

    fn with<T>(&self, place: u32, act: impl FnOnce(&mut Place) -> T) -> T {
        let mut state = self.0.borrow_mut();
        act(state.places[place as usize].as_mut().expect("nobody uses a place that is free"))
    }
}

impl State {
    fn datagram(&mut self, at: Option<u32>, way: Direction, len: u64, now_ns: u64) -> Fate {
        let Some(place) = at.and_then(|at| self.places[at as usize].as_mut()) else {
            return Fate::PassedUp;
        };
        if place.deadline_ns <= now_ns {
            return Fate::PassedUp;
        }
        let Account { counts, shut } = &mut place.accounts[way.index()];
        if place.metered && counts.pocket < len {
            if *shut {
                counts.dropped += 1;
                counts.dropped_bytes += len;
                return Fate::Dropped;
            }
            counts.passed_bytes += len;
            return Fate::PassedUp;
        }
        if place.metered {
            counts.pocket -= len;
        }
        counts.datagrams += 1;
        counts.bytes += len;
        Fate::Relayed
    }
}

impl SecondPath for FakePath {
    type Place = u32;

    fn take(&self) -> Option<u32> {
        self.0.borrow_mut().free.pop()
    }

    fn open(&self, place: u32, deadline_ns: u64, metered: bool) {
        let opened = Place { deadline_ns, metered, ..Place::default() };
        let before = self.0.borrow_mut().places[place as usize].replace(opened);
        assert!(before.is_none(), "a place is opened once");
    }

    fn install(&self, at: u32, path: &ChannelPath, relay: SocketAddr) {
        let client = (path.client.tuple, path.number);
        let peer = (path.peer.socket(), relay);
        self.with(at, |place| place.keys = Some((client, peer)));
        let mut state = self.0.borrow_mut();
        assert_eq!(state.from_clients.insert(client, at), None);
        assert_eq!(state.from_peers.insert(peer, at), None);
    }

    fn set_deadline(&self, place: u32, deadline_ns: u64) {
        self.with(place, |place| place.deadline_ns = deadline_ns);
    }

    fn meter(&self, place: u32, metered: bool) {
        self.with(place, |place| place.metered = metered);
    }

    fn read(&self, place: u32, direction: Direction) -> Counts {
        self.with(place, |place| place.accounts[direction.index()].counts)
    }

    fn lend(&self, place: u32, direction: Direction, bytes: u64) {
        self.with(place, |place| place.accounts[direction.index()].counts.pocket += bytes);
    }

    fn reclaim(&self, place: u32, direction: Direction) -> u64 {
        self.with(place, |place| {
            std::mem::take(&mut place.accounts[direction.index()].counts.pocket)
        })
    }

    fn shut(&self, place: u32, direction: Direction, shut: bool) {
        self.with(place, |place| place.accounts[direction.index()].shut = shut);
    }

    fn close(&self, place: u32) {
        let mut state = self.0.borrow_mut();
        let closed = state.places[place as usize].take().expect("a place is closed once");
        let (client, peer) = closed.keys.expect("a place is closed after it was installed");
        state.from_clients.remove(&client);
        state.from_peers.remove(&peer);
        state.free.push(place);
        let lost: u64 = closed.accounts.iter().map(|account| account.counts.pocket).sum();
        assert_eq!(lost, 0, "what is in a pocket is taken back before it is gone");
    }
}
