//! Datagrams: from clients to the rules, from peers to the rules, and on.

use std::net::SocketAddr;

use turnway_relay::{Client, Direction, Event, IcmpError, IpFields, Route, Transport};
use turnway_udp::{self as udp, Outgoing, Payload, Prefix, ReceiveBatch};
use turnway_wire::{Family, Kind, classify};

use super::{BATCH, Shard};
use crate::io::door::Speaks;
use crate::io::udp::ip_fields;

/// Outgoing datagrams queued before they are sent. A stream can hold thousands of tiny frames, and
/// a batch thousands of merged datagrams.
const QUEUE_MAX: usize = 256;

/// After so many datagrams from a listener, others have their turn: a run that the kernel has
/// merged is taken as a whole.
const LISTENER_TURN: usize = 8 * BATCH;

/// Datagrams, or runs of them, taken from one relay socket before the next one has its turn.
const RELAY_TURN: usize = 32;

/// ICMP errors taken from one relay socket per turn.
const ERRORS_TURN: usize = 16;

/// Tags of outgoing datagrams, for their errors.
const TO_PEER: u32 = 0;
const TO_CLIENT: u32 = 1;

impl Shard {
    /// Datagrams from clients.
    pub(super) fn on_listener(&mut self, index: u32, batch: &mut ReceiveBatch) {
        let mut taken = 0;
        while taken < LISTENER_TURN {
            if batch.free() < BATCH / 2 {
                self.finish(batch);
            }
            let room = batch.free();
            let listener = &mut self.parts.udp[index as usize];
            let Ok(range) = batch.receive(listener.fd(), room) else { return };
            self.stats.kernel_drops_listener += listener.new_drops(batch.dropped());
            let more = range.len() == room;
            for slot in range {
                let received = batch.get(slot);
                let listener = &self.parts.udp[index as usize];
                let client = listener.client(index, received.from, received.local);
                taken += received.segments().len();
                self.received += received.segments().len() as u64;
                let (segments, ip) = (received.segments(), ip_fields(&received));
                for range in segments {
                    self.on_datagram(index, &client, slot, range, ip, batch);
                }
            }
            if !more {
                return;
            }
        }
    }

    /// One datagram of a client, which lies in `range` of a slot: TURN or DTLS, as its first byte
    /// tells where the listener takes both.
    fn on_datagram(
        &mut self,
        index: u32,
        client: &Client,
        slot: usize,
        range: std::ops::Range<usize>,
        ip: Option<IpFields>,
        batch: &mut ReceiveBatch,
    ) {
        let speaks = self.parts.udp[index as usize].speaks;
        let is_dtls = || batch.data(slot)[range.clone()].first().map(|&byte| classify(byte));
        match speaks {
            Speaks::Plain => self.on_message(client, slot, range, ip, batch),
            Speaks::Either if is_dtls() != Some(Kind::Dtls) => {
                self.on_message(client, slot, range, ip, batch);
            }
            Speaks::Secured | Speaks::Either => self.on_dtls(client, slot, range, ip, batch),
        }
    }

    /// Listeners between other events: strangers who flood relay ports keep no client waiting.
    pub(super) fn visit_listeners(&mut self, batch: &mut ReceiveBatch) {
        for index in 0..self.parts.udp.len() {
            self.on_listener(index as u32, batch);
        }
    }

    /// One message of a client, which lies in `range` of a slot.
    pub(super) fn on_message(
        &mut self,
        client: &Client,
        slot: usize,
        range: std::ops::Range<usize>,
        ip: Option<IpFields>,
        batch: &ReceiveBatch,
    ) {
        let data = &batch.data(slot)[range.clone()];
        let mut route = self.parts.server.route_client(client, data, ip, self.now);
        if matches!(route, Route::Lease) {
            self.exchange();
            route = self.parts.server.route_client(client, data, ip, self.now);
        }
        match route {
            Route::ToPeer { via, to, skip, len, dont_fragment, ip } => {
                let Some(socket) = self.relays.get(via) else {
                    return;
                };
                let offset = range.start + usize::from(skip);
                self.sends.push(Outgoing {
                    socket: socket.raw(),
                    to,
                    source: None,
                    ttl: ip.map(|ip| ip.ttl),
                    tos: ip.map(|ip| ip.tos),
                    dont_fragment,
                    prefix: Prefix::EMPTY,
                    payload: Payload { slot, offset, len: usize::from(len) },
                    pad: 0,
                    tag: TO_PEER,
                });
                if client.tuple.transport == Transport::Udp {
                    self.passed_up(via, Direction::ToPeer, data);
                }
                self.flush_if_full(batch);
            }
            Route::Request => {
                let event = Event::Request { from: *client, data };
                self.parts.server.handle(event, self.now, &mut self.reply[..]);
                self.carry_out(batch);
                self.flush_if_full(batch);
            }
            Route::Arriving => self.on_arriving(client, slot, range, ip, batch),
            Route::Elsewhere { session } => self.on_elsewhere(session, client, data, batch),
            Route::ToClient { .. } | Route::Drop(_) | Route::Lease => {}
        }
    }

