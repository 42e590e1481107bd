//! TCP allocations (RFC 6062): connections to and from peers are made, accepted, joined to clients'
//! data connections, and closed.
//!
//! A client's data connection stays where all clients' connections are (`streams`), with what it
//! needs to be read and written; here is what becomes of the bytes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use turnway_relay::{
    Client, ConnectFailure, ConnectionId, Direction, Event, RelayId, Stream as Admitted,
};
use turnway_udp::{self as udp, Interest, ReceiveBatch};
use turnway_wire::Family;

use super::{Shard, Token};
use crate::io::peer::{Peer, READ, Stage};
use crate::io::tcp::{Connection, Written};
use crate::mailbox::Command;
use crate::ports;

/// Connections of peers accepted at one relayed transport address per turn.
const ACCEPT_TURN: usize = 16;

/// Leases asked for in a row before a stream waits like one that is over its limit.
const LEASES: usize = 4;

/// How long it waits then.
const LEASE_WAIT_NS: u64 = 10_000_000;

impl Shard {
    /// Connects from a relayed transport address to a peer.
    pub(super) fn connect(
        &mut self,
        id: ConnectionId,
        via: RelayId,
        to: SocketAddr,
        batch: &ReceiveBatch,
    ) {
        let token = Token::Peer(id.0).pack();
        let begun = self.peers.local(via).ok_or(ConnectFailure::NoResources).and_then(|local| {
            let stream = udp::connect_from(local, to).map_err(|error| why_failed(&error))?;
            let watched = self.poller.add(stream.as_fd(), token, Interest::WRITE);
            watched.map_err(|_| ConnectFailure::NoResources)?;
            Ok(stream)
        });
        match begun {
            Ok(stream) => {
                self.peers.insert(id, Peer::new(stream, Stage::Connecting, Interest::WRITE));
            }
            Err(failure) => {
                let event = Event::Connected { connection: id, result: Err(failure) };
                self.happen(event, batch);
            }
        }
    }

    /// Peers that connect to a relayed transport address.
    pub(super) fn on_peers(&mut self, slot: u32, family: Family, batch: &ReceiveBatch) {
        for _ in 0..ACCEPT_TURN {
            let Some((relay, listener)) = self.peers.listener(slot, family) else { return };
            match udp::accept(listener) {
                Ok((stream, from, _)) => self.peer_connected(relay, stream, from, batch),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if ports::is_exhausted(&error) => return self.pause_accept(),
                Err(_) => {} // that connection failed before it was accepted
            }
        }
    }

    fn peer_connected(
        &mut self,
        relay: RelayId,
        stream: std::net::TcpStream,
        from: SocketAddr,
        batch: &ReceiveBatch,
    ) {
        let out = &mut self.reply[..];
        let Ok(id) = self.parts.server.accept_peer(relay, from, self.now, out) else {
            return udp::reset(stream);
        };
        let token = Token::Peer(id.0).pack();
        let ready = udp::tune_spliced(&stream)
            .and_then(|()| self.poller.add(stream.as_fd(), token, Interest::NONE));
        match ready {
            Ok(()) => self.peers.insert(id, Peer::new(stream, Stage::Waiting, Interest::NONE)),
            Err(_) => udp::reset(stream),
        }
        // The client is told in any case. One that was reset it finds to be none.
        self.carry_out(batch);
        if self.peers.get_mut(id).is_none() {
            self.happen(Event::ConnectionClosed { connection: id }, batch);
        }
    }

    /// Something happened to a connection to a peer.
    pub(super) fn on_peer(&mut self, id: ConnectionId, event: udp::Event, batch: &ReceiveBatch) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        match peer.stage {
            Stage::Connecting => return self.on_connect(id, batch),
            // Gone before anybody wanted it; what it sent may still be wanted.
            Stage::Waiting if event.error() => return self.break_peer(id, batch),
            Stage::Waiting => return,
            Stage::Spliced(_) => {}
        }
        if event.error() {
            return self.break_peer(id, batch);
        }
        let room = self.client_has_room(id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let readable = event.readable() || event.hangup();
        if readable && room && !peer.to_client.ended && peer.to_client.is_empty() {
            if peer.read(&mut self.peer_buffer[..]).is_err() {
                return self.break_peer(id, batch);
            }
            self.received += 1;
        }
        self.pump(id, batch);
    }

