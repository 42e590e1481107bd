//! Relay ports with their sockets: the one pool all shards draw from.
//!
//! The pool's rules are [`turnway_relay::ports::PortPool`]; here they get a lock, the system's
//! random numbers and real sockets. The lock is taken once per Allocate and once per close, never
//! for a datagram. A socket bound for a reservation waits here, so that any shard can take it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use turnway_relay::ports::{Counts, Parity, PortPool};
use turnway_relay::{AllocationId, BindFailure, Bound, Protocol, RelayAddr, Shared, Want};
use turnway_udp as udp;
use turnway_wire::Family;

/// How many ports taken by other programs one Allocate tries before it gives up.
const BIND_ATTEMPTS: usize = 16;

/// Reservations that even a small range may hold.
const RESERVATIONS_ALWAYS: usize = 16;

/// Connections of peers that wait to be accepted on one relayed transport address.
const PEER_BACKLOG: i32 = 32;

/// How long a port found taken by another program is left alone.
const SET_ASIDE_NS: u64 = 60 * 1_000_000_000;

/// The pool, the sockets of reservations, and what addresses are called outside.
pub struct Ports {
    pool: Mutex<Inner>,
    relays: Vec<RelayAddrs>,
    buffer: usize,
    shared: Arc<Shared>,
    busy: AtomicU64,
}

struct Inner {
    complained_ns: Option<u64>,
    pool: PortPool,
    reserved: HashMap<SocketAddr, Entry>,
    random: Random,
}

/// A relay address as bound and as announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddrs {
    /// On our interface.
    pub local: IpAddr,
    /// What clients and peers are told.
    pub external: IpAddr,
}

/// What [`Ports::bind`] was asked.
pub struct Request<'a> {
    /// The allocation it is for.
    pub allocation: AllocationId,
    /// Which ports.
    pub want: &'a Want,
    /// For datagrams or for connections.
    pub protocol: Protocol,
    /// The relay address to prefer.
    pub near: IpAddr,
    /// The account a reservation belongs to.
    pub owner: &'a Arc<[u8]>,
    /// `mono_ns` until which a reservation holds.
    pub until_ns: u64,
    /// The time, in `mono_ns`.
    pub now_ns: u64,
}

/// The answer to [`Request`]: what the rules are told, and the sockets.
pub struct Opened {
    /// For the rules.
    pub bound: Bound,
    /// The relay sockets of `bound`, at most one per family.
    pub sockets: Vec<(Family, Entry, SocketAddr)>,
}

/// The socket of a relayed transport address.
pub enum Entry {
    /// Datagrams come and go.
    Datagrams(udp::Socket),
    /// Peers connect to it (RFC 6062).
    Connections(udp::TcpListenerFd),
}

impl Ports {
    /// A pool of `ports` on every address of `relays`. `buffer` is each socket's kernel buffer.
    pub fn new(
        relays: Vec<RelayAddrs>,
        ports: RangeInclusive<u16>,
        buffer: usize,
        shared: Arc<Shared>,
    ) -> Self {
        let locals: Vec<IpAddr> = relays.iter().map(|relay| relay.local).collect();
        let pool = PortPool::new(&locals, ports);
        let inner = Inner {
            complained_ns: None,
            pool,
            reserved: HashMap::new(),
            random: Random::default(),
        };
        Self { pool: Mutex::new(inner), relays, buffer, shared, busy: AtomicU64::new(0) }
    }

    /// Binds what an Allocate wants.
    pub fn bind(&self, request: &Request<'_>) -> Opened {
        let mut opened = Opened {
            bound: Bound { allocation: request.allocation, v4: None, v6: None, reservation: None },
            sockets: Vec::with_capacity(2),
        };
        let mut inner = self.lock();
        match request.want {
            Want::Any(family) => self.open(&mut inner, request, *family, Parity::Any, &mut opened),
            Want::Even(family) => {
                self.open(&mut inner, request, *family, Parity::Even, &mut opened);
            }
            // What is reserved and never fetched is the cheapest way to take ports from others.
            Want::EvenAndReserve(family) if inner.reservations_full() => {
                *slot(&mut opened.bound, *family) = Some(Err(BindFailure::NoPort));
            }
            Want::EvenAndReserve(family) => {
                self.open_pair(&mut inner, request, *family, &mut opened);
            }
            Want::Both { even } => {
                let parity = if *even { Parity::Even } else { Parity::Any };
                for family in [Family::V4, Family::V6] {
                    self.open(&mut inner, request, family, parity, &mut opened);
                }
            }
            Want::Reserved(token) => self.take(&mut inner, request, *token, &mut opened),
        }
        opened
    }

