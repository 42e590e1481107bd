//! What clients do with their allocations: peers, channels, pings and echoes, and some abuse.

use std::net::SocketAddr;

use turnway_wire::{Data, DontFragment, Family, XorPeerAddress, channel_header};

use crate::messages::indication;
use crate::network::Step;
use crate::payload::{Direction, TAG_LEN, Tag};
use crate::plan::{
    FORBIDDEN, LISTENER_PORT, NANOS, OWN, OWN_EXTERNAL, PEER_PORT, PEERS, family_index, peer_ip,
};
use crate::session::{Behaviour, Peer, State, What};
use crate::world::World;

/// How long before its end a session sends the last datagram that should come back.
const QUIET_NS: u64 = 30 * NANOS;
const SEQUENCES: u32 = 128;
/// Datagrams a session sends to each of its peers.
const DATAGRAMS: u64 = 4;

impl World<'_> {
    /// Application data has reached a session.
    pub(crate) fn payload(&mut self, index: u32, payload: &[u8]) {
        // What is no tag was forged by somebody hostile, through a peer's address.
        let Some(tag) = Tag::read(payload) else {
            return;
        };
        let session = self.session(index);
        match tag.direction {
            Direction::Echo if tag.session == index => session.heard |= 1 << tag.sequence,
            // For whoever had the port before.
            Direction::Echo => {}
            Direction::Ping => {
                let direction = Direction::Echo;
                if session.partner == Some(tag.session) && session.state == State::Running {
                    let echo = Tag { direction, ..tag }.payload(payload.len());
                    self.send_to_peer(index, 0, &echo);
                }
            }
        }
    }

    /// One or two peers of each family outside.
    pub(crate) fn choose_peers(&mut self, index: u32) {
        for family in [Family::V4, Family::V6] {
            if self.session(index).relays[family_index(family)].is_none() {
                continue;
            }
            for _ in 0..self.rng.range(1, 3) {
                let peer = peer_ip(self.rng.below(PEERS), family);
                self.add_peer(index, SocketAddr::new(peer, PEER_PORT));
            }
        }
    }

    pub(crate) fn add_peer(&mut self, index: u32, addr: SocketAddr) {
        // Clients of before RFC 8656 draw from a wider range.
        let numbers = match self.session(index).user.modern {
            true => 0xF00,
            false => 0x3F00,
        };
        let channel = 0x4000 + self.rng.below(numbers) as u16;
        let by_channel = self.rng.chance(600);
        let peers = &mut self.session(index).peers;
        if peers.iter().all(|peer| peer.addr != addr && peer.channel != channel) {
            peers.push(Peer { addr, channel, by_channel, permitted: false, bound: false });
        }
    }

    /// Waits for somebody to talk to, or talks to who waited: client to client, by two relays.
    pub(crate) fn meet(&mut self, index: u32) {
        let waiting = self.lobby.take();
        let running = |other: &u32| self.sessions[*other as usize].state == State::Running;
        let Some(other) = waiting.filter(running) else {
            self.lobby = Some(index);
            return;
        };
        for (me, you) in [(index, other), (other, index)] {
            let relay = self.session(you).relays[0].expect("IPv4");
            self.session(me).partner = Some(you);
            self.add_peer(me, relay);
            self.start_relaying(me);
        }
        self.totals.pairs += 1;
    }

    pub(crate) fn start_relaying(&mut self, index: u32) {
        self.step(index, Step::Permissions);
        for at in 0..self.session(index).peers.len() {
            if self.session(index).peers[at].by_channel {
                self.step(index, Step::Channel(at));
            }
        }
        self.later(index, 3 * NANOS, Step::Data);
    }

    /// What somebody with good credentials must not get.
    pub(crate) fn abuse(&mut self, index: u32) {
        let forbidden = FORBIDDEN[self.rng.index(FORBIDDEN.len())];
        if self.session(index).relays[family_index(Family::of(forbidden))].is_none() {
            return;
        }
        let forbidden = SocketAddr::new(forbidden, PEER_PORT);
        self.ask(index, What::ForbiddenPermission(forbidden));
        self.ask(index, What::ForbiddenChannel(forbidden));
        self.send_indication(index, forbidden, b"hello");
        if self.session(index).relays[0].is_some() {
            for ip in [OWN_EXTERNAL[0], OWN_EXTERNAL[1], OWN[1]] {
                let listener = SocketAddr::new(ip, LISTENER_PORT);
                self.ask(index, What::ForbiddenChannel(listener));
                self.ask(index, What::OwnPermission(listener));
            }
        }
    }

    pub(crate) fn send_data(&mut self, index: u32) {
        let now_ns = self.net.now_ns;
        for at in 0..self.session(index).peers.len() {
            let session = &mut self.sessions[index as usize];
            let peer = session.peers[at];
            let ready = if peer.by_channel { peer.bound } else { peer.permitted };
            if !ready || session.sent == SEQUENCES {
                continue;
            }
            let sequence = session.sent;
            session.sent += 1;
            let lasting = matches!(session.behaviour, Behaviour::Honest | Behaviour::Borrower);
            if lasting && session.partner.is_none() && now_ns + QUIET_NS < session.ends_ns {
                session.counted |= 1 << sequence;
            }
            let tag = Tag { direction: Direction::Ping, session: index, sequence };
            let len = match self.rng.below(20) {
                0 => 1200,
                _ => TAG_LEN + self.rng.index(180),
            };
            self.send_to_peer(index, at, &tag.payload(len));
        }
        let left = self.session(index).ends_ns.saturating_sub(now_ns);
        let pace = (left / DATAGRAMS).clamp(NANOS, 120 * NANOS);
        let pace = pace + self.rng.below(pace);
        self.later(index, pace, Step::Data);
    }

    pub(crate) fn send_to_peer(&mut self, index: u32, at: usize, payload: &[u8]) {
        let Some(peer) = self.session(index).peers.get(at).copied() else {
            return;
        };
        if peer.by_channel && peer.bound {
            let mut data = channel_header(peer.channel, payload.len() as u16).to_vec();
            data.extend_from_slice(payload);
            self.send(index, data);
        } else {
            self.send_indication(index, peer.addr, payload);
        }
    }

    pub(crate) fn send_indication(&mut self, index: u32, peer: SocketAddr, payload: &[u8]) {
        let transaction: [u8; 12] = self.rng.bytes();
        let data = indication(transaction, &|builder| {
            builder.add(&XorPeerAddress(peer))?;
            if transaction[1] < 20 {
                builder.add(&DontFragment)?;
            }
            builder.add(&Data(payload))
        });
        self.send(index, data);
    }
}