    /// An attempt to connect has come to an end.
    fn on_connect(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let error = match peer.stream.take_error() {
            Ok(None) => udp::tune_spliced(&peer.stream).err(),
            Ok(Some(error)) | Err(error) => Some(error),
        };
        let result = match error {
            Some(error) => Err(why_failed(&error)),
            None => {
                peer.stage = Stage::Waiting;
                Ok(())
            }
        };
        let result = result
            .and_then(|()| self.watch_peer(id, false).map_err(|_| ConnectFailure::NoResources));
        if result.is_err() {
            self.peers.remove(id);
        }
        self.happen(Event::Connected { connection: id, result }, batch);
    }

    /// Joins a client's connection to the one to its peer.
    pub(super) fn splice(&mut self, id: ConnectionId, client: &Client, batch: &ReceiveBatch) {
        let (Some(connection), Some(peer)) = (self.connections.of(client), self.peers.get_mut(id))
        else {
            // One of the two has gone in this very moment.
            self.peers.remove(id);
            return self.happen(Event::ConnectionClosed { connection: id }, batch);
        };
        if udp::tune_spliced(&connection.stream).is_err() {
            return self.break_peer(id, batch);
        }
        connection.splice = Some(id);
        peer.stage = Stage::Spliced(*client);
        // What the peer has sent meanwhile is in the kernel.
        if self.watch_peer(id, true).is_err() {
            self.break_peer(id, batch);
        }
    }

