//! Clients' TCP connections: bounded buffers both ways, and back-pressure.
//!
//! What is received is framed in the shard's receive batch; only an incomplete frame is kept here.
//! What is to be sent is gathered per connection and written once per batch. A client that does
//! not read loses relayed datagrams; one that does not read its answers either is not read from.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};

use turnway_relay::{Client, FiveTuple, Link, Transport};
use turnway_udp::Interest;

/// Room beyond the queue's limit for answers to requests, which are never dropped.
const ANSWER_ROOM: usize = 64 * 1024;

/// Buffers smaller than this are kept when empty, larger ones given back.
const KEEP_CAPACITY: usize = 4 * 1024;

/// One client's connection.
pub struct Connection {
    /// The stream, non-blocking.
    pub stream: TcpStream,
    tuple: FiveTuple,
    /// The beginning of a frame whose end has not come yet.
    pub carry: Vec<u8>,
    queue: Vec<u8>,
    written: usize,
    /// What the poller watches for.
    interest: Interest,
    /// `mono_ns` of when it was accepted, or was last seen to have an allocation.
    used_ns: u64,
    /// Waiting to be written at the end of the batch.
    dirty: bool,
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
    fn new(stream: TcpStream, client: SocketAddr, server: SocketAddr, now_ns: u64) -> Self {
        let client = turnway_relay::address::without_flow_label(client);
        let server = turnway_relay::address::without_flow_label(server);
        Self {
            stream,
            tuple: FiveTuple { transport: Transport::Tcp, client, server },
            carry: Vec::new(),
            queue: Vec::new(),
            written: 0,
            interest: Interest::READ,
            used_ns: now_ns,
            dirty: false,
        }
    }

    fn pending(&self) -> usize {
        self.queue.len() - self.written
    }

    /// Queues an answer.
    pub fn queue_answer(&mut self, answer: &[u8], limit: usize) -> Result<(), Full> {
        if self.pending() + answer.len() > limit + ANSWER_ROOM {
            return Err(Full::Close);
        }
        self.queue.extend_from_slice(answer);
        Ok(())
    }

    /// Queues a relayed datagram.
    pub fn queue_data(&mut self, pieces: [&[u8]; 3], limit: usize) -> Result<(), Full> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.pending() + len > limit {
            return Err(Full::Dropped);
        }
        for piece in pieces {
            self.queue.extend_from_slice(piece);
        }
        Ok(())
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
            self.queue.clear();
            self.written = 0;
            if self.queue.capacity() > KEEP_CAPACITY {
                self.queue = Vec::new();
            }
        } else if self.written >= self.queue.len() / 2 {
            self.queue.drain(..self.written);
            self.written = 0;
        }
    }

    /// A client with half its queue unread is not read from until it has taken most of it.
    fn watch(&mut self, limit: usize) -> Written {
        let reading = self.interest == Interest::READ || self.interest == Interest::READ_WRITE;
        let pending = self.pending();
        let read = if reading { pending < limit / 2 } else { pending < limit / 4 };
        let wanted = match (pending > 0, read) {
            (false, _) => Interest::READ,
            (true, true) => Interest::READ_WRITE,
            (true, false) => Interest::WRITE,
        };
        if wanted == self.interest {
            return Written::Same;
        }
        self.interest = wanted;
        Written::Watch(wanted)
    }
}

/// The connections of a shard.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
}

impl Connections {
    /// Takes in an accepted stream and names it.
    pub fn insert(
        &mut self,
        stream: TcpStream,
        client: SocketAddr,
        server: SocketAddr,
        now_ns: u64,
    ) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(Connection::new(stream, client, server, now_ns));
        index
    }

    /// A connection by name.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// The client on a connection, as the rules know it.
    pub fn client(&self, index: u32) -> Option<Client> {
        let connection = self.slots.get(index as usize)?.as_ref()?;
        Some(Client { tuple: connection.tuple, link: Link(index) })
    }

    /// The connection of a client, unless it was replaced by another's.
    pub fn of(&mut self, client: &Client) -> Option<&mut Connection> {
        self.get_mut(client.link.0).filter(|connection| connection.tuple == client.tuple)
    }

    /// Closes a connection, and says whose it was.
    pub fn remove(&mut self, index: u32) -> Option<FiveTuple> {
        let connection = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        Some(connection.tuple)
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

    /// The connections that have had no allocation for longer than `idle_ns`, whatever they sent.
    pub fn idle(
        &mut self,
        now_ns: u64,
        idle_ns: u64,
        has_allocation: impl Fn(&FiveTuple) -> bool,
    ) -> Vec<u32> {
        let mut idle = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(connection) = slot else { continue };
            if has_allocation(&connection.tuple) {
                connection.used_ns = now_ns;
            } else if now_ns.saturating_sub(connection.used_ns) > idle_ns {
                idle.push(index as u32);
            }
        }
        idle
    }
}