    /// Datagrams from peers.
    pub(super) fn on_relay(&mut self, slot: u32, family: Family, batch: &mut ReceiveBatch) {
        if batch.free() == 0 {
            self.finish(batch);
        }
        let Some((id, socket)) = self.relays.in_slot(slot, family) else {
            return;
        };
        let Ok(range) = batch.receive(socket.fd(), RELAY_TURN) else {
            return;
        };
        self.stats.kernel_drops_relay += socket.new_drops(batch.dropped());
        let mut taken = 0;
        for slot in range {
            let received = batch.get(slot);
            taken += received.segments().len();
            let ip = ip_fields(&received);
            for range in received.segments() {
                let (from, len) = (received.from, range.len());
                let mut route = self.parts.server.route_peer(id, from, len, ip, self.now);
                if matches!(route, Route::Lease) {
                    self.exchange();
                    route = self.parts.server.route_peer(id, from, len, ip, self.now);
                }
                if let Route::ToClient { to, prefix, pad, ip } = route {
                    let payload = Payload { slot, offset: range.start, len };
                    if to.tuple.transport == Transport::Udp {
                        self.passed_up(id, Direction::ToClient, prefix.as_bytes());
                    }
                    self.queue_for_client(&to, prefix.as_bytes(), payload, pad, ip, batch);
                }
            }
        }
        self.received += taken as u64;
        self.turns += taken / RELAY_TURN;
    }

    /// Queues a received datagram, wrapped, for its client.
    pub(super) fn queue_for_client(
        &mut self,
        to: &Client,
        prefix: &[u8],
        payload: Payload,
        pad: u8,
        ip: Option<IpFields>,
        batch: &ReceiveBatch,
    ) {
        match to.tuple.transport {
            Transport::Dtls => {
                let payload = &batch.data(payload.slot)[payload.offset..][..payload.len];
                self.send_dtls(to, [prefix, payload, &[0; 3][..usize::from(pad)]]);
            }
            Transport::Udp => {
                let listener = &self.parts.udp[to.link.0 as usize];
                self.sends.push(Outgoing {
                    socket: listener.raw(),
                    to: to.tuple.client,
                    source: listener.source(to),
                    ttl: ip.map(|ip| ip.ttl),
                    tos: ip.map(|ip| ip.tos),
                    dont_fragment: false,
                    prefix: Prefix::new(prefix),
                    payload,
                    pad,
                    tag: TO_CLIENT,
                });
                self.flush_if_full(batch);
            }
            Transport::Tcp | Transport::Tls => {
                let payload = &batch.data(payload.slot)[payload.offset..][..payload.len];
                let limit = self.parts.streams.send_queue;
                let pieces = [prefix, payload, &[0; 3][..usize::from(pad)]];
                let Some(connection) = self.connections.of(to) else {
                    return;
                };
                let mut queued = connection.queue_data(pieces, limit);
                if queued.is_err() && !connection.is_blocked() {
                    // A burst larger than the queue, for which the kernel may have room.
                    self.write_stream(to.link.0, batch);
                    let Some(connection) = self.connections.of(to) else {
                        return;
                    };
                    queued = connection.queue_data(pieces, limit);
                }
                match queued {
                    Ok(()) => self.connections.mark_dirty(to.link.0),
                    Err(full) => self.overflowed(to, full),
                }
            }
        }
    }

    /// Queues the reply buffer for a client over UDP.
    pub(super) fn queue_answer(&mut self, to: &Client, len: usize) {
        let listener = &self.parts.udp[to.link.0 as usize];
        self.sends.push(Outgoing {
            socket: listener.raw(),
            to: to.tuple.client,
            source: listener.source(to),
            ttl: None,
            tos: None,
            dont_fragment: false,
            prefix: Prefix::new(&self.reply[..len]),
            payload: Payload::EMPTY,
            pad: 0,
            tag: TO_CLIENT,
        });
    }

    /// Answers a UDP client from another of our transport addresses: each shard has a socket for
    /// each of them.
    pub(super) fn answer_from(&mut self, from: SocketAddr, to: SocketAddr, len: usize) {
        let listener = self.parts.udp.iter().find(|listener| listener.has(from));
        let sent = listener.map(|listener| {
            let source = listener.source_of(from.ip());
            udp::send_one(listener.fd(), &self.reply[..len], to, source)
        });
        if !matches!(sent, Some(Ok(()))) {
            self.stats.send_errors_to_client += 1;
        }
    }

    /// ICMP errors that came back to a relay socket.
    pub(super) fn on_icmp(&mut self, slot: u32, family: Family, batch: &ReceiveBatch) {
        let Some((id, socket)) = self.relays.in_slot(slot, family) else {
            return;
        };
        let mut errors = [None; ERRORS_TURN];
        let mut count = 0;
        let read = udp::read_errors(socket.fd(), ERRORS_TURN, &mut |error| {
            errors[count] = Some(error);
            count += 1;
        });
        if let Err(error) = read {
            tracing::debug!(%error, "reading an error queue");
        }
        for error in errors.into_iter().flatten() {
            let family = match error.family {
                udp::Family::V4 => Family::V4,
                udp::Family::V6 => Family::V6,
            };
            let (icmp_type, code, data) = (error.icmp_type, error.code, error.info);
            let event = Event::Icmp {
                relay: id,
                peer: error.peer,
                error: IcmpError { family, icmp_type, code, data },
            };
            self.parts.server.handle(event, self.now, &mut self.reply[..]);
            self.carry_out(batch);
        }
    }

    fn flush_if_full(&mut self, batch: &ReceiveBatch) {
        if self.sends.len() >= QUEUE_MAX {
            self.flush(batch);
        }
    }

    pub(super) fn flush(&mut self, batch: &ReceiveBatch) {
        let stats = &mut self.stats;
        self.sends.flush(batch, &mut |tag, result| {
            if result.is_err() {
                match tag {
                    TO_PEER => stats.send_errors_to_peer += 1,
                    _ => stats.send_errors_to_client += 1,
                }
            }
        });
    }
}
