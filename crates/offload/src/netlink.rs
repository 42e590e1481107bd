//! What we ask of the kernel over netlink, and what it tells by itself.
//!
//! [`Netlink`] is one socket and one question at a time; [`Events`] hears of changes. Messages are
//! taken apart by [`codec`], attribute by attribute: one that is longer, shorter or newer than we
//! know costs itself and not the message. [`route`] has links, addresses, routes and neighbours;
//! [`firewall`] what of the machine's packet filters a datagram would pass by.

pub(crate) mod codec;
pub(crate) mod firewall;
pub(crate) mod route;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr};

use codec::{Message, Request, messages};

/// The kernel sends no more in one datagram.
const RECEIVE: usize = 64 * 1024;
/// What a dump answers at most; more is not believed.
const MESSAGES: usize = 1 << 20;
/// How often a dump is repeated that changed while it was read.
const ATTEMPTS: u32 = 4;
/// Of changes not yet read; more are an overrun, after which everything is read anew.
const EVENTS_BUFFER: usize = 1 << 20;

/// A socket for questions.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// `protocol`: such as `libc::NETLINK_ROUTE`.
    pub(crate) fn open(protocol: i32) -> io::Result<Netlink> {
        let mut socket = Socket::new(protocol as isize)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let buffer = Vec::with_capacity(RECEIVE);
        Ok(Netlink { socket, sequence: 0, buffer })
    }

    /// Sends a request and returns what it was answered with, without the acknowledgement.
    pub(crate) fn ask(&mut self, request: Request) -> io::Result<Vec<Message>> {
        self.exchange(request, 0)
    }

    /// Asks for a whole table. A table that keeps changing is given as it was last read.
    pub(crate) fn dump(&mut self, request: Request) -> io::Result<Vec<Message>> {
        let mut attempt = 1;
        loop {
            match self.exchange(request.clone(), libc::NLM_F_DUMP as u16) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn exchange(&mut self, request: Request, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        self.socket.send(&request.finish(flags, self.sequence), 0)?;
        let mut answers = Vec::new();
        let mut changed = false;
        loop {
            receive(&self.socket, &mut self.buffer, 0)?;
            for message in messages(&self.buffer) {
                // An earlier question's, one that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                changed |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                match message.kind {
                    codec::DONE if changed => return Err(io::ErrorKind::Interrupted.into()),
                    codec::DONE => return message.error().map_or(Ok(answers), Err),
                    codec::ERROR => return message.error().map_or(Ok(answers), Err),
                    _ if answers.len() < MESSAGES => answers.push(message),
                    _ => return Err(io::Error::other("an answer without end")),
                }
            }
        }
    }
}

/// A socket that hears of changes of links, addresses, routes, rules and neighbours.
#[derive(Debug)]
pub(crate) struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// `groups`: such as `libc::RTNLGRP_NEIGH`, at most 32.
    pub(crate) fn open(groups: &[u32]) -> io::Result<Events> {
        let mut socket = Socket::new(libc::NETLINK_ROUTE as isize)?;
        socket.set_rx_buf_sz(EVENTS_BUFFER as libc::c_int)?;
        let mask = (groups.iter()).fold(0, |mask, &group| mask | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, mask))?;
        socket.set_non_blocking(true)?;
        let buffer = Vec::with_capacity(RECEIVE);
        Ok(Events { socket, buffer })
    }

    /// The next changes; none: there are no more for now.
    ///
    /// # Errors
    /// `ENOBUFS`: some were lost.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<Message>>> {
        match receive(&self.socket, &mut self.buffer, 0) {
            Ok(()) => Ok(Some(messages(&self.buffer).collect())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One datagram into the buffer. A cut one is an error: its last message cannot be trusted.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, flags: libc::c_int) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, flags | libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => {
                return Err(io::Error::other("an answer longer than the kernel sends"));
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
