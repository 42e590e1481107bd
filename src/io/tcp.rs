//! Clients' connections, over TCP and over TLS: bounded buffers both ways, and back-pressure.
//!
//! What is received is decrypted and framed in the shard's receive batch; only what is incomplete
//! is kept here. What is to be sent is encrypted at once, gathered per connection and written once
//! per batch. A client that does not read loses relayed datagrams; one that does not read its answers
//! either is not read from.
//!
//! What a connection's bytes are is its [`Layer`], which begins with what its door says: first a
//! PROXY header perhaps, then TLS or not.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;

use turnway_relay::{Client, ConnectionId, FiveTuple, Link, RealmId, Transport};
use turnway_udp::Interest;

use super::door::{Entrance, Speaks};
use super::proxy::{self, Parsed};
use super::sources::Place;
use crate::tls::{Session, SessionError};

/// Room beyond the queue's limit for answers to requests, which are never dropped.
const ANSWER_ROOM: usize = 64 * 1024;

/// Buffers smaller than this are kept when empty, larger ones given back.
const KEEP_CAPACITY: usize = 4 * 1024;

/// Reads before a connection is closed.
const LAST_READS: usize = 4;

/// The first byte of a TLS record that begins a handshake (RFC 7983 has it in the same range).
const TLS_HANDSHAKE: u8 = 22;

/// What the bytes of a connection are.
pub enum Layer {
    /// A PROXY header comes first.
    Proxied,
    /// TLS or TURN: the next byte tells.
    Either,
    /// TURN within TLS.
    Tls(Box<Session>),
    /// TURN.
    Plain,
}

/// One client's connection.
pub struct Connection {
    /// The stream, non-blocking.
    pub stream: TcpStream,
    tuple: FiveTuple,
    layer: Layer,
    /// Which of the entrance's doors it came through.
    door: u16,
    /// The realm of its client, unless it says that it is of another.
    realm: RealmId,
    /// Its place among the connections from its source; the proxy's do not count.
    place: Option<Place>,
    /// Whose it is was said by a proxy.
    introduced: bool,
    /// What was read and waits for more: the beginning of a frame, and bytes that its layer has
    /// not taken in.
    carry: [Vec<u8>; 2],
    /// One message, on its way to be encrypted.
    plain: Vec<u8>,
    /// As it goes out, once per batch.
    queue: Vec<u8>,
    written: usize,
    /// What the poller watches for.
    interest: Interest,
    /// `mono_ns` of when it was accepted, or was last seen to have an allocation.
    used_ns: u64,
    /// Waiting to be written at the end of the batch.
    dirty: bool,
    /// The connection to a peer that it is joined to (RFC 6062): it carries data only.
    pub splice: Option<ConnectionId>,
    /// Its peer does not take what was read last: nothing more is read.
    pub paused: bool,
    /// The poller does not watch it: nothing more is written to it, and nothing read for now.
    pub unwatched: bool,
    /// It came from another shard, or goes there.
    pub handed_over: bool,
}

/// What a read has brought, in the buffer it was read to.
pub struct Opened {
    /// Where the client's messages lie.
    pub messages: Range<usize>,
    /// From here on the layer waits for more.
    pub rest: usize,
    /// The client has said that it sends nothing more.
    pub closed: bool,
}

/// Why a connection has to go.
#[derive(Debug)]
pub enum Broken {
    /// It should have begun with a PROXY header.
    Proxy,
    /// Its source has as many connections, or as many handshakes, as it may have.
    Crowded,
    /// TLS failed; the client is to be sent what is queued.
    Tls(SessionError),
    /// What it sends is no message of TURN.
    NotTurn,
    /// A message that has no end is longer than is waited for.
    TooLong,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// The poller's interest is right as it is.
    Same,
    /// The poller must watch for this from now on.
    Watch(Interest),
    /// The connection is broken.
    Broken,
}

/// Why something could not be queued.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// A relayed datagram is lost, as on any slow link.
    Dropped,
    /// Even answers have no more room: the connection must be closed.
    Close,
}

impl Connection {
    /// Its five-tuple; known for sure once [`Self::is_opening`] is over.
    pub fn tuple(&self) -> FiveTuple {
        self.tuple
    }

