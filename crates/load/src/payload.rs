//! What a payload says of itself, so that its receiver can tell what became of it.
//!
//! | Bytes | |
//! |---|---|
//! | 0..4 | the letters `TWLD` |
//! | 4..8 | the run, a number of its own for each process |
//! | 8..12 | the allocation |
//! | 12..14 | the direction: 0 to the peer, 1 to the client |
//! | 14..16 | the length of the payload |
//! | 16..24 | the sequence number within allocation and direction |
//! | 24..32 | the time it was sent: nanoseconds of CLOCK_MONOTONIC |
//! | 32..40 | a checksum of everything else |
//! | 40.. | filling |

/// Bytes that every payload has: the shortest one that can be sent.
pub const MIN_LEN: usize = 40;

const MAGIC: [u8; 4] = *b"TWLD";

/// Which way a payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a client to its peer.
    ToPeer,
    /// From a peer to the client.
    ToClient,
}

impl Direction {
    /// 0 to the peer, 1 to the client: an index into a pair.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::ToPeer => 0,
            Self::ToClient => 1,
        }
    }
}

/// What the first 40 bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Told by [`run_number`]: what another process sent is none of ours.
    pub run: u32,
    /// The allocation it goes through.
    pub allocation: u32,
    /// Which way.
    pub direction: Direction,
    /// Counts from 0 within allocation and direction.
    pub sequence: u64,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub sent_ns: u64,
}

/// A payload that is not as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

impl Stamp {
    /// Writes itself into the first 40 bytes of `payload`, whose filling has the digest
    /// `filling`.
    ///
    /// # Panics
    ///
    /// Where `payload` is shorter than [`MIN_LEN`].
    pub fn write(&self, payload: &mut [u8], filling: Digest) {
        let len = payload.len() as u16;
        let head = payload.first_chunk_mut::<MIN_LEN>().expect("a payload has its stamp");
        head[..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&self.run.to_le_bytes());
        head[8..12].copy_from_slice(&self.allocation.to_le_bytes());
        head[12..14].copy_from_slice(&(self.direction.index() as u16).to_le_bytes());
        head[14..16].copy_from_slice(&len.to_le_bytes());
        head[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        head[24..32].copy_from_slice(&self.sent_ns.to_le_bytes());
        let checksum = checksum(head, filling);
        head[32..].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads a payload and proves that all of it is as it was sent.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] where a byte of it changed, or it is longer or shorter than it was.
    pub fn read(payload: &[u8]) -> Result<Self, Corrupt> {
        let (head, filling) = payload.split_first_chunk::<MIN_LEN>().ok_or(Corrupt)?;
        let number = |at: usize| {
            let bytes = head[at..at + 8].first_chunk().expect("eight bytes");
            u64::from_le_bytes(*bytes)
        };
        let half = |at: usize| u32::from_le_bytes(*head[at..at + 4].first_chunk().expect("four"));
        let direction = match half(12) & 0xFFFF {
            0 => Direction::ToPeer,
            1 => Direction::ToClient,
            _ => return Err(Corrupt),
        };
        let whole = head[..4] == MAGIC
            && (half(12) >> 16) as usize == payload.len()
            && number(32) == checksum(head, Digest::of(filling));
        whole.then_some(()).ok_or(Corrupt)?;
        let (run, allocation) = (half(4), half(8));
        Ok(Self { run, allocation, direction, sequence: number(16), sent_ns: number(24) })
    }
}

/// A number that tells this process's payloads from another's.
///
/// # Errors
///
/// Where the system has no randomness.
pub fn run_number() -> Result<u32, crate::LoadError> {
    getrandom::u32()
        .map_err(|error| crate::LoadError::Input(format!("the system has no randomness: {error}")))
}

/// What the filling of a payload sums up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

/// Odd numbers without a pattern, one for each lane.
const FACTORS: [u64; 4] =
    [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0xD6E8_FEB8_6659_FD93];

impl Digest {
    /// Multiplies and folds, four lanes at a time so that the processor need not wait for itself.
    /// It finds faults, not forgeries.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut lanes = FACTORS;
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                let mixed = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTORS[0]);
                *lane = mixed ^ (mixed >> 29);
            }
        }
        let mut sum = fold(lanes) ^ bytes.len() as u64;
        for chunk in rest.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            sum = step(sum, u64::from_le_bytes(word));
        }
        Self(sum)
    }
}

fn checksum(head: &[u8; MIN_LEN], filling: Digest) -> u64 {
    let (words, _) = head[..32].as_chunks::<8>();
    words.iter().fold(filling.0, |sum, word| step(sum, u64::from_le_bytes(*word)))
}

fn step(sum: u64, word: u64) -> u64 {
    let mixed = (sum ^ word).wrapping_mul(FACTORS[1]);
    mixed ^ (mixed >> 32)
}

fn fold(lanes: [u64; 4]) -> u64 {
    lanes.into_iter().zip(FACTORS).fold(0, |sum, (lane, factor)| step(sum ^ factor, lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(len: usize) -> Vec<u8> {
        let mut payload: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        let filling = Digest::of(&payload[MIN_LEN..]);
        stamp().write(&mut payload, filling);
        payload
    }

    fn stamp() -> Stamp {
        let direction = Direction::ToClient;
        Stamp { run: 7, allocation: 70_000, direction, sequence: 1 << 40, sent_ns: u64::MAX - 1 }
    }

    #[test]
    fn what_was_sent_is_read() {
        for len in [40, 41, 47, 48, 71, 72, 73, 172, 1_200, 65_507] {
            assert_eq!(Stamp::read(&payload(len)), Ok(stamp()), "{len} bytes");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let sound = payload(172);
        for bit in 0..172 * 8 {
            let mut changed = sound.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&changed), Err(Corrupt), "bit {bit}");
        }
    }

    #[test]
    fn another_length_and_swapped_bytes_are_noticed() {
        let sound = payload(1_200);
        assert_eq!(Stamp::read(&sound[..1_199]), Err(Corrupt));
        assert_eq!(Stamp::read(&[&sound[..], &[0]].concat()), Err(Corrupt));
        assert_eq!(Stamp::read(&sound[..39]), Err(Corrupt));
        assert_eq!(Stamp::read(&[]), Err(Corrupt));
        for (one, other) in [(40, 41), (40, 48), (40, 72), (100, 1_000), (1_198, 1_199)] {
            let mut swapped = sound.clone();
            swapped.swap(one, other);
            assert_ne!(swapped, sound, "equal bytes prove nothing");
            assert_eq!(Stamp::read(&swapped), Err(Corrupt), "{one} and {other}");
        }
    }
}
