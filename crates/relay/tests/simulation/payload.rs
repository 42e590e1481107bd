//! What the simulated datagrams carry: who began the exchange, which way it goes, and a number.

use crate::rng::mix;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From a client to whoever is its peer.
    Ping,
    /// The peer's answer, for the session that sent the ping.
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) direction: Direction,
    /// The session that sent the ping.
    pub(crate) session: u32,
    pub(crate) sequence: u32,
}

const MAGIC: [u8; 3] = *b"sim";
pub(crate) const TAG_LEN: usize = 20;

impl Tag {
    /// A payload of `len` bytes, at least [`TAG_LEN`].
    pub(crate) fn payload(self, len: usize) -> Vec<u8> {
        let mut bytes = vec![self.sequence as u8; len];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = match self.direction {
            Direction::Ping => 0,
            Direction::Echo => 1,
        };
        bytes[4..8].copy_from_slice(&self.session.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[12..TAG_LEN].copy_from_slice(&self.check(len).to_be_bytes());
        bytes
    }

    /// Reads a payload; `None` unless it is, to the last byte, what [`Self::payload`] made.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; TAG_LEN] = bytes.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let direction = match head[3] {
            0 => Direction::Ping,
            1 => Direction::Echo,
            _ => return None,
        };
        let tag = Self { direction, session: word(4), sequence: word(8) };
        let whole = head[..3] == MAGIC
            && head[12..] == tag.check(bytes.len()).to_be_bytes()
            && bytes[TAG_LEN..].iter().all(|byte| *byte == tag.sequence as u8);
        whole.then_some(tag)
    }

    fn check(self, len: usize) -> u64 {
        let direction = self.direction as u64;
        let whole = u64::from(self.session) << 32 | u64::from(self.sequence);
        mix(mix(whole) ^ direction << 32 ^ len as u64)
    }
}