    /// A connection that was accepted at a door, unless its source has too many.
    pub fn new(stream: TcpStream, ends: [SocketAddr; 2], entered: Entered<'_>) -> Option<Self> {
        let [client, server] = ends.map(turnway_relay::address::without_flow_label);
        let Entered { entrance, door, now_ns } = entered;
        let at = entrance.door(door);
        let proxied = at.is_proxy(client.ip());
        let place = match proxied {
            true => None,
            false => Some(entrance.sources.enter(client.ip())?),
        };
        let tuple = FiveTuple { transport: Transport::Tcp, client, server };
        let mut connection = Self {
            stream,
            tuple,
            layer: Layer::Proxied,
            door,
            realm: at.realm,
            place,
            introduced: false,
            carry: [Vec::new(), Vec::new()],
            plain: Vec::new(),
            queue: Vec::new(),
            written: 0,
            interest: Interest::READ,
            used_ns: now_ns,
            dirty: false,
            splice: None,
            paused: false,
            unwatched: false,
            handed_over: false,
        };
        if !proxied {
            connection.begin(entered).ok()?;
        }
        Some(connection)
    }

    /// Begins with what clients of a door speak.
    fn begin(&mut self, entered: Entered<'_>) -> Result<(), Broken> {
        match entered.entrance.door(self.door).speaks {
            Speaks::Plain => self.layer = Layer::Plain,
            Speaks::Either => self.layer = Layer::Either,
            Speaks::Secured => self.begin_tls(entered)?,
        }
        Ok(())
    }

    fn begin_tls(&mut self, Entered { entrance, now_ns, .. }: Entered<'_>) -> Result<(), Broken> {
        if !entrance.handshakes.allow(self.tuple.client.ip(), now_ns) {
            return Err(Broken::Crowded);
        }
        self.tuple.transport = Transport::Tls;
        self.layer = Layer::Tls(Box::new(Session::new(entrance.certificates())));
        Ok(())
    }

    /// What was read before and waits for more: to be read on behind it.
    pub fn carry(&self) -> [&[u8]; 2] {
        [&self.carry[0], &self.carry[1]]
    }

    /// Keeps what is incomplete: the beginning of a message, and what the layer waits with.
    pub fn keep(&mut self, message: &[u8], rest: &[u8]) {
        for (carry, bytes) in self.carry.iter_mut().zip([message, rest]) {
            carry.clear();
            if bytes.is_empty() {
                *carry = Vec::new();
            }
            carry.extend_from_slice(bytes);
        }
    }

    /// Whether the client still has to say who it is or to finish a handshake.
    pub fn is_opening(&self) -> bool {
        match &self.layer {
            Layer::Proxied | Layer::Either => true,
            Layer::Tls(session) => session.is_handshaking(),
            Layer::Plain => false,
        }
    }

    /// Takes in what was read: `buffer` begins with what [`Self::carry`] gave. Decrypts it in
    /// place, and queues what a handshake has to answer.
    ///
    /// # Errors
    ///
    /// Why the connection has to go, once what is queued is written.
    pub fn open(
        &mut self,
        buffer: &mut [u8],
        entrance: &Entrance,
        now_ns: u64,
    ) -> Result<Opened, Broken> {
        let entered = Entered { entrance, door: self.door, now_ns };
        let mut begin = 0;
        loop {
            let whole = begin..buffer.len();
            match &mut self.layer {
                Layer::Plain => {
                    let rest = whole.end;
                    return Ok(Opened { messages: whole, rest, closed: false });
                }
                Layer::Tls(session) => {
                    let plain = self.carry[0].len();
                    let received = session
                        .receive(&mut buffer[begin..], plain, &mut self.queue)
                        .map_err(Broken::Tls)?;
                    return Ok(Opened {
                        messages: begin..begin + received.plain,
                        rest: begin + received.consumed,
                        closed: received.closed,
                    });
                }
                Layer::Either if whole.is_empty() => return Ok(waiting(begin)),
                Layer::Either => match buffer[begin] {
                    TLS_HANDSHAKE => self.begin_tls(entered)?,
                    _ => self.layer = Layer::Plain,
                },
                Layer::Proxied => match proxy::parse(&buffer[begin..]) {
                    Parsed::Incomplete => return Ok(waiting(begin)),
                    Parsed::Invalid => return Err(Broken::Proxy),
                    Parsed::Local { len } => {
                        begin += len;
                        self.begin(entered)?;
                    }
                    Parsed::Proxied { client, server, len } => {
                        begin += len;
                        self.introduce(client, server, entered)?;
                    }
                },
            }
        }
    }

