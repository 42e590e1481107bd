//! Clients over TCP: streams of whole ChannelData messages, all of one length.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use turnway_udp::{Events, Interest, Poller};
use turnway_wire::channel_header;

use crate::load::{CHANNEL, FRAME, PAYLOAD};

/// One stream for each client, by number.
pub(crate) struct Streams {
    poller: Poller,
    events: Events,
    ends: Vec<End>,
    frame: Vec<u8>,
    buffer: Vec<u8>,
}

struct End {
    stream: TcpStream,
    /// Bytes of a message begun and not finished, each way.
    written: usize,
    read: usize,
}

impl Streams {
    pub(crate) fn new() -> Self {
        let header = channel_header(CHANNEL, PAYLOAD as u16);
        Self {
            poller: Poller::new().expect("a descriptor"),
            events: Events::new(1_024),
            ends: Vec::new(),
            frame: [&header, &[0xAB; PAYLOAD][..]].concat(),
            buffer: vec![0; 1 << 20],
        }
    }

    /// Takes a stream over, with an allocation and nothing under way.
    pub(crate) fn add(&mut self, stream: &TcpStream) {
        let stream = stream.try_clone().expect("a descriptor");
        stream.set_nonblocking(true).expect("a socket");
        let token = self.ends.len() as u64;
        self.poller.add(&stream, token, Interest::READ).expect("memory");
        self.ends.push(End { stream, written: 0, read: 0 });
    }

    /// Writes a message, or what is left of the last one, if there is room for it: the payload
    /// bytes of a message finished, or none.
    pub(crate) fn write(&mut self, number: usize) -> usize {
        let end = &mut self.ends[number];
        match end.stream.write(&self.frame[end.written..]) {
            Ok(written) => end.written += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("the relay closed a connection: {error}"),
        }
        if end.written < FRAME {
            return 0;
        }
        end.written = 0;
        PAYLOAD
    }

    /// Reads what has come, and says how many payload bytes came to whom.
    pub(crate) fn read(&mut self, mut came: impl FnMut(usize, usize)) {
        let now = Some(std::time::Duration::ZERO);
        self.poller.wait(&mut self.events, now).expect("an open poller");
        for event in self.events.iter() {
            let number = event.token as usize;
            let end = &mut self.ends[number];
            match end.stream.read(&mut self.buffer) {
                Ok(0) => panic!("the relay closed a connection"),
                Ok(read) => came(number, end.messages(&self.buffer[..read]) * PAYLOAD),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the relay closed a connection: {error}"),
            }
        }
    }
}

impl End {
    /// How many messages these bytes finish.
    fn messages(&mut self, bytes: &[u8]) -> usize {
        let from = self.read;
        let first = (FRAME - from) % FRAME;
        if let Some(header) = bytes.get(first..first + 4) {
            assert_eq!(header, channel_header(CHANNEL, PAYLOAD as u16), "not our channel's");
        }
        self.read = (from + bytes.len()) % FRAME;
        (from + bytes.len()) / FRAME
    }
}
