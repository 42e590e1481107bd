//! Clients' connections: accepted, framed, written, closed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use turnway_relay::Event;
use turnway_udp::{self as udp, Interest, ReceiveBatch};
use turnway_wire::{Frame, frame};

use super::{SECOND_NS, Shard, Token};
use crate::io::tcp::Written;
use crate::ports;

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
                Ok((stream, client, server)) => self.accepted(stream, client, server),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if ports::is_exhausted(&error) => return self.pause_accept(),
                Err(_) => {} // that connection failed before it was accepted
            }
        }
    }

    pub(super) fn accepted(
        &mut self,
        stream: std::net::TcpStream,
        client: SocketAddr,
        server: SocketAddr,
    ) {
        if self.connections.len() >= self.parts.streams.connections {
            self.stats.tcp_refused += 1;
            return;
        }
        if udp::tune_stream(&stream).is_err() {
            return; // reset before it was accepted
        }
        let index = self.connections.insert(stream, client, server, self.now.mono_ns);
        let connection = self.connections.get_mut(index).expect("inserted just now");
        let token = Token::Connection(index).pack();
        if self.poller.add(connection.stream.as_fd(), token, Interest::READ).is_err() {
            self.connections.remove(index);
            return self.pause_accept();
        }
        self.stats.tcp_accepted += 1;
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
    }

    /// Bytes from a client's connection, or its end.
    pub(super) fn on_stream(&mut self, index: u32, batch: &mut ReceiveBatch) {
        if batch.free() == 0 {
            self.finish(batch);
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let read = batch.read_stream(&connection.carry, &mut &connection.stream);
        match read {
            Ok((_, 0)) => {
                self.write_stream(index, batch); // what was asked before is answered
                self.disconnect(index, batch);
            }
            Ok((slot, _)) => self.on_frames(index, slot, batch),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.disconnect(index, batch),
            },
        }
    }

    pub(super) fn on_frames(&mut self, index: u32, slot: usize, batch: &ReceiveBatch) {
        let Some(client) = self.connections.client(index) else {
            return;
        };
        let data = batch.data(slot);
        let mut at = 0;
        let valid = loop {
            let framed = frame(&data[at..]);
            match framed {
                Frame::Complete { len: need, .. } | Frame::Incomplete { need }
                    if need > STRANGER_FRAME
                        && !self.parts.server.has_allocation(&client.tuple) =>
                {
                    break false;
                }
                Frame::Complete { len, payload } => {
                    self.received += 1;
                    self.on_message(&client, slot, at..at + payload, None, batch);
                    at += len;
                }
                Frame::Incomplete { .. } => break true,
                Frame::Invalid => break false,
            }
            if at >= data.len() {
                break true;
            }
        };
        if !valid {
            self.stats.tcp_protocol_errors += 1;
            self.write_stream(index, batch); // what was asked before is answered
            return self.disconnect(index, batch);
        }
        let Some(connection) = self.connections.of(&client) else {
            return;
        };
        connection.carry.clear();
        connection.carry.extend_from_slice(&data[at..]);
        if connection.carry.is_empty() {
            connection.carry = Vec::new();
        }
    }

    pub(super) fn disconnect(&mut self, index: u32, batch: &ReceiveBatch) {
        if let Some(tuple) = self.connections.remove(index) {
            let event = Event::Disconnected { tuple };
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
            Written::Broken => self.disconnect(index, batch),
        }
    }

    /// Closes connections that have had no allocation for too long.
    pub(super) fn close_idle(&mut self, batch: &ReceiveBatch) {
        let idle_ns = self.parts.streams.idle.as_nanos() as u64;
        let (now_ns, server) = (self.now.mono_ns, &self.parts.server);
        let idle = self.connections.idle(now_ns, idle_ns, |tuple| server.has_allocation(tuple));
        for index in idle {
            self.unpublished = true;
            self.stats.tcp_idle_closed += 1;
            self.disconnect(index, batch);
        }
    }
}
