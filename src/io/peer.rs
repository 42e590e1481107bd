//! Connections to and from peers of TCP allocations (RFC 6062), with bounded buffers.
//!
//! Here is one side of a splice: the connection to the peer, what waits to be written to it, and
//! what was read from it and may not go on yet. The other side is the client's [`Connection`], which
//! has a queue of its own. Nothing is read from either while its counterpart does not take what was
//! read before: then it waits in the kernel, and the sender does as well.
//!
//! [`Connection`]: super::tcp::Connection

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use turnway_relay::{AllocationId, Client, ConnectionId, RelayId};
use turnway_udp::{Interest, TcpListenerFd};
use turnway_wire::Family;

/// Bytes read from a peer at a time, and no more are kept for a client.
pub const READ: usize = 64 * 1024;

/// A connection to a peer, or the attempt to make one.
pub struct Peer {
    /// Non-blocking.
    pub stream: TcpStream,
    /// How far it is.
    pub stage: Stage,
    /// What the poller watches for; `None`: nothing, not even that both ends are closed. It is
    /// not registered then.
    pub interest: Option<Interest>,
    /// Bytes for the peer.
    pub to_peer: Flow,
    /// Bytes for the client that no limit has let pass yet.
    pub to_client: Flow,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The peer has not answered yet.
    Connecting,
    /// No client has bound it yet: what the peer sends waits in the kernel.
    Waiting,
    /// It is joined to a client's data connection.
    Spliced(Client),
}

/// Bytes on their way in one direction.
#[derive(Default)]
pub struct Flow {
    bytes: Vec<u8>,
    /// Those before this have left.
    sent: usize,
    /// Those before this may leave.
    admitted: usize,
    /// No more will come.
    pub ended: bool,
    /// The end was said within TLS, where there is such a layer.
    pub said: bool,
    /// The end was passed on.
    pub closed: bool,
    /// A limit is reached: asked again at this time, in `mono_ns`.
    pub wait_ns: Option<u64>,
}

impl Flow {
    /// Takes in more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes no limit has let pass yet.
    pub fn held_back(&self) -> usize {
        self.bytes.len() - self.admitted
    }

    /// So many more may leave.
    pub fn admit(&mut self, len: usize) {
        self.admitted += len;
    }

    /// Whether all that came has left.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// What may leave now.
    pub fn ready(&self) -> &[u8] {
        &self.bytes[self.sent..self.admitted]
    }

    /// So many of [`Self::ready`] have left.
    pub fn leave(&mut self, len: usize) {
        self.sent += len;
        if self.is_empty() {
            // Idle connections keep no buffers.
            let Self { ended, said, closed, .. } = *self;
            *self = Self { ended, said, closed, ..Self::default() };
        }
    }
}

impl Peer {
    /// A connection as it begins.
    pub fn new(stream: TcpStream, stage: Stage, interest: Interest) -> Self {
        let (to_peer, to_client) = (Flow::default(), Flow::default());
        Self { stream, stage, interest: Some(interest), to_peer, to_client }
    }

    /// The client's data connection.
    pub fn client(&self) -> Option<Client> {
        match self.stage {
            Stage::Spliced(client) => Some(client),
            Stage::Connecting | Stage::Waiting => None,
        }
    }

