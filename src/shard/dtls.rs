//! Clients that speak DTLS: from strangers to sessions, from records to messages, and back.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use turnway_dtls::{self as dtls, CookieSecret, Judged, Received};
use turnway_relay::{Client, Event, IpFields};
use turnway_udp::{self as udp, ReceiveBatch};

use super::{SECOND_NS, Shard};
use crate::io::dtls::{Sessions, Successor};
use crate::io::tcp::Idle;
use crate::io::udp::Listener;
use crate::mailbox::IoStats;
use crate::tls::Snapshot;

/// How long cookies are made with the same secret. They are good for twice as long at most.
const ROTATION_NS: u64 = 600 * SECOND_NS;

/// A ClientHello that comes so soon after another one is that one repeated.
const ANEW_NS: u64 = 2 * SECOND_NS;

/// What a shard has for DTLS.
pub(super) struct Dtls {
    /// Judges those that have no session.
    listener: dtls::Listener,
    /// What `listener` lets sessions begin with.
    snapshot: Arc<Snapshot>,
    rotated_ns: u64,
    pub(super) sessions: Sessions,
    /// A datagram on its way between a buffer of the batch and OpenSSL.
    scratch: Box<[u8]>,
    /// One message that was decrypted, and one that is to be encrypted.
    decrypted: Box<[u8]>,
    plain: Vec<u8>,
}

impl Dtls {
    /// Nobody has a session yet.
    pub(super) fn new(snapshot: Arc<Snapshot>, now_ns: u64) -> Self {
        Self {
            listener: dtls::Listener::new(&snapshot.dtls, secret()),
            snapshot,
            rotated_ns: now_ns,
            sessions: Sessions::default(),
            scratch: vec![0; DATAGRAM_MAX].into(),
            decrypted: vec![0; dtls::PLAINTEXT_MAX].into(),
            plain: Vec::with_capacity(dtls::PLAINTEXT_MAX),
        }
    }

    /// Judges the ClientHello in `scratch` of a client, by the certificates in force.
    fn judge(&mut self, below: &Client, len: usize, now: Arc<Snapshot>, out: &mut [u8]) -> Judged {
        if !Arc::ptr_eq(&now, &self.snapshot) {
            self.listener.set_context(&now.dtls);
            self.snapshot = now;
        }
        let tuple = &below.tuple;
        let peer = [bytes_of(tuple.client), bytes_of(tuple.server)];
        self.listener.judge(peer.as_flattened(), &self.scratch[..len], out)
    }
}

impl Dtls {
    fn send(&mut self, to: &Client, pieces: [&[u8]; 3], udp: &[Listener], stats: &mut IoStats) {
        let Some(entry) = self.sessions.of(to) else { return };
        self.plain.clear();
        for piece in pieces {
            self.plain.extend_from_slice(piece);
        }
        match entry.session.send(&self.plain, &mut self.scratch) {
            Ok(len) => send(udp, &entry.below, stats, &self.scratch[..len]),
            Err(_) => stats.send_errors_to_client += 1,
        }
    }
}

/// The longest datagram there is.
const DATAGRAM_MAX: usize = 65_536;

impl Shard {
    /// A datagram that is DTLS by its first byte.
    pub(super) fn on_dtls(
        &mut self,
        below: &Client,
        slot: usize,
        range: Range<usize>,
        ip: Option<IpFields>,
        batch: &mut ReceiveBatch,
    ) {
        let Some(dtls) = &mut self.dtls else { return };
        let len = range.len();
        dtls.scratch[..len].copy_from_slice(&batch.data(slot)[range.clone()]);
        let Some(index) = dtls.sessions.find(below) else {
            let Some(session) = self.on_stranger(below, len) else { return };
            let Some(index) = self.welcome(session, below) else { return };
            return self.on_records(index, 0, (slot, range), ip, batch); // the ClientHello is in it
        };
        let Some(entry) = dtls.sessions.get_mut(index) else { return };
        let young =
            |successor: &Successor| self.now.mono_ns.saturating_sub(successor.began_ns) < ANEW_NS;
        if entry.session.is_established()
            && !entry.successor.as_deref().is_some_and(young)
            && dtls::opens_association(&dtls.scratch[..len])
        {
            return self.on_return(index, below, len, batch);
        }
        self.on_records(index, len, (slot, range), ip, batch);
    }