    /// Bytes that a client sent for its peer.
    pub(super) fn on_spliced(&mut self, id: ConnectionId, bytes: &[u8], batch: &ReceiveBatch) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.to_peer.push(bytes);
            self.pump(id, batch);
        }
    }

    /// A client sends no more.
    pub(super) fn client_ended(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.to_peer.ended = true;
            self.pump(id, batch);
        }
    }

    /// Those whose limit may let more pass now.
    pub(super) fn pump_waiting(&mut self, batch: &ReceiveBatch) {
        while let Some(id) = self.peers.next_due(self.now.mono_ns) {
            if let Some(peer) = self.peers.get_mut(id) {
                for flow in [&mut peer.to_peer, &mut peer.to_client] {
                    flow.wait_ns = flow.wait_ns.filter(|&at_ns| at_ns > self.now.mono_ns);
                }
                self.pump(id, batch);
            }
        }
    }

    /// Passes on what can be passed on, in both directions.
    pub(super) fn pump(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        for direction in Direction::BOTH {
            if !self.admit(id, direction) {
                return self.break_peer(id, batch);
            }
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(client) = peer.client() else { return };
        if peer.write().is_err() {
            return self.break_peer(id, batch);
        }
        let Some(connection) = self.connections.of(&client) else { return };
        let ready = peer.to_client.ready();
        if !ready.is_empty() {
            // How much there is was asked before it was read.
            let len = ready.len();
            if connection.queue_data([ready, &[], &[]], usize::MAX).is_err() {
                return self.break_peer(id, batch); // TLS is over
            }
            peer.to_client.leave(len);
            self.connections.mark_dirty(client.link.0);
        }
        self.pass_ends(id, &client, batch);
    }

    /// Asks the rules how much may go on.  False if the connection is to be closed.
    fn admit(&mut self, id: ConnectionId, direction: Direction) -> bool {
        let mut leases = 0;
        loop {
            let Some(peer) = self.peers.get_mut(id) else { return true };
            let flow = match direction {
                Direction::ToPeer => &mut peer.to_peer,
                Direction::ToClient => &mut peer.to_client,
            };
            let held_back = flow.held_back();
            if held_back == 0 || flow.wait_ns.is_some() {
                return true;
            }
            let wait_ns = match self.parts.server.admit_stream(id, direction, held_back, self.now) {
                Admitted::Bytes(len) => {
                    flow.admit(len);
                    continue;
                }
                Admitted::Close => return false,
                Admitted::Lease if leases < LEASES => {
                    leases += 1;
                    self.exchange();
                    continue;
                }
                Admitted::Lease => self.now.mono_ns + LEASE_WAIT_NS,
                Admitted::Wait(until_ns) => until_ns,
            };
            flow.wait_ns = Some(wait_ns);
            self.peers.wait(wait_ns, id);
            return true;
        }
    }

    /// Passes on that one side sends no more once all it sent has left, and has the poller watch
    /// for what can be done next.
    fn pass_ends(&mut self, id: ConnectionId, client: &Client, batch: &ReceiveBatch) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(connection) = self.connections.of(client) else { return };
        if peer.to_peer.ended && peer.to_peer.is_empty() && !peer.to_peer.closed {
            peer.to_peer.closed = true;
            if peer.stream.shutdown(std::net::Shutdown::Write).is_err() {
                return self.break_peer(id, batch);
            }
        }
        if peer.to_client.ended && peer.to_client.is_empty() && !peer.to_client.said {
            peer.to_client.said = true;
            connection.end_sending();
            self.connections.mark_dirty(client.link.0);
        }
        let Some(connection) = self.connections.of(client) else { return };
        if peer.to_client.said && !connection.has_queued() && !peer.to_client.closed {
            peer.to_client.closed = true;
            if connection.end_writing().is_err() {
                return self.break_peer(id, batch);
            }
        }
        if peer.to_peer.closed && peer.to_client.closed && !connection.has_queued() {
            return self.end_splice(id, batch);
        }
        // The client is read from while the peer takes what it sends.
        connection.paused = peer.to_peer.ended || !peer.to_peer.is_empty();
        // Once the client's end is in the kernel, read or not, it would be said over and over that
        // both ends are closed: that cannot be left out of what is watched for.
        let silent = connection.paused && peer.to_client.closed;
        let room = self.client_has_room(id);
        if self.watch_client(client, silent).is_err() || self.watch_peer(id, room).is_err() {
            self.break_peer(id, batch);
        }
    }

    /// A client's connection has been written to: there may be room for more.
    pub(super) fn client_written(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        let client = self.peers.get_mut(id).and_then(|peer| peer.client());
        if let Some(client) = client {
            self.pass_ends(id, &client, batch);
        }
    }

    fn client_has_room(&mut self, id: ConnectionId) -> bool {
        let client = self.peers.get_mut(id).and_then(|peer| peer.client());
        let connection = client.and_then(|client| self.connections.of(&client));
        connection.is_some_and(|connection| connection.queued() < READ)
    }

    /// Has the poller watch a peer for what can be done next. Fails where the kernel has no memory.
    fn watch_peer(&mut self, id: ConnectionId, room: bool) -> io::Result<()> {
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        let wanted = peer.wanted(room);
        let (stream, token) = (peer.stream.as_fd(), Token::Peer(id.0).pack());
        match (peer.interest, wanted) {
            (before, after) if before == after => {}
            (Some(_), Some(interest)) => self.poller.modify(stream, token, interest)?,
            (None, Some(interest)) => self.poller.add(stream, token, interest)?,
            (_, None) => self.poller.delete(stream)?,
        }
        peer.interest = wanted;
        Ok(())
    }

    /// The same for a client's data connection; `silent` is whether there is nothing to be done.
    fn watch_client(&mut self, client: &Client, silent: bool) -> io::Result<()> {
        let limit = self.parts.streams.send_queue;
        let Some(connection) = self.connections.of(client) else { return Ok(()) };
        let token = Token::Connection(client.link.0).pack();
        let before = std::mem::replace(&mut connection.unwatched, silent);
        let changed = connection.watch(limit);
        let stream = connection.stream.as_fd();
        match (before, silent, changed) {
            (false, true, _) => self.poller.delete(stream),
            (true, false, _) => self.poller.add(stream, token, connection.interest()),
            (false, false, Written::Watch(interest)) => self.poller.modify(stream, token, interest),
            (true, true, _) | (false, false, Written::Same | Written::Broken) => Ok(()),
        }
    }

    /// Something happened to a client's data connection.
    pub(super) fn on_data(
        &mut self,
        index: u32,
        id: ConnectionId,
        event: udp::Event,
        batch: &mut ReceiveBatch,
    ) {
        if event.error() {
            return self.break_peer(id, batch);
        }
        let reading = self.connections.get_mut(index).is_some_and(|data| !data.paused);
        if reading && (event.readable() || event.hangup()) {
            self.on_stream(index, batch);
        }
    }

    /// Both connections have ended as they should.
    fn end_splice(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        if let Some(peer) = self.peers.remove(id)
            && let Some(client) = peer.client()
        {
            self.drop_client(&client);
        }
        self.happen(Event::ConnectionClosed { connection: id }, batch);
    }

    /// One of both connections has broken: whoever has the other one sees it.
    pub(super) fn break_peer(&mut self, id: ConnectionId, batch: &ReceiveBatch) {
        self.reset_both(id);
        self.happen(Event::ConnectionClosed { connection: id }, batch);
    }

    /// The rules want a connection to a peer closed, with the client's.
    pub(super) fn disconnect_peer(&mut self, id: ConnectionId) {
        self.reset_both(id);
    }

    fn reset_both(&mut self, id: ConnectionId) {
        let Some(peer) = self.peers.remove(id) else { return };
        let client = peer.client();
        udp::reset(peer.stream);
        if let Some(client) = client
            && self.connections.of(&client).is_some()
            && let Some(connection) = self.connections.remove(client.link.0)
        {
            udp::reset(connection.stream);
        }
    }

    /// Closes a client's data connection, of which the rules need not hear.
    fn drop_client(&mut self, client: &Client) {
        if self.connections.of(client).is_some() {
            self.connections.remove(client.link.0);
        }
    }
}

