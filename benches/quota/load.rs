//! Traffic through a relay, both ways at once: what was offered, and what its receivers got.
//!
//! It shares the machine with the relay it measures, so it is one thread and few sockets. All UDP
//! clients are one socket with many loopback addresses, all peers are one socket: whom a datagram
//! is of shows in the addresses. A payload is [`PAYLOAD`] bytes, by channel to and from the client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use turnway_udp::{
    self as udp, Outgoing, Payload, Prefix, ReceiveBatch, Received, SendBatch, UdpListener,
};
use turnway_wire::channel_header;

use crate::common::Relay;
use crate::common::client::Client;
use crate::streams::Streams;

/// Payload bytes of every datagram.
pub(crate) const PAYLOAD: usize = 1_000;
/// The same as ChannelData, which needs no padding on a stream.
pub(crate) const FRAME: usize = 4 + PAYLOAD;
/// The channel of every client.
pub(crate) const CHANNEL: u16 = 0x4000;

/// Room for what arrives while this thread does not run.
const SOCKET_BUFFER: usize = 32 << 20;
/// How often it looks what is due and what has come.
const TICK: Duration = Duration::from_millis(1);
/// What bursty senders have for so long they send in one go...
const BURST_EVERY: Duration = Duration::from_millis(100);
/// ...as fast as a gigabit line takes it: payload bytes per second, all of them together.
const LINE: f64 = 125e6;

/// How clients reach the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// When a sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Evenly.
    Constant,
    /// All of 100 ms in one go, every 100 ms.
    Bursty,
}

/// Payload bytes of one allocation in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Taken by the kernel from the sender.
    pub(crate) offered: u64,
    /// Got by the receiver.
    pub(crate) received: u64,
}

/// All that has happened so far: tallies of each allocation, to the peer and to the client.
#[derive(Clone)]
pub(crate) struct Count {
    pub(crate) at: Duration,
    pub(crate) flows: Vec<[Tally; 2]>,
    /// Datagrams that the generator itself had no room for.
    pub(crate) lost: u64,
}

impl Count {
    /// What happened since an earlier count.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let minus = |now: &Tally, then: &Tally| Tally {
            offered: now.offered - then.offered,
            received: now.received - then.received,
        };
        let pairs = self.flows.iter().zip(&earlier.flows);
        let flows = pairs.map(|(now, then)| [0, 1].map(|at| minus(&now[at], &then[at])));
        Self { at: self.at - earlier.at, flows: flows.collect(), lost: self.lost - earlier.lost }
    }

    /// All allocations together, in one direction.
    pub(crate) fn total(&self, direction: usize) -> Tally {
        self.flows.iter().fold(Tally::default(), |sum, flow| Tally {
            offered: sum.offered + flow[direction].offered,
            received: sum.received + flow[direction].received,
        })
    }
}

/// An allocation, and what is to be sent through it.
struct Flow {
    client: SocketAddr,
    relayed: SocketAddr,
    /// Payload bytes per second in each direction.
    rate: f64,
    /// Payload bytes that are due.
    due: f64,
    tallies: [Tally; 2],
}

/// See the module.
pub(crate) struct Load {
    server: SocketAddr,
    clients: Clients,
    peer: udp::Socket,
    flows: Vec<Flow>,
    /// Allocations by relay port, and by the last two bytes of the client's address.
    by_port: Vec<u16>,
    by_client: Vec<u16>,
    shape: Shape,
    started: Instant,
    /// The time until which everything due has been sent, and the end of the present run.
    sent_until: Duration,
    end: Duration,
    /// The one datagram that everybody sends, as a client does.
    datagram: ReceiveBatch,
    arrived: ReceiveBatch,
    sends: SendBatch,
    lost: [u32; 2],
}

enum Clients {
    Udp(UdpListener),
    Tcp(Streams),
}

impl Load {
    /// Makes allocations of one user and binds their channels.
    pub(crate) fn open(relay: &Relay, transport: Transport, allocations: usize) -> Self {
        let mut load = Self::empty(relay, transport);
        (0..allocations).for_each(|_| load.allocate(relay));
        load
    }

    /// Makes allocations so that each of two shards has as many as told, those of the first one
    /// first, however often the kernel must be asked for it.
    pub(crate) fn placed(relay: &mut Relay, on_shards: [usize; 2]) -> Self {
        let mut load = Self::empty(relay, Transport::Udp);
        let mut found = [Vec::new(), Vec::new()];
        for number in 0..ATTEMPTS {
            let (mut client, flow) = load.udp_client(relay, number);
            let shard = shard_of(relay, flow.client);
            if found[shard].len() < on_shards[shard] {
                found[shard].push(flow);
            } else {
                client.refresh(0).expect_success();
            }
            if [found[0].len(), found[1].len()] == on_shards {
                found.into_iter().flatten().for_each(|flow| load.add(flow));
                return load;
            }
        }
        panic!("the kernel never chose {on_shards:?}");
    }