    /// Judges the datagram in `scratch`, and answers it if there is to be no session yet.
    fn on_stranger(&mut self, below: &Client, len: usize) -> Option<dtls::Session> {
        let dtls = self.dtls.as_mut()?;
        if dtls.sessions.len() >= self.parts.streams.sessions {
            self.stats.dtls_refused += 1;
            return None;
        }
        let mut answer = [0; dtls::VERIFY_REQUEST_LEN];
        match dtls.judge(below, len, self.parts.entrance.certificates(), &mut answer) {
            Judged::Ignore(_) => self.stats.dtls_ignored += 1,
            Judged::Answer(len) => {
                self.stats.dtls_hellos += 1;
                send(&self.parts.udp, below, &mut self.stats, &answer[..len]);
            }
            Judged::Accept(session) => return Some(session),
        }
        None
    }

    /// Takes in the session of a client that has shown that it is where it says.
    fn welcome(&mut self, session: dtls::Session, below: &Client) -> Option<u32> {
        let dtls = self.dtls.as_mut()?;
        let (source, now_ns) = (below.tuple.client.ip(), self.now.mono_ns);
        if !self.parts.entrance.handshakes.allow(source, now_ns) {
            self.stats.source_refused += 1;
            return None;
        }
        let Some(place) = self.parts.entrance.sources.enter(below.tuple.client.ip()) else {
            self.stats.source_refused += 1;
            return None;
        };
        Some(dtls.sessions.insert(session, *below, place, self.now.mono_ns))
    }

    /// The ClientHello in `scratch` came from a client with a session.
    fn on_return(&mut self, index: u32, below: &Client, len: usize, batch: &ReceiveBatch) {
        let Some(session) = self.on_stranger(below, len) else { return };
        let Some(dtls) = &mut self.dtls else { return };
        if let Some(entry) = dtls.sessions.get_mut(index) {
            let began_ns = self.now.mono_ns;
            entry.successor = Some(Box::new(Successor { session, began_ns }));
        }
        self.advance(index, 0, batch);
    }

    /// Gives `len` bytes in `scratch` to the successor of a session, if there is one. True if it
    /// has taken the session's place; what belonged to the former association has ended then.
    fn advance(&mut self, index: u32, len: usize, batch: &ReceiveBatch) -> bool {
        let Some(dtls) = &mut self.dtls else { return false };
        let Some(entry) = dtls.sessions.get_mut(index) else { return false };
        let Some(successor) = &mut entry.successor else { return false };
        let (udp, stats, below) = (&self.parts.udp, &mut self.stats, &entry.below);
        let datagram = &dtls.scratch[..len];
        match successor.session.receive(datagram, &mut [], |out| send(udp, below, stats, out)) {
            Received::Idle | Received::Data(_) => false,
            Received::Established => {
                stats.dtls_handshakes += 1;
                entry.succeed(self.now.mono_ns);
                entry.enter_realm(|name| self.parts.server.realm_of(name));
                if let Some(client) = dtls.sessions.client(index) {
                    self.happen(Event::Disconnected { tuple: client.tuple }, batch);
                }
                true
            }
            Received::Closed | Received::Failed(_) => {
                stats.dtls_handshake_failures += 1;
                entry.successor = None;
                false
            }
        }
    }

    /// Gives `len` bytes in `scratch` to a session, and takes the messages that are in them; the
    /// datagram was in `range` of a slot.
    fn on_records(
        &mut self,
        index: u32,
        mut len: usize,
        (slot, mut range): (usize, Range<usize>),
        ip: Option<IpFields>,
        batch: &mut ReceiveBatch,
    ) {
        let mut taken = false;
        loop {
            let Some(dtls) = &mut self.dtls else { return };
            let Some(entry) = dtls.sessions.get_mut(index) else { return };
            let (udp, stats, below) = (&self.parts.udp, &mut self.stats, &entry.below);
            let opening = !entry.session.is_established();
            let datagram = &dtls.scratch[..len];
            let received = entry.session.receive(datagram, &mut dtls.decrypted, |out| {
                send(udp, below, stats, out);
            });
            match received {
                // What is none of the session's may be its successor's.
                Received::Idle if taken || len == 0 => return,
                Received::Idle if !self.advance(index, len, batch) => return,
                Received::Idle => len = 0,
                Received::Established => {
                    self.stats.dtls_handshakes += 1;
                    (taken, len) = (true, 0);
                    let Some(dtls) = &mut self.dtls else { return };
                    let Some(entry) = dtls.sessions.get_mut(index) else { return };
                    entry.enter_realm(|name| self.parts.server.realm_of(name));
                }
                Received::Data(count) => {
                    (taken, len) = (true, 0);
                    self.on_plaintext(index, count, (slot, &mut range), ip, batch);
                }
                Received::Closed | Received::Failed(_) => {
                    self.stats.dtls_handshake_failures += u64::from(opening);
                    return self.end_session(index, batch);
                }
            }
        }
    }