    /// Learns from a proxy whose connection it is.
    fn introduce(
        &mut self,
        client: SocketAddr,
        server: SocketAddr,
        entered: Entered<'_>,
    ) -> Result<(), Broken> {
        self.place = Some(entered.entrance.sources.enter(client.ip()).ok_or(Broken::Crowded)?);
        (self.tuple.client, self.tuple.server) = (client, server);
        self.introduced = true;
        self.begin(entered)
    }

    /// Says farewell, where the layer has a word for it. Nobody waits for it to arrive.
    pub fn farewell(&mut self) {
        if let Layer::Tls(session) = &mut self.layer {
            session.close(&mut self.queue);
        }
        let _ = (&self.stream).write(&self.queue[self.written..]);
        let _ = self.stream.shutdown(Shutdown::Write);
        // What was not read when a socket closes makes the kernel reset the connection, and take
        // back what was just written.
        let mut unread = [0; 4096];
        for _ in 0..LAST_READS {
            match (&self.stream).read(&mut unread) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    }

    /// Whether it is a proxy that says whose connection this is.
    pub fn is_introduced(&self) -> bool {
        self.introduced
    }

    /// Whether something waits to be written.
    pub fn has_queued(&self) -> bool {
        self.pending() > 0
    }

    /// Queues the layer's word for the end of what is sent. More may be received. Once all is
    /// written, [`Self::end_writing`].
    pub fn end_sending(&mut self) {
        if let Layer::Tls(session) = &mut self.layer {
            session.end_sending(&mut self.queue);
        }
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn end_writing(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.pending()
    }

    /// It leaves its shard. The next one begins with it as with any new connection.
    pub fn leave_shard(&mut self) {
        (self.interest, self.dirty, self.handed_over) = (Interest::READ, false, true);
    }

    fn pending(&self) -> usize {
        self.queue.len() - self.written
    }

    /// Queues an answer.
    pub fn queue_answer(&mut self, answer: &[u8], limit: usize) -> Result<(), Full> {
        if self.pending() + answer.len() > limit + ANSWER_ROOM {
            return Err(Full::Close);
        }
        self.queue_message([answer, &[], &[]])
    }

    /// Queues a relayed datagram.
    pub fn queue_data(&mut self, pieces: [&[u8]; 3], limit: usize) -> Result<(), Full> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.pending() + len > limit {
            return Err(Full::Dropped);
        }
        self.queue_message(pieces)
    }

    /// Queues one message. It becomes a TLS record of its own: coturn's clients take one message
    /// from each and lose what else is in it.
    fn queue_message(&mut self, pieces: [&[u8]; 3]) -> Result<(), Full> {
        match &mut self.layer {
            Layer::Proxied | Layer::Either | Layer::Plain => {
                for piece in pieces {
                    self.queue.extend_from_slice(piece);
                }
                Ok(())
            }
            Layer::Tls(session) => {
                for piece in pieces {
                    self.plain.extend_from_slice(piece);
                }
                let sent = session.send(&self.plain, &mut self.queue);
                empty(&mut self.plain);
                sent.map_err(|_| Full::Close)
            }
        }
    }

    /// Whether the kernel had no room when it was last written to, and has not said since that it
    /// has some.
    pub fn is_blocked(&self) -> bool {
        self.interest != Interest::READ
    }

    /// Writes what is queued as far as the client takes it.
    pub fn write(&mut self, limit: usize) -> Written {
        self.dirty = false;
        while self.pending() > 0 {
            match (&self.stream).write(&self.queue[self.written..]) {
                Ok(0) => return Written::Broken,
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Written::Broken,
            }
        }
        self.compact();
        self.watch(limit)
    }

    fn compact(&mut self) {
        if self.pending() == 0 {
            empty(&mut self.queue);
            self.written = 0;
        } else if self.written >= self.queue.len() / 2 {
            self.queue.drain(..self.written);
            self.written = 0;
        }
    }

    /// What the poller must watch for. A client with half its queue unread is not read from until it
    /// has taken most of it.
    pub fn watch(&mut self, limit: usize) -> Written {
        let reading = self.interest == Interest::READ || self.interest == Interest::READ_WRITE;
        let pending = self.pending();
        let read = if reading { pending < limit / 2 } else { pending < limit / 4 };
        // Of a spliced one both directions are independent, and each has its own end.
        let read = if self.splice.is_some() { !self.paused } else { read || pending == 0 };
        let wanted = match (pending > 0, read) {
            (false, true) => Interest::READ,
            (false, false) => Interest::NONE,
            (true, true) => Interest::READ_WRITE,
            (true, false) => Interest::WRITE,
        };
        if wanted == self.interest || self.unwatched {
            return Written::Same;
        }
        self.interest = wanted;
        Written::Watch(wanted)
    }

    /// What the poller watches for, or did before it was told not to.
    pub fn interest(&self) -> Interest {
        self.interest
    }
}

/// How a connection came in.
#[derive(Clone, Copy)]
pub struct Entered<'a> {
    /// Where.
    pub entrance: &'a Entrance,
    /// Through which door.
    pub door: u16,
    /// When, in `mono_ns`.
    pub now_ns: u64,
}