    /// Gives a port back. Its socket must be closed already.
    pub fn release(&self, local: SocketAddr) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            self.shared.live.set(protocol, local, false);
        }
        self.lock().pool.release(local);
    }

    /// Closes what reservations nobody came for. Returns when to call again, in `mono_ns`.
    pub fn expire(&self, now_ns: u64) -> Option<u64> {
        let mut inner = self.lock();
        while let Some(local) = inner.pool.expire(now_ns) {
            inner.reserved.remove(&local);
        }
        inner.pool.next_deadline_ns()
    }

    /// How many ports are in which state.
    pub fn counts(&self) -> Counts {
        self.lock().pool.counts()
    }

    /// How often a port was found taken by another program.
    pub fn busy(&self) -> u64 {
        self.busy.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.pool.lock().expect("no shard panics while it holds the pool")
    }

    fn open(
        &self,
        inner: &mut Inner,
        request: &Request<'_>,
        family: Family,
        parity: Parity,
        opened: &mut Opened,
    ) {
        let mut failure = BindFailure::NoPort;
        for _ in 0..BIND_ATTEMPTS {
            let Inner { pool, random, .. } = inner;
            let claimed = pool.claim(family, request.near, parity, &mut || random.next());
            let Some(local) = claimed else { break };
            match self.socket(inner, local, request) {
                Ok(socket) => return self.opened(opened, family, local, socket),
                Err(why) => failure = why,
            }
            if failure != BindFailure::NoPort {
                break;
            }
        }
        *slot(&mut opened.bound, family) = Some(Err(failure));
    }

    /// Opens an even port and keeps the next one bound for whoever presents the token.
    fn open_pair(
        &self,
        inner: &mut Inner,
        request: &Request<'_>,
        family: Family,
        opened: &mut Opened,
    ) {
        let mut failure = BindFailure::NoPort;
        for _ in 0..BIND_ATTEMPTS {
            let Inner { pool, random, .. } = inner;
            let claimed = pool.claim_pair(family, request.near, &mut || random.next());
            let Some(even) = claimed else { break };
            let odd = SocketAddr::new(even.ip(), even.port() + 1);
            // Each failed half is given up by `socket`; the other is released here.
            match (self.socket(inner, even, request), self.socket(inner, odd, request)) {
                (Ok(socket), Ok(reserved)) => {
                    let token = inner.random.token();
                    let owner = Arc::clone(request.owner);
                    inner.pool.reserve(odd, token, owner, request.until_ns);
                    inner.reserved.insert(odd, reserved);
                    opened.bound.reservation = Some(token);
                    return self.opened(opened, family, even, socket);
                }
                (Ok(socket), Err(why)) => {
                    drop(socket);
                    inner.pool.release(even);
                    failure = why;
                }
                (Err(why), Ok(socket)) => {
                    drop(socket);
                    inner.pool.release(odd);
                    failure = why;
                }
                (Err(why), Err(_)) => failure = why,
            }
            if failure != BindFailure::NoPort {
                break;
            }
        }
        *slot(&mut opened.bound, family) = Some(Err(failure));
    }

    fn take(&self, inner: &mut Inner, request: &Request<'_>, token: [u8; 8], opened: &mut Opened) {
        let taken = inner.pool.take(token, request.owner, request.now_ns);
        let taken = taken.and_then(|local| Some((local, inner.reserved.remove(&local)?)));
        match taken {
            Some((local, socket)) => {
                let family = family_of(local.ip());
                self.opened(opened, family, local, socket);
            }
            None => opened.bound.v4 = Some(Err(BindFailure::NoReservation)),
        }
    }

    /// Binds a claimed port. On failure the claim is gone, one way or another.
    fn socket(
        &self,
        inner: &mut Inner,
        local: SocketAddr,
        request: &Request<'_>,
    ) -> Result<Entry, BindFailure> {
        let now_ns = request.now_ns;
        let opened = match request.protocol {
            Protocol::Udp => udp::relay_udp(local, self.buffer).map(Entry::Datagrams),
            Protocol::Tcp => udp::relay_tcp(local, PEER_BACKLOG).map(Entry::Connections),
        };
        let error = match opened {
            Ok(entry) => return Ok(entry),
            Err(error) => error,
        };
        if matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EACCES)) {
            self.busy.fetch_add(1, Ordering::Relaxed);
            inner.pool.set_aside(local, now_ns + SET_ASIDE_NS);
            return Err(BindFailure::NoPort);
        }
        inner.pool.release(local);
        if is_exhausted(&error) {
            return Err(BindFailure::NoDescriptor);
        }
        // Nothing about this port: the next one would fail alike.
        if inner.complains(now_ns) {
            tracing::error!(address = %local.ip(), %error, "cannot bind relay sockets");
        }
        Err(BindFailure::NoAddress)
    }

    fn opened(&self, opened: &mut Opened, family: Family, local: SocketAddr, socket: Entry) {
        let protocol = match &socket {
            Entry::Datagrams(_) => Protocol::Udp,
            Entry::Connections(_) => Protocol::Tcp,
        };
        self.shared.live.set(protocol, local, true);
        let relay = self.relays.iter().find(|relay| relay.local == local.ip());
        let external = relay.map_or(local.ip(), |relay| relay.external);
        let external = SocketAddr::new(external, local.port());
        *slot(&mut opened.bound, family) = Some(Ok(RelayAddr { local, external }));
        opened.sockets.push((family, socket, local));
    }
}