    fn empty(relay: &Relay, transport: Transport) -> Self {
        let mut datagram = ReceiveBatch::new(1);
        let bytes = [&channel_header(CHANNEL, PAYLOAD as u16), &[0xAB; PAYLOAD][..]].concat();
        datagram.read_stream([&[], &[]], &mut &bytes[..]).expect("a slot is free");
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let peer = SocketAddr::new(relay.ip(), 0);
        Self {
            server: relay.address,
            clients: match transport {
                Transport::Udp => {
                    Clients::Udp(udp::listener_udp(any, SOCKET_BUFFER).expect("binds").0)
                }
                Transport::Tcp => Clients::Tcp(Streams::new()),
            },
            peer: udp::relay_udp(peer, SOCKET_BUFFER).expect("binds"),
            flows: Vec::new(),
            by_port: vec![u16::MAX; 1 << 16],
            by_client: vec![u16::MAX; 1 << 16],
            shape: Shape::Constant,
            started: Instant::now(),
            sent_until: Duration::ZERO,
            end: Duration::ZERO,
            datagram,
            arrived: ReceiveBatch::new(64),
            sends: SendBatch::new(),
            lost: [0; 2],
        }
    }

    /// Offers so many payload bytes per second and direction, all allocations together, from now
    /// on.
    pub(crate) fn offer(&mut self, shape: Shape, rate: u64) {
        let each = rate as f64 / self.flows.len() as f64;
        self.offer_each(shape, |_| each);
    }

    /// Offers so many payload bytes per second and direction through each allocation by number.
    pub(crate) fn offer_each(&mut self, shape: Shape, rate: impl Fn(usize) -> f64) {
        self.shape = shape;
        let count = self.flows.len();
        for (number, flow) in self.flows.iter_mut().enumerate() {
            flow.rate = rate(number);
            // One after the other, not all at once.
            flow.due = (PAYLOAD * number / count) as f64;
        }
        self.started = Instant::now();
        (self.sent_until, self.end) = (Duration::ZERO, Duration::ZERO);
    }

    /// Offers nothing more through one allocation.
    pub(crate) fn silence(&mut self, number: usize) {
        self.flows[number].rate = 0.0;
        self.flows[number].due = 0.0;
    }

    /// Sends and receives for some time, and counts. Runs follow each other without a gap.
    pub(crate) fn run(&mut self, time: Duration) -> Count {
        self.end += time;
        let mut next = self.started.elapsed();
        loop {
            let now = self.started.elapsed();
            if now >= self.end {
                break;
            }
            self.send(now);
            self.receive();
            next = now.max(next + TICK);
            thread::sleep(next.saturating_sub(self.started.elapsed()));
        }
        self.receive();
        self.count()
    }

    fn count(&self) -> Count {
        Count {
            at: self.started.elapsed(),
            flows: self.flows.iter().map(|flow| flow.tallies).collect(),
            lost: self.lost.iter().copied().map(u64::from).sum(),
        }
    }

    /// Sends what has come due.
    fn send(&mut self, now: Duration) {
        let until = match self.shape {
            Shape::Constant => now,
            Shape::Bursty => {
                let all: f64 = self.flows.iter().map(|flow| flow.rate).sum();
                let within = now.as_nanos() % BURST_EVERY.as_nanos();
                let within = Duration::from_nanos(within as u64);
                now - within + BURST_EVERY.min(within.mul_f64(LINE / all.max(1.0)))
            }
        };
        let seconds = until.saturating_sub(self.sent_until).as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        self.sent_until = until;
        for number in 0..self.flows.len() {
            let flow = &mut self.flows[number];
            flow.due += flow.rate * seconds;
            let datagrams = flow.due as usize / PAYLOAD;
            flow.due -= (datagrams * PAYLOAD) as f64;
            for _ in 0..datagrams {
                self.send_to_relay(number);
            }
            if self.sends.len() >= SENDS_MAX {
                self.flush();
                self.receive();
            }
        }
        self.flush();
    }

    /// A datagram from the peer and one from the client.
    fn send_to_relay(&mut self, number: usize) {
        let flow = &mut self.flows[number];
        let tag = (number as u32) << 1;
        let peer = self.peer.as_raw_fd();
        self.sends.push(outgoing(peer, flow.relayed, None, 4, tag | TO_CLIENT));
        match &mut self.clients {
            Clients::Udp(socket) => {
                let (socket, from) = (socket.as_raw_fd(), Some(flow.client.ip()));
                self.sends.push(outgoing(socket, self.server, from, 0, tag | TO_PEER));
            }
            Clients::Tcp(streams) => {
                flow.tallies[0].offered += streams.write(number) as u64;
            }
        }
    }

    fn flush(&mut self) {
        let flows = &mut self.flows;
        self.sends.flush(&self.datagram, &mut |tag, result| {
            if result.is_ok() {
                let (number, direction) = (tag >> 1, tag & 1);
                flows[number as usize].tallies[direction as usize].offered += PAYLOAD as u64;
            }
        });
    }

