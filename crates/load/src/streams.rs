//! Clients with a connection each: messages framed as RFC 8489 section 6.2.2 and RFC 8656 section
//! 12.5 have it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use turnway_udp::{Events, Interest, Poller};
use turnway_wire::{Frame, frame, padding};

use crate::LoadError;
use crate::clients::{Transport, poll};
use crate::tls::Tls;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes read at once: what one connection may have for us before others have their turn.
const READ: usize = 64 * 1024;

/// Bytes that wait for a server that does not read; it is sent no more data then.
const BACKLOG_MAX: usize = 256 * 1024;

/// The connections of all clients.
pub struct Streams {
    streams: Vec<Stream>,
    poller: Poller,
    events: Events,
    space: Vec<u8>,
    /// Those with bytes to write.
    dirty: Vec<u32>,
}

struct Stream {
    wire: Wire,
    /// The beginning of a message whose end has not come yet.
    carry: Vec<u8>,
    out: Vec<u8>,
    is_dirty: bool,
}

/// What bytes go through.
enum Wire {
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

impl Wire {
    fn connect(server: SocketAddr, transport: Transport) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        match transport {
            Transport::Tls => {
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Self::Tls(Box::new(Tls::new(stream, server)?)))
            }
            Transport::Udp | Transport::Tcp => {
                stream.set_nonblocking(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(from),
            Self::Tls(tls) => tls.write(from),
        }
    }

    /// Whether what was written has not all left.
    fn is_pending(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.is_pending(),
        }
    }

    fn watch(&self, poller: &Poller, token: u64) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => poller.add(stream, token, Interest::READ),
            Self::Tls(tls) => poller.add(&tls.stream, token, Interest::READ),
        }
    }
}

impl Streams {
    pub(crate) fn connect(
        server: SocketAddr,
        transport: Transport,
        count: usize,
    ) -> Result<Self, LoadError> {
        let over = if transport == Transport::Tls { "TLS" } else { "TCP" };
        let cannot = || LoadError::io(format!("cannot connect to {server} over {over}"));
        let poller = Poller::new().map_err(cannot())?;
        let mut streams = Vec::with_capacity(count);
        for client in 0..count {
            let wire = Wire::connect(server, transport).map_err(cannot())?;
            wire.watch(&poller, client as u64).map_err(cannot())?;
            let (carry, out) = (Vec::new(), Vec::new());
            streams.push(Stream { wire, carry, out, is_dirty: false });
        }
        let events = Events::new(256);
        Ok(Self { streams, poller, events, space: vec![0; 2 * READ], dirty: Vec::new() })
    }

    /// Queues a message in pieces, and padding; `false` where the server reads too slowly.
    pub(crate) fn queue(&mut self, client: usize, pieces: [&[u8]; 2]) -> bool {
        let len = pieces[0].len() + pieces[1].len();
        if self.streams[client].out.len() + len > BACKLOG_MAX {
            return false;
        }
        self.append(client, pieces);
        true
    }

    fn append(&mut self, client: usize, pieces: [&[u8]; 2]) {
        let stream = &mut self.streams[client];
        let len = pieces[0].len() + pieces[1].len();
        pieces.into_iter().for_each(|piece| stream.out.extend_from_slice(piece));
        stream.out.extend_from_slice(&[0; 3][..padding(len)]);
        if !stream.is_dirty {
            stream.is_dirty = true;
            self.dirty.push(client as u32);
        }
    }

    /// Writes what is queued, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> Result<(), LoadError> {
        let streams = &mut self.streams;
        let mut failed = None;
        self.dirty.retain(|&client| {
            let stream = &mut streams[client as usize];
            failed = failed.take().or(stream.write().err());
            stream.is_dirty = !stream.out.is_empty() || stream.wire.is_pending();
            stream.is_dirty
        });
        failed.map_or(Ok(()), |error| Err(closed(error)))
    }

    /// Queues a request, whatever waits already: a client has but one at a time, and does not send
    /// it again.
    pub(crate) fn send(&mut self, client: usize, message: &[u8]) -> Result<(), LoadError> {
        self.append(client, [message, &[]]);
        self.flush()
    }

    pub(crate) fn receive(
        &mut self,
        take: &mut impl FnMut(usize, &[u8]),
    ) -> Result<usize, LoadError> {
        let Self { streams, poller, events, space, .. } = self;
        poll(poller, events)?;
        let mut came = 0;
        for event in events.iter() {
            let client = event.token as usize;
            came += streams[client].receive(space, |message| take(client, message))?;
        }
        self.flush()?;
        Ok(came)
    }
}

impl Stream {
    /// Reads once and hands on what is whole.
    fn receive(
        &mut self,
        space: &mut [u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, LoadError> {
        let carried = self.carry.len();
        space[..carried].copy_from_slice(&self.carry);
        let read = match self.wire.read(&mut space[carried..]) {
            Ok(0) => return Err(LoadError::Closed),
            Ok(read) => read,
            Err(error) if is_passing(&error) => return Ok(0),
            Err(error) => return Err(closed(error)),
        };
        let mut rest = &space[..carried + read];
        let mut came = 0;
        loop {
            match frame(rest) {
                Frame::Complete { len, payload } => {
                    take(&rest[..payload]);
                    rest = &rest[len..];
                    came += 1;
                }
                // No message is longer than half of the space.
                Frame::Incomplete { .. } => break,
                Frame::Invalid => return Err(LoadError::BadAnswer("bytes that are no message")),
            }
        }
        self.carry.clear();
        self.carry.extend_from_slice(rest);
        Ok(came)
    }

    fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.out.len() || self.wire.is_pending() {
            match self.wire.write(&self.out[written..]) {
                Ok(0) if written < self.out.len() => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => written += bytes,
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..written);
        Ok(())
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn closed(error: io::Error) -> LoadError {
    LoadError::Io("a connection to the server broke".to_owned(), error)
}