/// Nothing but what has to wait for more, from `begin` on.
fn waiting(begin: usize) -> Opened {
    Opened { messages: begin..begin, rest: begin, closed: false }
}

/// Empties a buffer, and gives back a large one.
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP_CAPACITY {
        *buffer = Vec::new();
    }
}

/// The connections of a shard.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    /// Those that proxies introduced. The kernel sees to it that no two connections have the same
    /// addresses, but a proxy may still have one that its client has given up.
    introduced: HashMap<[SocketAddr; 2], u32>,
}

impl Connections {
    /// Takes in a connection and names it.
    pub fn insert(&mut self, connection: Connection) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(connection);
        index
    }

    /// A connection by name.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The client on a connection, as the rules know it. `realm_of` says which realm the server
    /// name belongs to that it gave to TLS.
    pub fn client(
        &self,
        index: u32,
        realm_of: impl FnOnce(&str) -> Option<RealmId>,
    ) -> Option<Client> {
        let connection = self.slots.get(index as usize)?.as_ref()?;
        let server_name = match &connection.layer {
            Layer::Tls(session) => session.server_name(),
            Layer::Proxied | Layer::Either | Layer::Plain => None,
        };
        let realm = server_name.and_then(realm_of).unwrap_or(connection.realm);
        Some(Client { tuple: connection.tuple, link: Link(index), realm })
    }

    /// The connection of a client, unless it was replaced by another's.
    pub fn of(&mut self, client: &Client) -> Option<&mut Connection> {
        self.get_mut(client.link.0).filter(|connection| connection.tuple == client.tuple)
    }

    /// Takes a connection out, to be closed.
    pub fn remove(&mut self, index: u32) -> Option<Connection> {
        let connection = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        if connection.introduced {
            let key = [connection.tuple.client, connection.tuple.server];
            if self.introduced.get(&key) == Some(&index) {
                self.introduced.remove(&key);
            }
        }
        Some(connection)
    }

    /// Remembers a connection that a proxy has introduced, and gives the one in whose place it
    /// comes: that has to go.
    pub fn introduce(&mut self, index: u32) -> Option<u32> {
        let connection = self.slots.get(index as usize)?.as_ref()?;
        let key = [connection.tuple.client, connection.tuple.server];
        self.introduced.insert(key, index).filter(|&older| older != index)
    }

    /// All of them, to be closed.
    pub fn drain(&mut self) -> impl Iterator<Item = Connection> + '_ {
        self.slots.drain(..).flatten()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Remembers that a connection has something to write.
    pub fn mark_dirty(&mut self, index: u32) {
        if let Some(Some(connection)) = self.slots.get_mut(index as usize)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// The next connection that has something to write.
    pub fn next_dirty(&mut self) -> Option<u32> {
        self.dirty.pop()
    }

    /// The connections that have had no allocation for too long, whatever they sent, and those
    /// that take too long over their handshake.
    pub fn idle(
        &mut self,
        now_ns: u64,
        patience: Patience,
        has_allocation: impl Fn(&FiveTuple) -> bool,
    ) -> Vec<(u32, Idle)> {
        let mut idle = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(connection) = slot else { continue };
            let unused_ns = now_ns.saturating_sub(connection.used_ns);
            if connection.is_opening() {
                if unused_ns > patience.opening_ns {
                    idle.push((index as u32, Idle::Opening));
                }
            } else if connection.splice.is_some() || has_allocation(&connection.tuple) {
                connection.used_ns = now_ns;
            } else if unused_ns > patience.unused_ns {
                idle.push((index as u32, Idle::Unused));
            }
        }
        idle
    }
}

/// How long connections may be of no use.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the handshake is complete, in nanoseconds.
    pub opening_ns: u64,
    /// Without an allocation, in nanoseconds.
    pub unused_ns: u64,
}

/// What a connection was too slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Its handshake.
    Opening,
    /// Making an allocation.
    Unused,
}