    /// Takes in all that has come.
    fn receive(&mut self) {
        let (flows, batch) = (&mut self.flows, &mut self.arrived);
        receive_all(batch, self.peer.as_fd(), &mut self.lost[0], |received| {
            let number = self.by_port[usize::from(received.from.port())];
            let flow = flows.get_mut(usize::from(number)).expect("only the relay sends here");
            flow.tallies[0].received += received.data.len() as u64;
        });
        match &mut self.clients {
            Clients::Udp(socket) => {
                receive_all(batch, socket.as_fd(), &mut self.lost[1], |received| {
                    let to = received.local.expect("the kernel tells the address");
                    let number = self.by_client[low_bytes(to)];
                    let flow = flows.get_mut(usize::from(number)).expect("one of the clients");
                    let bytes = received.data.len() - 4 * received.segments().len();
                    flow.tallies[1].received += bytes as u64;
                });
            }
            Clients::Tcp(streams) => streams.read(|number, bytes| {
                flows[number].tallies[1].received += bytes as u64;
            }),
        }
    }

    fn allocate(&mut self, relay: &Relay) {
        match &self.clients {
            Clients::Udp(_) => {
                let (_, flow) = self.udp_client(relay, self.flows.len());
                self.add(flow);
            }
            Clients::Tcp(_) => {
                let mut client = Client::tcp(relay.address);
                let flow = self.flow(&mut client);
                self.add(flow);
                let Clients::Tcp(streams) = &mut self.clients else { unreachable!() };
                streams.add(client.stream());
            }
        }
    }

    /// Makes an allocation from the next address that all UDP clients' socket has. It stays when
    /// the client, who does not stand in that socket's way then, goes.
    fn udp_client(&self, relay: &Relay, number: usize) -> (Client, Flow) {
        let Clients::Udp(shared) = &self.clients else { unreachable!() };
        let port = shared.local_addr().expect("bound").port();
        let from = SocketAddr::new(address_of(number).into(), port);
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("a socket");
        socket.bind(&SockAddr::from(from)).expect("only the shared socket has this port");
        let mut client = Client::udp_from(UdpSocket::from(socket), relay.address);
        let flow = self.flow(&mut client);
        (client, flow)
    }

    fn flow(&self, client: &mut Client) -> Flow {
        let relayed = client.allocate();
        let peer = self.peer.local_addr().expect("bound");
        client.bind(CHANNEL, peer).expect_success();
        let client = client.local_addr();
        Flow { client, relayed, rate: 0.0, due: 0.0, tallies: [Tally::default(); 2] }
    }

    fn add(&mut self, flow: Flow) {
        let number = self.flows.len() as u16;
        self.by_port[usize::from(flow.relayed.port())] = number;
        self.by_client[low_bytes(flow.client.ip())] = number;
        self.flows.push(flow);
    }
}

/// Clients tried until the kernel has spread them as wanted: nine in ten on one of two shards
/// takes about twenty.
const ATTEMPTS: usize = 1_000;

/// Datagrams handed to the kernel before what has come is taken in.
const SENDS_MAX: usize = 512;

/// Indices of [`Flow::tallies`], and tags of datagrams.
const TO_PEER: u32 = 0;
const TO_CLIENT: u32 = 1;

/// The part of the one datagram that begins at `skip`.
fn outgoing(
    socket: RawFd,
    to: SocketAddr,
    source: Option<IpAddr>,
    skip: usize,
    tag: u32,
) -> Outgoing {
    Outgoing {
        socket,
        to,
        source,
        ttl: None,
        tos: None,
        dont_fragment: false,
        prefix: Prefix::EMPTY,
        payload: Payload { slot: 0, offset: skip, len: FRAME - skip },
        pad: 0,
        tag,
    }
}

/// Receives until nothing is there. `lost` is what the socket has had no room for, in all.
fn receive_all(
    batch: &mut ReceiveBatch,
    socket: BorrowedFd<'_>,
    lost: &mut u32,
    mut take: impl FnMut(Received<'_>),
) {
    loop {
        batch.clear();
        let slots = batch.free();
        let came = batch.receive(socket, slots).expect("the socket is open");
        *lost = batch.dropped().unwrap_or(*lost);
        let more = came.len() == slots;
        came.for_each(|slot| take(batch.get(slot)));
        if !more {
            return;
        }
    }
}

/// The address of the n-th UDP client: none that a relay of a test has.
fn address_of(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(127, 254, high, low)
}

fn low_bytes(ip: IpAddr) -> usize {
    match ip {
        IpAddr::V4(ip) => usize::from(ip.to_bits() as u16),
        IpAddr::V6(_) => unreachable!("clients are on 127.0.0.0/8"),
    }
}

/// The shard that a client's allocation is on: its number is in the session's.
pub(crate) fn shard_of(relay: &mut Relay, client: SocketAddr) -> usize {
    let wanted = format!("client={client} ");
    let line = relay.await_line("the allocation", |line| {
        line.contains("allocation started") && line.contains(&wanted)
    });
    let id = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    let id: u64 = id.and_then(|id| id.parse().ok()).expect("a session number");
    (id >> SESSION_BITS) as usize
}

/// Bits of a session number below the shard's.
const SESSION_BITS: u32 = 48;