impl Inner {
    /// Whether a quarter of the ports is reserved already (a few always may be).
    fn reservations_full(&self) -> bool {
        let Counts { free, claimed, reserved, set_aside } = self.pool.counts();
        reserved >= ((free + claimed + reserved + set_aside) / 4).max(RESERVATIONS_ALWAYS)
    }

    /// Whether it is time for one more line in the log about the same trouble.
    fn complains(&mut self, now_ns: u64) -> bool {
        let due = self.complained_ns.is_none_or(|last_ns| now_ns - last_ns > SET_ASIDE_NS);
        if due {
            self.complained_ns = Some(now_ns);
        }
        due
    }
}

/// Turns a bound address into a failure, for a socket that could not be used after all.
pub fn refuse(bound: &mut Bound, family: Family) {
    *slot(bound, family) = Some(Err(BindFailure::NoDescriptor));
}

/// Whether the process or the system has run out of descriptors or memory.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

fn slot(bound: &mut Bound, family: Family) -> &mut Option<Result<RelayAddr, BindFailure>> {
    match family {
        Family::V4 => &mut bound.v4,
        Family::V6 => &mut bound.v6,
    }
}

fn family_of(ip: IpAddr) -> Family {
    turnway_relay::address::family_of(ip)
}

/// Words of the system's CSPRNG, fetched some at a time.
#[derive(Default)]
struct Random {
    words: Vec<u32>,
}

impl Random {
    fn next(&mut self) -> u32 {
        loop {
            if let Some(word) = self.words.pop() {
                return word;
            }
            let mut bytes = [0; 256];
            getrandom::fill(&mut bytes).expect("Linux always has random bytes after boot");
            let word = |chunk: &[u8]| u32::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            self.words.extend(bytes.chunks_exact(4).map(word));
        }
    }

    fn token(&mut self) -> [u8; 8] {
        let (high, low) = (self.next().to_be_bytes(), self.next().to_be_bytes());
        [high[0], high[1], high[2], high[3], low[0], low[1], low[2], low[3]]
    }
}