    /// One message, decrypted: it goes where its datagram was, to be sent on from there, and is
    /// lost if it does not fit. That happens to those that overtook the end of a handshake alone.
    fn on_plaintext(
        &mut self,
        index: u32,
        len: usize,
        (slot, range): (usize, &mut Range<usize>),
        ip: Option<IpFields>,
        batch: &mut ReceiveBatch,
    ) {
        let Some(dtls) = &mut self.dtls else { return };
        let Some(client) = dtls.sessions.client(index) else { return };
        let Some(space) = batch.data_mut(slot)[range.clone()].get_mut(..len) else {
            self.stats.dtls_ignored += 1;
            return;
        };
        space.copy_from_slice(&dtls.decrypted[..len]);
        let message = range.start..range.start + len;
        range.start = message.end;
        self.received += 1;
        self.on_message(&client, slot, message, ip, batch);
    }

    /// Sends a message, in pieces, to a client over DTLS.
    pub(super) fn send_dtls(&mut self, to: &Client, pieces: [&[u8]; 3]) {
        let Some(dtls) = &mut self.dtls else { return };
        dtls.send(to, pieces, &self.parts.udp, &mut self.stats);
    }

    /// Sends the reply buffer to a client over DTLS.
    pub(super) fn reply_dtls(&mut self, to: &Client, len: usize) {
        let Some(dtls) = &mut self.dtls else { return };
        dtls.send(to, [&self.reply[..len], &[], &[]], &self.parts.udp, &mut self.stats);
    }

    /// Ends a session, and with it the allocation of its client.
    //= rfc7350#section-3
    //# The same
    //# rules established in Section 7.2.2 of [RFC5389] for keeping open and
    //# closing TCP/TLS connections MUST be used as well for DTLS
    //# associations.
    fn end_session(&mut self, index: u32, batch: &ReceiveBatch) {
        let Some(dtls) = &mut self.dtls else { return };
        let Some(client) = dtls.sessions.client(index) else { return };
        if let Some(mut entry) = dtls.sessions.remove(index) {
            let below = entry.below;
            entry.session.close(|out| send(&self.parts.udp, &below, &mut self.stats, out));
        }
        self.happen(Event::Disconnected { tuple: client.tuple }, batch);
    }

    /// Says good-bye to everybody, for a shard that stops.
    pub(super) fn close_sessions(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let (udp, stats) = (&self.parts.udp, &mut self.stats);
        for mut entry in dtls.sessions.drain() {
            let below = entry.below;
            entry.session.close(|out| send(udp, &below, stats, out));
        }
    }

    /// Once in a second: repeats what was not answered, ends what is of no use, makes cookies with
    /// a new secret.
    pub(super) fn look_after_sessions(&mut self, batch: &ReceiveBatch) {
        let Some(dtls) = &mut self.dtls else { return };
        let now_ns = self.now.mono_ns;
        if now_ns - dtls.rotated_ns >= ROTATION_NS {
            dtls.rotated_ns = now_ns;
            dtls.listener.rotate(secret());
        }
        let (udp, stats) = (&self.parts.udp, &mut self.stats);
        for index in dtls.sessions.opening() {
            let Some(entry) = dtls.sessions.get_mut(index) else { continue };
            let below = entry.below;
            let successor = entry.successor.as_deref_mut().map(|it| &mut it.session);
            let sessions = [Some(&mut entry.session), successor];
            for session in sessions.into_iter().flatten() {
                // One that gives up is ended as idle.
                let _ = session.retransmit(|out| send(udp, &below, stats, out));
            }
        }
        let (server, patience) = (&self.parts.server, self.parts.streams.patience());
        let idle = dtls.sessions.idle(now_ns, patience, |tuple| server.has_allocation(tuple));
        for (index, idle) in idle {
            self.unpublished = true;
            match idle {
                Idle::Opening => self.stats.handshake_timeouts += 1,
                Idle::Unused => self.stats.dtls_idle_closed += 1,
            }
            self.end_session(index, batch);
        }
    }
}

/// Sends a datagram as it is to whoever has a session, from the address it uses.
fn send(listeners: &[Listener], to: &Client, stats: &mut IoStats, datagram: &[u8]) {
    let listener = &listeners[to.link.0 as usize];
    let source = listener.source(to);
    if udp::send_one(listener.fd(), datagram, to.tuple.client, source).is_err() {
        stats.send_errors_to_client += 1;
    }
}

/// An address and a port in 18 bytes.
fn bytes_of(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

fn secret() -> CookieSecret {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system's generator worked when the daemon started");
    CookieSecret::new(bytes)
}