impl Shard {
    /// The other shard that alone can answer a message, if there is one.
    pub(super) fn shard_for(&mut self, client: &Client, message: &[u8]) -> Option<u16> {
        let shard = ConnectionId::asked_for_in(message)?.shard();
        let exists = usize::from(shard) < self.parts.mailboxes.len();
        let elsewhere = exists && shard != self.parts.index;
        // Once is enough for an honest client.
        let fresh = self.connections.of(client).is_some_and(|connection| !connection.handed_over);
        (elsewhere && fresh && !self.parts.server.has_allocation(&client.tuple)).then_some(shard)
    }

    /// Hands a client's connection over to another shard, with what was read from it.
    pub(super) fn hand_over(&mut self, index: u32, shard: u16) {
        let Some(mut connection) = self.connections.remove(index) else { return };
        if self.poller.delete(connection.stream.as_fd()).is_ok() {
            connection.leave_shard();
            self.parts.mailboxes[usize::from(shard)].send(Command::Adopt(Box::new(connection)));
        }
    }

    /// Takes a client's connection over from another shard.
    pub(super) fn take_over(&mut self, connection: Connection, batch: &mut ReceiveBatch) {
        if self.connections.len() >= self.parts.streams.connections {
            self.stats.tcp_refused += 1;
            return;
        }
        let carry = connection.carry().concat();
        let Some(index) = self.adopt(connection) else { return self.pause_accept() };
        if batch.free() == 0 {
            self.finish(batch);
        }
        if let Some((slot, space)) = batch.compose(carry.len()) {
            space.copy_from_slice(&carry);
            self.on_bytes(index, slot, batch);
        }
    }

    /// Whether a client's connection carries data for a peer, and no messages.
    pub(super) fn is_spliced(&mut self, client: &Client) -> bool {
        self.connections.of(client).is_some_and(|connection| connection.splice.is_some())
    }
}

fn why_failed(error: &io::Error) -> ConnectFailure {
    let nothing_left =
        matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EAGAIN));
    if nothing_left || ports::is_exhausted(error) {
        ConnectFailure::NoResources
    } else {
        ConnectFailure::Refused
    }
}
