//! Clients that speak DTLS: from strangers to sessions, from records to messages, and back.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use turnway_dtls::{self as dtls, CookieSecret, Judged, Received};
use turnway_relay::{Client, Event, IpFields};
use turnway_udp::{self as udp, ReceiveBatch};

use super::{SECOND_NS, Shard};
use crate::io::dtls::Sessions;
use crate::io::tcp::Idle;
use crate::io::udp::Listener;
use crate::mailbox::IoStats;
use crate::tls::Snapshot;

/// How long cookies are made with the same secret. They are good for twice as long at most.
const ROTATION_NS: u64 = 600 * SECOND_NS;

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
    /// What is to be encrypted.
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
        let found = dtls.sessions.find(below);
        let known = found.and_then(|index| Some((index, dtls.sessions.get_mut(index)?)));
        let index = match known {
            None => match self.on_stranger(below, len) {
                Some(session) => self.welcome(session, below),
                None => None,
            },
            Some((index, entry)) => {
                let anew = entry.session.is_established()
                    && entry.successor.is_none()
                    && dtls::opens_association(&dtls.scratch[..len]);
                if anew {
                    return self.on_return(index, below, len);
                }
                return self.on_records(index, len, (slot, range), ip, batch);
            }
        };
        if let Some(index) = index {
            self.on_records(index, 0, (slot, range), ip, batch); // the ClientHello is in it
        }
    }

    /// Judges the datagram in `scratch`, and answers it if there is to be no session yet.
    fn on_stranger(&mut self, below: &Client, len: usize) -> Option<dtls::Session> {
        let dtls = self.dtls.as_mut()?;
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
        if dtls.sessions.len() >= self.parts.streams.sessions {
            self.stats.dtls_refused += 1;
            return None;
        }
        let Some(place) = self.parts.entrance.sources.enter(below.tuple.client.ip()) else {
            self.stats.source_refused += 1;
            return None;
        };
        Some(dtls.sessions.insert(session, *below, place, self.now.mono_ns))
    }

    /// The ClientHello in `scratch` came from a client with a session.
    fn on_return(&mut self, index: u32, below: &Client, len: usize) {
        let Some(session) = self.on_stranger(below, len) else { return };
        let Some(dtls) = &mut self.dtls else { return };
        if let Some(entry) = dtls.sessions.get_mut(index) {
            entry.successor = Some(Box::new(session));
        }
        self.advance(index, 0);
    }

    /// Gives `len` bytes in `scratch` to the successor of a session, if there is one.
    fn advance(&mut self, index: u32, len: usize) {
        let Some(dtls) = &mut self.dtls else { return };
        let Some(entry) = dtls.sessions.get_mut(index) else { return };
        let Some(successor) = &mut entry.successor else { return };
        let (udp, stats, below) = (&self.parts.udp, &mut self.stats, &entry.below);
        let received =
            successor.receive(&dtls.scratch[..len], &mut [], |out| send(udp, below, stats, out));
        match received {
            Received::Idle | Received::Data(_) => {}
            Received::Established => {
                stats.dtls_handshakes += 1;
                if let Some(successor) = entry.successor.take() {
                    entry.session = *successor;
                }
            }
            Received::Closed | Received::Failed(_) => {
                stats.dtls_handshake_failures += 1;
                entry.successor = None;
            }
        }
    }

    /// Gives `len` bytes in `scratch` to a session, and takes the messages that are in them; they
    /// lie where the datagram was then.
    fn on_records(
        &mut self,
        index: u32,
        mut len: usize,
        (slot, range): (usize, Range<usize>),
        ip: Option<IpFields>,
        batch: &mut ReceiveBatch,
    ) {
        self.advance(index, len);
        let mut at = range.start;
        loop {
            let Some(dtls) = &mut self.dtls else { return };
            let Some(entry) = dtls.sessions.get_mut(index) else { return };
            let (udp, stats, below) = (&self.parts.udp, &mut self.stats, &entry.below);
            let plain = &mut batch.data_mut(slot)[at..range.end];
            let opening = !entry.session.is_established();
            let received = entry
                .session
                .receive(&dtls.scratch[..len], plain, |out| send(udp, below, stats, out));
            len = 0;
            match received {
                Received::Idle => return,
                Received::Established => stats.dtls_handshakes += 1,
                Received::Data(count) => {
                    let Some(client) = dtls.sessions.client(index) else { return };
                    self.received += 1;
                    self.on_message(&client, slot, at..at + count, ip, batch);
                    at += count;
                }
                Received::Closed | Received::Failed(_) => {
                    stats.dtls_handshake_failures += u64::from(opening);
                    return self.end_session(index, batch);
                }
            }
        }
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
    //# The rules for
    //# closing TCP/TLS connections MUST be used as well for DTLS
    fn end_session(&mut self, index: u32, batch: &ReceiveBatch) {
        let Some(dtls) = &mut self.dtls else { return };
        let Some(client) = dtls.sessions.client(index) else { return };
        if let Some(mut entry) = dtls.sessions.remove(index) {
            let below = entry.below;
            entry.session.close(|out| send(&self.parts.udp, &below, &mut self.stats, out));
        }
        self.happen(Event::Disconnected { tuple: client.tuple }, batch);
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
            let sessions = [Some(&mut entry.session), entry.successor.as_deref_mut()];
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
