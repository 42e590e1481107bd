//! Clients' connections: accepted, framed, written, closed.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd as _;

use turnway_relay::{Client, Event, Transport};
use turnway_udp::{self as udp, Interest, ReceiveBatch};
use turnway_wire::{Frame, frame};

use super::{SECOND_NS, Shard, StreamLimits, Token};
use crate::io::tcp::{Broken, Connection, Entered, Idle, Opened, Patience, Written};
use crate::ports;

/// What TLS may make of such a message: one record of it.
const STRANGER_RECORD: usize = STRANGER_FRAME + 512;

/// The longest message taken from a connection without an allocation. Requests are a few hundred
/// bytes; waiting for more would let strangers take our memory.
const STRANGER_FRAME: usize = 2048;

/// Connections accepted per turn.
const ACCEPT_TURN: usize = 64;

impl Shard {
    /// New connections.
    pub(super) fn on_accept(&mut self, index: u32) {
        for _ in 0..ACCEPT_TURN {
            match udp::accept(&self.parts.tcp[index as usize]) {
                Ok((stream, client, server)) => {
                    self.accepted(index as u16, stream, [client, server]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if ports::is_exhausted(&error) => return self.pause_accept(),
                Err(_) => {} // that connection failed before it was accepted
            }
        }
    }

    fn accepted(&mut self, door: u16, stream: std::net::TcpStream, ends: [SocketAddr; 2]) {
        if self.connections.len() >= self.parts.streams.connections {
            self.stats.tcp_refused += 1;
            return;
        }
        if udp::tune_stream(&stream).is_err() {
            return; // reset before it was accepted
        }
        let entered = Entered { entrance: &self.parts.entrance, door, now_ns: self.now.mono_ns };
        let Some(connection) = Connection::new(stream, ends, entered) else {
            self.stats.source_refused += 1;
            return;
        };
        if self.adopt(connection).is_none() {
            return self.pause_accept();
        }
        self.stats.tcp_accepted += 1;
    }

    /// Takes in a connection and watches it. `None`: there was no descriptor or memory for that.
    pub(super) fn adopt(&mut self, connection: Connection) -> Option<u32> {
        let index = self.connections.insert(connection);
        let connection = self.connections.get_mut(index).expect("inserted just now");
        let token = Token::Connection(index).pack();
        if self.poller.add(connection.stream.as_fd(), token, Interest::READ).is_err() {
            self.connections.remove(index);
            return None;
        }
        Some(index)
    }

    /// Without descriptors a level-triggered listener would spin: look away for a while.
    pub(super) fn pause_accept(&mut self) {
        self.stats.accept_paused += 1;
        self.accept_resumes_ns = Some(self.now.mono_ns + SECOND_NS);
        self.watch_listeners(Interest::NONE);
    }

    pub(super) fn watch_listeners(&self, interest: Interest) {
        for (index, listener) in self.parts.tcp.iter().enumerate() {
            let token = Token::TcpListener(index as u32).pack();
            let watched = self.poller.modify(listener.as_fd(), token, interest);
            watched.expect("a registered listener can be modified without further memory");
        }
        for (slot, family, listener) in self.peers.listeners() {
            let token = Token::PeerListener(slot, family).pack();
            let watched = self.poller.modify(listener.as_fd(), token, interest);
            watched.expect("a registered listener can be modified without further memory");
        }
    }

    /// Bytes from a client's connection, or its end.
    pub(super) fn on_stream(&mut self, index: u32, batch: &mut ReceiveBatch) {
        if batch.free() == 0 {
            self.finish(batch);
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let read = batch.read_stream(connection.carry(), &mut &connection.stream);
        let splice = connection.splice;
        match read {
            Ok((_, 0)) if let Some(id) = splice => self.client_ended(id, batch),
            Ok((_, 0)) => {
                self.write_stream(index, batch); // what was asked before is answered
                self.disconnect(index, batch);
            }
            Ok((slot, _)) => self.on_bytes(index, slot, batch),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.disconnect(index, batch),
            },
        }
    }

    /// Has a connection's layer open what was read to a slot, and takes the messages from there.
    pub(super) fn on_bytes(&mut self, index: u32, slot: usize, batch: &mut ReceiveBatch) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let (opening, introduced) = (connection.is_opening(), connection.is_introduced());
        let opened = connection.open(batch.data_mut(slot), &self.parts.entrance, self.now.mono_ns);
        // A session that failed is not in its handshake any more either.
        let over = opened.is_ok() && opening && !connection.is_opening();
        if over && connection.tuple().transport == Transport::Tls {
            self.stats.tls_handshakes += 1;
        }
        let (queued, introduced) =
            (connection.has_queued(), connection.is_introduced() && !introduced);
        if queued {
            self.connections.mark_dirty(index); // a handshake's answers
        }
        if introduced && let Some(older) = self.connections.introduce(index) {
            self.disconnect(older, batch);
        }
        let taken = match opened {
            Ok(opened) => self.take_messages(index, slot, opened, batch),
            Err(broken) => Err(broken),
        };
        match taken {
            Ok(true) => {}
            Ok(false) => {
                self.write_stream(index, batch);
                self.disconnect(index, batch);
            }
            Err(broken) => {
                if let Some(Client { tuple, .. }) = self.connections.client(index, |_| None) {
                    tracing::debug!(client = %tuple.client, ?broken, "connection closed");
                }
                *match broken {
                    Broken::Proxy => &mut self.stats.proxy_errors,
                    Broken::Crowded => &mut self.stats.source_refused,
                    Broken::Tls(_) if opening => &mut self.stats.tls_handshake_failures,
                    Broken::Tls(_) | Broken::TooLong | Broken::NotTurn => {
                        &mut self.stats.tcp_protocol_errors
                    }
                } += 1;
                self.write_stream(index, batch); // what was asked before is answered
                self.disconnect(index, batch);
            }
        }
    }

    /// Takes the messages that a read has brought. False if they were the client's last.
    fn take_messages(
        &mut self,
        index: u32,
        slot: usize,
        opened: Opened,
        batch: &ReceiveBatch,
    ) -> Result<bool, Broken> {
        let Opened { messages, rest, closed } = opened;
        let server = &self.parts.server;
        let client = self.connections.client(index, |name| server.realm_of(name));
        let Some(client) = client else { return Ok(true) };
        let end = messages.end;
        let Taken { at: taken, shard } = self.on_frames(&client, slot, messages, batch)?;
        let joined = self.connections.of(&client).and_then(|connection| connection.splice);
        if let (Some(id), Some(connection)) = (joined, self.connections.of(&client)) {
            let data = batch.data(slot);
            connection.keep(&[], &data[rest..]);
            self.on_spliced(id, &data[taken..end], batch);
            if closed {
                self.client_ended(id, batch);
            }
            return Ok(true);
        }
        let stranger = !self.parts.server.has_allocation(&client.tuple);
        let Some(connection) = self.connections.of(&client) else { return Ok(true) };
        let data = batch.data(slot);
        let rest = &data[rest..];
        if stranger && !connection.is_opening() && rest.len() > STRANGER_RECORD {
            return Err(Broken::TooLong);
        }
        connection.keep(&data[taken..end], rest);
        if let (Some(shard), false) = (shard, closed) {
            self.hand_over(index, shard);
        }
        Ok(!closed)
    }

    /// Takes whole messages from a range of a slot, until one is incomplete, is for another shard,
    /// or was the last: what follows it is for a peer.
    fn on_frames(
        &mut self,
        client: &Client,
        slot: usize,
        range: Range<usize>,
        batch: &ReceiveBatch,
    ) -> Result<Taken, Broken> {
        let data = &batch.data(slot)[..range.end];
        let mut at = range.start;
        while at < range.end && !self.is_spliced(client) {
            match frame(&data[at..]) {
                Frame::Complete { len: need, .. } | Frame::Incomplete { need }
                    if need > STRANGER_FRAME
                        && !self.parts.server.has_allocation(&client.tuple) =>
                {
                    return Err(Broken::TooLong);
                }
                Frame::Complete { len, payload } => {
                    self.received += 1;
                    if let Some(shard) = self.shard_for(client, &data[at..at + payload]) {
                        return Ok(Taken { at, shard: Some(shard) });
                    }
                    self.on_message(client, slot, at..at + payload, None, batch);
                    at += len;
                }
                Frame::Incomplete { .. } => break,
                Frame::Invalid => return Err(Broken::NotTurn),
            }
        }
        Ok(Taken { at, shard: None })
    }

    pub(super) fn disconnect(&mut self, index: u32, batch: &ReceiveBatch) {
        if let Some(id) = self.connections.get_mut(index).and_then(|connection| connection.splice) {
            return self.break_peer(id, batch);
        }
        if let Some(mut connection) = self.connections.remove(index) {
            connection.farewell();
            let event = Event::Disconnected { tuple: connection.tuple() };
            self.parts.server.handle(event, self.now, &mut self.reply[..]);
            self.carry_out(batch);
        }
    }

    pub(super) fn write_stream(&mut self, index: u32, batch: &ReceiveBatch) {
        let limit = self.parts.streams.send_queue;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.write(limit) {
            Written::Same => {}
            Written::Watch(interest) => {
                let token = Token::Connection(index).pack();
                if self.poller.modify(connection.stream.as_fd(), token, interest).is_err() {
                    self.disconnect(index, batch);
                }
            }
            Written::Broken => return self.disconnect(index, batch),
        }
        if let Some(id) = self.connections.get_mut(index).and_then(|connection| connection.splice) {
            self.client_written(id, batch);
        }
    }

    /// Closes connections that have had no allocation for too long, or are slow to begin.
    pub(super) fn close_idle(&mut self, batch: &ReceiveBatch) {
        let (now_ns, server) = (self.now.mono_ns, &self.parts.server);
        let patience = self.parts.streams.patience();
        let idle = self.connections.idle(now_ns, patience, |tuple| server.has_allocation(tuple));
        for (index, idle) in idle {
            self.unpublished = true;
            match idle {
                Idle::Opening => self.stats.handshake_timeouts += 1,
                Idle::Unused => self.stats.tcp_idle_closed += 1,
            }
            self.disconnect(index, batch);
        }
    }
}

/// How far the messages of a read were taken.
struct Taken {
    /// Where what was not taken begins.
    at: usize,
    /// The shard that must have the next message, with all that follows.
    shard: Option<u16>,
}

impl StreamLimits {
    pub(super) fn patience(&self) -> Patience {
        let ns = |duration: std::time::Duration| duration.as_nanos() as u64;
        Patience { opening_ns: ns(self.handshake), unused_ns: ns(self.idle) }
    }
}
