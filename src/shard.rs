//! One thread's life: wait, receive a batch, route it, send it, carry out what the rules want,
//! keep the timers, read the mailbox.
//!
//! A shard owns its rules, its share of the listeners, the relay sockets of its allocations and
//! its clients' connections. Nothing on a datagram's way is shared with another shard, locked or
//! allocated. A received datagram stays where the kernel put it until it is sent on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use turnway_relay::{
    AllocationId, Client, Effect, Event, IcmpError, IpFields, Now, RelayId, Route, Server,
    Transport, Want,
};
use turnway_udp::{
    self as udp, Events, Interest, Outgoing, Payload, Poller, Prefix, ReceiveBatch, SendBatch,
};
use turnway_wire::{Family, Frame, frame};

use crate::io::tcp::{Connections, Full, Written};
use crate::io::udp::{Listener, RelaySockets, ip_fields};
use crate::log::Records;
use crate::mailbox::{Board, Command, Inbox, IoStats};
use crate::ports::{self, Ports};

/// Datagrams of one batch: larger ones were not found to be faster, and each takes a [`SLOT`].
const BATCH: usize = 32;

/// Outgoing datagrams queued before they are sent. A stream can hold thousands of tiny frames.
const QUEUE_MAX: usize = 256;

/// Bytes of a batch's slot: the largest frame of a stream, a little more than any datagram.
const SLOT: usize = 4 + 65_535 + 1024;

/// Datagrams taken from one relay socket before the next one has its turn.
const RELAY_TURN: usize = 32;

/// ICMP errors taken from one relay socket per turn.
const ERRORS_TURN: usize = 16;

/// Connections accepted per turn.
const ACCEPT_TURN: usize = 64;

/// A shard that has nothing to do still says this often that it is alive.
const IDLE: Duration = Duration::from_millis(1000);

/// Counters are published this long after they changed, at the latest.
const PUBLISH_NS: u64 = 50_000_000;

/// How long accepting pauses when descriptors have run out, and how often connections are swept.
const SECOND_NS: u64 = 1_000_000_000;

/// Tags of outgoing datagrams, for their errors.
const TO_PEER: u32 = 0;
const TO_CLIENT: u32 = 1;

/// Everything a shard is made of.
pub struct Parts {
    /// The rules.
    pub server: Server,
    /// Where relay ports come from.
    pub ports: Arc<Ports>,
    /// What others may ask.
    pub inbox: Inbox,
    /// Where counters are shown.
    pub board: Arc<Board>,
    /// Where log records go.
    pub records: Records,
    /// Bound UDP listeners.
    pub udp: Vec<Listener>,
    /// Bound TCP listeners.
    pub tcp: Vec<udp::TcpListenerFd>,
    /// Bounds of the TCP side.
    pub streams: StreamLimits,
}

/// What bounds a shard's TCP connections.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes queued for a client that does not read.
    pub send_queue: usize,
    /// How long a connection may be without an allocation or a message.
    pub idle: Duration,
}

/// A shard at work.
pub struct Shard {
    parts: Parts,
    poller: Poller,
    relays: RelaySockets,
    connections: Connections,
    sends: SendBatch,
    reply: Box<[u8; 2048]>,
    stats: IoStats,
    now: Now,
    published_ns: u64,
    unpublished: bool,
    swept_ns: u64,
    accept_resumes_ns: Option<u64>,
}