    /// Writes to the peer what may leave, as far as it takes it.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn write(&mut self) -> io::Result<()> {
        while !self.to_peer.ready().is_empty() {
            match (&self.stream).write(self.to_peer.ready()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.to_peer.leave(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads from the peer once. Nothing where there is nothing to read.
    ///
    /// # Errors
    ///
    /// The connection is broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match (&self.stream).read(buffer) {
            Ok(0) => self.to_client.ended = true,
            Ok(len) => self.to_client.push(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What the poller must watch for; `room` is whether the client takes more.
    pub fn wanted(&self, room: bool) -> Option<Interest> {
        let read = room && !self.to_client.ended && self.to_client.is_empty();
        if self.to_peer.closed && !read {
            // Once the peer's end is in the kernel, read or not, it would be said over and over
            // that both ends are closed: that cannot be left out of what is watched for.
            return None;
        }
        let write = !self.to_peer.ready().is_empty();
        Some(match (self.stage, read, write) {
            (Stage::Connecting, _, _) | (Stage::Spliced(_), false, true) => Interest::WRITE,
            (Stage::Waiting, _, _) | (Stage::Spliced(_), false, false) => Interest::NONE,
            (Stage::Spliced(_), true, false) => Interest::READ,
            (Stage::Spliced(_), true, true) => Interest::READ_WRITE,
        })
    }
}

/// The connections of a shard to peers, and the relayed transport addresses that listen for more.
#[derive(Default)]
pub struct Peers {
    peers: BTreeMap<ConnectionId, Peer>,
    /// With the generation of the allocation that each belongs to.
    listeners: HashMap<(u32, Family), (u32, TcpListenerFd, SocketAddr)>,
    /// Those that a limit holds back, by the time at which they ask again.
    waiting: BTreeSet<(u64, ConnectionId)>,
}

impl Peers {
    /// Keeps a connection.
    pub fn insert(&mut self, id: ConnectionId, peer: Peer) {
        self.peers.insert(id, peer);
    }

    /// A connection by name.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Peer> {
        self.peers.get_mut(&id)
    }

    /// Takes a connection out, to be closed.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Peer> {
        self.peers.remove(&id)
    }

    /// Keeps the listener of a relayed transport address.
    pub fn listen(&mut self, id: RelayId, listener: TcpListenerFd, local: SocketAddr) {
        let AllocationId { slot, generation } = id.allocation;
        self.listeners.insert((slot, id.family), (generation, listener, local));
    }

    /// The listener in a slot, with the relayed transport address that owns it now.
    pub fn listener(&self, slot: u32, family: Family) -> Option<(RelayId, &TcpListenerFd)> {
        let (generation, listener, _) = self.listeners.get(&(slot, family))?;
        let allocation = AllocationId { slot, generation: *generation };
        Some((RelayId { allocation, family }, listener))
    }

    /// What a relayed transport address listens at.
    pub fn local(&self, id: RelayId) -> Option<SocketAddr> {
        let found = self.listeners.get(&(id.allocation.slot, id.family));
        found.filter(|(generation, ..)| *generation == id.allocation.generation).map(|it| it.2)
    }

    /// Closes a listener, and says where it was.
    pub fn close(&mut self, id: RelayId) -> Option<SocketAddr> {
        let local = self.local(id)?;
        self.listeners.remove(&(id.allocation.slot, id.family));
        Some(local)
    }

    /// All listeners, by slot.
    pub fn listeners(&self) -> impl Iterator<Item = (u32, Family, &TcpListenerFd)> {
        self.listeners.iter().map(|(&(slot, family), (_, listener, _))| (slot, family, listener))
    }

    /// Remembers that a connection is held back until `at_ns`.
    pub fn wait(&mut self, at_ns: u64, id: ConnectionId) {
        self.waiting.insert((at_ns, id));
    }

    /// When the next one that is held back asks again, in `mono_ns`.
    pub fn next_wait_ns(&self) -> Option<u64> {
        self.waiting.first().map(|(at_ns, _)| *at_ns)
    }

    /// The next one whose time has come.
    pub fn next_due(&mut self, now_ns: u64) -> Option<ConnectionId> {
        let &(at_ns, id) = self.waiting.first()?;
        (at_ns <= now_ns).then(|| {
            self.waiting.pop_first();
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_leaves_and_an_idle_flow_keeps_no_memory() {
        let mut flow = Flow::default();
        flow.push(b"abcdef");
        assert_eq!((flow.ready(), flow.held_back()), (&b""[..], 6));
        flow.admit(4);
        assert_eq!((flow.ready(), flow.held_back()), (&b"abcd"[..], 2));
        flow.leave(3);
        flow.admit(2);
        flow.ended = true;
        assert_eq!((flow.ready(), flow.is_empty()), (&b"def"[..], false));
        flow.leave(3);
        assert!(flow.is_empty() && flow.ended && !flow.closed);
        assert_eq!(flow.bytes.capacity(), 0);
    }
}