impl Shard {
    /// Registers the sockets; nothing is received before [`Self::run`].
    ///
    /// # Errors
    ///
    /// No descriptor or memory for the poller.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(
            parts.inbox.waker.as_fd(),
            Token::Waker.pack(),
            Interest::READ,
        )?;
        for (index, listener) in parts.udp.iter().enumerate() {
            let token = Token::UdpListener(index as u32);
            poller.add(listener.fd(), token.pack(), Interest::READ)?;
        }
        for (index, listener) in parts.tcp.iter().enumerate() {
            let token = Token::TcpListener(index as u32);
            poller.add(listener.as_fd(), token.pack(), Interest::READ)?;
        }
        Ok(Self {
            parts,
            poller,
            relays: RelaySockets::default(),
            connections: Connections::default(),
            sends: SendBatch::new(),
            reply: Box::new([0; 2048]),
            stats: IoStats::default(),
            now: clock(),
            published_ns: 0,
            unpublished: true,
            swept_ns: 0,
            accept_resumes_ns: None,
        })
    }

    /// Works until told to stop.
    pub fn run(mut self) {
        let mut batch = ReceiveBatch::with_slot_size(BATCH, SLOT);
        batch.prefault();
        let mut events = Events::new(256);
        loop {
            let timeout = self.timeout();
            if let Err(error) = self.poller.wait(&mut events, Some(timeout)) {
                // epoll_wait fails only on a programming error; do not spin on it.
                tracing::error!(%error, "epoll");
                std::thread::sleep(IDLE);
            }
            self.now = clock();
            self.parts.board.beat(self.now.mono_ns);
            for event in events.iter() {
                self.on_event(event, &mut batch);
            }
            self.finish(&mut batch);
            self.on_time(&batch);
            if self.read_mail(&batch) == Mail::Stop {
                break;
            }
            self.publish();
        }
        self.parts.server.shut_down(self.now);
        self.carry_out(&batch);
        self.parts
            .board
            .publish(self.parts.server.stats(), &self.stats);
    }

    fn timeout(&self) -> Duration {
        let now = udp::system::monotonic_ns();
        let until = |at_ns: u64| Duration::from_nanos(at_ns.saturating_sub(now));
        let deadline = self.parts.server.deadline().map_or(IDLE, until);
        let publish = if self.unpublished {
            until(self.published_ns + PUBLISH_NS)
        } else {
            IDLE
        };
        deadline.min(publish).min(IDLE)
    }

    fn on_event(&mut self, event: udp::Event, batch: &mut ReceiveBatch) {
        self.unpublished = true;
        match Token::unpack(event.token) {
            Token::Waker => self.parts.inbox.waker.drain(),
            Token::UdpListener(index) => self.on_listener(index, batch),
            Token::TcpListener(index) => self.on_accept(index),
            Token::Relay(slot, family) => {
                if event.error() {
                    self.on_icmp(slot, family, batch);
                }
                if event.readable() {
                    self.on_relay(slot, family, batch);
                }
            }
            Token::Connection(index) => {
                if event.writable() {
                    self.connections.mark_dirty(index);
                }
                if event.readable() || event.hangup() || event.error() {
                    self.on_stream(index, batch);
                }
            }
        }
    }

    /// Datagrams from clients.
    fn on_listener(&mut self, index: u32, batch: &mut ReceiveBatch) {
        if batch.free() < BATCH / 2 {
            self.finish(batch);
        }
        let listener = &mut self.parts.udp[index as usize];
        let Ok(range) = batch.receive(listener.fd(), BATCH) else {
            return;
        };
        self.stats.kernel_drops_listener += listener.new_drops(batch.dropped());
        for slot in range {
            let received = batch.get(slot);
            let listener = &self.parts.udp[index as usize];
            let client = listener.client(index, received.from, received.local);
            self.on_message(
                &client,
                slot,
                0..received.data.len(),
                ip_fields(&received),
                batch,
            );
        }
    }

    /// One message of a client, which lies in `range` of a slot.
    fn on_message(
        &mut self,
        client: &Client,
        slot: usize,
        range: std::ops::Range<usize>,
        ip: Option<IpFields>,
        batch: &ReceiveBatch,
    ) {
        let data = &batch.data(slot)[range.clone()];
        match self.parts.server.route_client(client, data, ip, self.now) {
            Route::ToPeer {
                via,
                to,
                skip,
                len,
                dont_fragment,
                ip,
            } => {
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
                    payload: Payload {
                        slot,
                        offset,
                        len: usize::from(len),
                    },
                    pad: 0,
                    tag: TO_PEER,
                });
                if self.sends.len() >= QUEUE_MAX {
                    self.flush(batch);
                }
            }
            Route::Request => {
                let event = Event::Request {
                    from: *client,
                    data,
                };
                self.parts
                    .server
                    .handle(event, self.now, &mut self.reply[..]);
                self.carry_out(batch);
            }
            Route::ToClient { .. } | Route::Drop(_) => {}
        }
    }

    /// Datagrams from peers.
    fn on_relay(&mut self, slot: u32, family: Family, batch: &mut ReceiveBatch) {
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
        for index in range {
            let received = batch.get(index);
            let (len, ip) = (received.data.len(), ip_fields(&received));
            let route = self
                .parts
                .server
                .route_peer(id, received.from, len, ip, self.now);
            if let Route::ToClient {
                to,
                prefix,
                pad,
                ip,
            } = route
            {
                self.queue_for_client(&to, prefix.as_bytes(), index, pad, ip, batch);
            }
        }
    }

    /// Queues a received datagram, wrapped, for its client.
    fn queue_for_client(
        &mut self,
        to: &Client,
        prefix: &[u8],
        slot: usize,
        pad: u8,
        ip: Option<IpFields>,
        batch: &ReceiveBatch,
    ) {
        let payload = batch.data(slot);
        match to.tuple.transport {
            Transport::Udp => self.sends.push(Outgoing {
                socket: self.parts.udp[to.link.0 as usize].raw(),
                to: to.tuple.client,
                source: Some(to.tuple.server.ip()),
                ttl: ip.map(|ip| ip.ttl),
                tos: ip.map(|ip| ip.tos),
                dont_fragment: false,
                prefix: Prefix::new(prefix),
                payload: Payload {
                    slot,
                    offset: 0,
                    len: payload.len(),
                },
                pad,
                tag: TO_CLIENT,
            }),
            Transport::Tcp => {
                let limit = self.parts.streams.send_queue;
                let Some(connection) = self.connections.of(to) else {
                    return;
                };
                let pieces = [prefix, payload, &[0; 3][..usize::from(pad)]];
                match connection.queue_data(pieces, limit) {
                    Ok(()) => self.connections.mark_dirty(to.link.0),
                    Err(Full::Dropped | Full::Close) => self.stats.tcp_queue_drops += 1,
                }
            }
        }
    }

    /// ICMP errors that came back to a relay socket.
    fn on_icmp(&mut self, slot: u32, family: Family, batch: &ReceiveBatch) {
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
                error: IcmpError {
                    family,
                    icmp_type,
                    code,
                    data,
                },
            };
            self.parts
                .server
                .handle(event, self.now, &mut self.reply[..]);
            self.carry_out(batch);
        }
    }

    /// New connections.
    fn on_accept(&mut self, index: u32) {
        for _ in 0..ACCEPT_TURN {
            match udp::accept(&self.parts.tcp[index as usize]) {
                Ok((stream, client, server)) => self.accepted(stream, client, server),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if ports::is_exhausted(&error) => return self.pause_accept(),
                Err(_) => {} // that connection failed before it was accepted
            }
        }
    }

    fn accepted(&mut self, stream: std::net::TcpStream, client: SocketAddr, server: SocketAddr) {
        if self.connections.len() >= self.parts.streams.connections {
            self.stats.tcp_refused += 1;
            return;
        }
        if udp::tune_stream(&stream).is_err() {
            return; // reset before it was accepted
        }
        let index = self
            .connections
            .insert(stream, client, server, self.now.mono_ns);
        let connection = self.connections.get_mut(index).expect("inserted just now");
        let token = Token::Connection(index).pack();
        if self
            .poller
            .add(connection.stream.as_fd(), token, Interest::READ)
            .is_err()
        {
            self.connections.remove(index);
            return self.pause_accept();
        }
        self.stats.tcp_accepted += 1;
    }

    /// Without descriptors a level-triggered listener would spin: look away for a while.
    fn pause_accept(&mut self) {
        self.stats.accept_paused += 1;
        self.accept_resumes_ns = Some(self.now.mono_ns + SECOND_NS);
        self.watch_listeners(Interest::NONE);
    }

    fn watch_listeners(&self, interest: Interest) {
        for (index, listener) in self.parts.tcp.iter().enumerate() {
            let token = Token::TcpListener(index as u32).pack();
            let watched = self.poller.modify(listener.as_fd(), token, interest);
            watched.expect("a registered listener can be modified without further memory");
        }
    }

    /// Bytes from a client's connection, or its end.
    fn on_stream(&mut self, index: u32, batch: &mut ReceiveBatch) {
        if batch.free() == 0 {
            self.finish(batch);
        }
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let read = batch.read_stream(&connection.carry, &mut &connection.stream);
        match read {
            Ok((_, 0)) => self.disconnect(index, batch),
            Ok((slot, _)) => self.on_frames(index, slot, batch),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.disconnect(index, batch),
            },
        }
    }

    fn on_frames(&mut self, index: u32, slot: usize, batch: &ReceiveBatch) {
        let Some(client) = self.connections.client(index) else {
            return;
        };
        let data = batch.data(slot);
        let mut at = 0;
        let valid = loop {
            match frame(&data[at..]) {
                Frame::Complete { len, payload } => {
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
            return self.disconnect(index, batch);
        }
        let Some(connection) = self.connections.of(&client) else {
            return;
        };
        if at > 0 {
            connection.active_ns = self.now.mono_ns;
        }
        connection.carry.clear();
        connection.carry.extend_from_slice(&data[at..]);
        if connection.carry.is_empty() {
            connection.carry = Vec::new();
        }
    }

    fn disconnect(&mut self, index: u32, batch: &ReceiveBatch) {
        if let Some(tuple) = self.connections.remove(index) {
            let event = Event::Disconnected { tuple };
            self.parts
                .server
                .handle(event, self.now, &mut self.reply[..]);
            self.carry_out(batch);
        }
    }

    /// Carries out all that the rules want.
    fn carry_out(&mut self, batch: &ReceiveBatch) {
        while let Some(effect) = self.parts.server.poll() {
            match effect {
                Effect::Reply { to, len } => self.answer(&to, len),
                Effect::Bind {
                    allocation,
                    want,
                    near,
                    owner,
                    until_ns,
                } => {
                    self.bind(allocation, &want, near, &owner, until_ns);
                }
                Effect::Close { relay } => self.close(relay, batch),
                // The listeners of channels relay in other ways; there is none yet.
                Effect::ChannelUp(_) | Effect::ChannelDown { .. } => {}
                Effect::Log(record) => self.parts.records.send(record),
            }
        }
    }

    fn answer(&mut self, to: &Client, len: usize) {
        let answer = &self.reply[..len];
        match to.tuple.transport {
            Transport::Udp => {
                let listener = &self.parts.udp[to.link.0 as usize];
                let source = Some(to.tuple.server.ip());
                if udp::send_one(listener.fd(), answer, to.tuple.client, source).is_err() {
                    self.stats.send_errors_to_client += 1;
                }
            }
            Transport::Tcp => {
                let limit = self.parts.streams.send_queue;
                let Some(connection) = self.connections.of(to) else {
                    return;
                };
                match connection.queue_answer(answer, limit) {
                    Ok(()) => self.connections.mark_dirty(to.link.0),
                    // It asks and never reads. Closing it shows at the next event.
                    Err(Full::Close | Full::Dropped) => {
                        let _ = connection.stream.shutdown(std::net::Shutdown::Both);
                        self.stats.tcp_queue_drops += 1;
                    }
                }
            }
        }
    }

    fn bind(
        &mut self,
        allocation: AllocationId,
        want: &Want,
        near: SocketAddr,
        owner: &Arc<[u8]>,
        until_ns: u64,
    ) {
        let mut opened = self.parts.ports.bind(&ports::Request {
            allocation,
            want,
            near: near.ip(),
            owner,
            until_ns,
            now_ns: self.now.mono_ns,
        });
        for (family, socket, local) in opened.sockets {
            let id = RelayId { allocation, family };
            let token = Token::Relay(allocation.slot, family).pack();
            if self
                .poller
                .add(socket.as_fd(), token, Interest::READ)
                .is_ok()
            {
                self.relays.insert(id, socket, local);
            } else {
                drop(socket);
                self.parts.ports.release(local);
                ports::refuse(&mut opened.bound, family);
            }
        }
        self.parts
            .server
            .handle(Event::Bound(opened.bound), self.now, &mut self.reply[..]);
    }

    fn close(&mut self, relay: RelayId, batch: &ReceiveBatch) {
        // Datagrams may be queued on the socket, and its number may soon be another's.
        self.flush(batch);
        if let Some(socket) = self.relays.remove(relay) {
            let local = socket.local;
            drop(socket);
            self.parts.ports.release(local);
        }
    }

    /// Sends what is queued and makes room for the next batch.
    fn finish(&mut self, batch: &mut ReceiveBatch) {
        self.flush(batch);
        while let Some(index) = self.connections.next_dirty() {
            self.write_stream(index, batch);
        }
        batch.clear();
    }

    fn flush(&mut self, batch: &ReceiveBatch) {
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

    fn write_stream(&mut self, index: u32, batch: &ReceiveBatch) {
        let limit = self.parts.streams.send_queue;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        match connection.write(limit) {
            Written::Same => {}
            Written::Watch(interest) => {
                let token = Token::Connection(index).pack();
                if self
                    .poller
                    .modify(connection.stream.as_fd(), token, interest)
                    .is_err()
                {
                    self.disconnect(index, batch);
                }
            }
            Written::Broken => self.disconnect(index, batch),
        }
    }

    /// What is due by the clock.
    fn on_time(&mut self, batch: &ReceiveBatch) {
        let deadline = self.parts.server.deadline();
        // What ends by the clock shows in the metrics, also of a server that nobody talks to.
        self.unpublished |= deadline.is_some_and(|at_ns| at_ns <= self.now.mono_ns);
        self.parts.server.expire(self.now);
        self.carry_out(batch);
        if self
            .accept_resumes_ns
            .is_some_and(|at_ns| at_ns <= self.now.mono_ns)
        {
            self.accept_resumes_ns = None;
            self.watch_listeners(Interest::READ);
        }
        if self.now.mono_ns - self.swept_ns >= SECOND_NS {
            self.swept_ns = self.now.mono_ns;
            self.close_idle(batch);
        }
    }

    /// Closes connections that have had no allocation for too long.
    fn close_idle(&mut self, batch: &ReceiveBatch) {
        let idle_ns = self.parts.streams.idle.as_nanos() as u64;
        let (now, server) = (self.now.mono_ns, &self.parts.server);
        let idle: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| now.saturating_sub(connection.active_ns) > idle_ns)
            .filter(|(_, connection)| !server.has_allocation(connection.tuple()))
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            self.unpublished = true;
            self.stats.tcp_idle_closed += 1;
            self.disconnect(index, batch);
        }
    }

    fn read_mail(&mut self, batch: &ReceiveBatch) -> Mail {
        while let Some(command) = self.parts.inbox.next() {
            let event = match command {
                Command::Configure(config) => Event::Configure(config),
                Command::Drain => Event::Drain,
                Command::Stop => return Mail::Stop,
            };
            self.parts
                .server
                .handle(event, self.now, &mut self.reply[..]);
            self.carry_out(batch);
        }
        Mail::Read
    }

    fn publish(&mut self) {
        let due = self.now.mono_ns >= self.published_ns + PUBLISH_NS;
        if self.unpublished && due {
            self.stats.tcp_connections = self.connections.len() as u64;
            self.parts
                .board
                .publish(self.parts.server.stats(), &self.stats);
            self.published_ns = self.now.mono_ns;
            self.unpublished = false;
        }
    }
}

#[derive(PartialEq, Eq)]
enum Mail {
    Read,
    Stop,
}

/// What an event is about, packed into the poller's 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Waker,
    UdpListener(u32),
    TcpListener(u32),
    Relay(u32, Family),
    Connection(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Waker => (0, 0),
            Self::UdpListener(index) => (1, index),
            Self::TcpListener(index) => (2, index),
            Self::Relay(slot, Family::V4) => (3, slot),
            Self::Relay(slot, Family::V6) => (4, slot),
            Self::Connection(index) => (5, index),
        };
        (kind << 32) | u64::from(index)
    }

    fn unpack(packed: u64) -> Self {
        let index = packed as u32;
        match packed >> 32 {
            1 => Self::UdpListener(index),
            2 => Self::TcpListener(index),
            3 => Self::Relay(index, Family::V4),
            4 => Self::Relay(index, Family::V6),
            5 => Self::Connection(index),
            _ => Self::Waker,
        }
    }
}

/// Both clocks, read once per turn.
pub fn clock() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        mono_ns: udp::system::monotonic_ns(),
        unix_s: unix.map_or(0, |since| since.as_secs()),
    }
}
