//! Paths: which datagram goes where.

use std::net::SocketAddr;
use std::sync::Mutex;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};

use super::lock;
use crate::abi::{self, Key4, Key6};

/// All paths.
pub struct Paths {
    v4: Mutex<HashMap<MapData, Key4, abi::Path>>,
    v6: Mutex<HashMap<MapData, Key6, abi::Path>>,
}

/// What a datagram shows: where it comes from and goes to, and the channel of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathKey(Key);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    V4(Key4),
    V6(Key6),
}

/// What becomes of it: the new addresses, and who answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// By which way it leaves.
    pub hop: NextHop,
    /// Where it then comes from.
    pub from: SocketAddr,
    /// Where it then goes to. Of the same family as `from`, which may be another than it came with.
    pub to: SocketAddr,
    /// From a peer: the channel that the client knows it by.
    pub channel: Option<u16>,
    /// The index of its account.
    pub account: u32,
    /// What [`super::Accounts::open`] gave for it.
    pub generation: u32,
}

/// By which way a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// By the next hop of this index in [`super::Hops`].
    At(u16),
    /// Not at all: it goes to a relayed transport address of ours, whose own path says where it
    /// really goes.
    Local,
}

impl PathKey {
    /// The key of a client's ChannelData with this number to a server address. `None` if the two
    /// are of different families.
    pub fn from_client(client: SocketAddr, server: SocketAddr, channel: u16) -> Option<PathKey> {
        PathKey::new(client, server, channel, 0)
    }

    /// The key of a peer's datagram to a relayed transport address. `None` as above.
    pub fn from_peer(peer: SocketAddr, relay: SocketAddr) -> Option<PathKey> {
        PathKey::new(peer, relay, 0, 0)
    }

    /// The key of what one relayed transport address of ours sends to another: a datagram that
    /// [`NextHop::Local`] was sent to, and that no wire can bring. `None` as above.
    pub fn from_relay(peer: SocketAddr, relay: SocketAddr) -> Option<PathKey> {
        PathKey::new(peer, relay, 0, abi::INSIDE)
    }

    fn new(from: SocketAddr, to: SocketAddr, channel: u16, inside: u16) -> Option<PathKey> {
        let from_port = from.port().to_be_bytes();
        let to_port = to.port().to_be_bytes();
        let channel = channel.to_be_bytes();
        let key = match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let (from, to) = (from.ip().octets(), to.ip().octets());
                Key::V4(Key4 { from, to, from_port, to_port, channel, inside })
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let (from, to) = (from.ip().octets(), to.ip().octets());
                Key::V6(Key6 { from, to, from_port, to_port, channel, inside })
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                return None;
            }
        };
        Some(PathKey(key))
    }
}

impl Paths {
    pub(crate) fn new(v4: Map, v6: Map) -> Result<Paths, MapError> {
        Ok(Paths { v4: Mutex::new(v4.try_into()?), v6: Mutex::new(v6.try_into()?) })
    }

    /// Makes a path, or replaces the one of the same key.
    pub fn insert(&self, key: &PathKey, path: &Path) -> Result<(), MapError> {
        let mut value = value_of(path);
        match &key.0 {
            Key::V4(key) => {
                value.check = check(key, &value);
                lock(&self.v4).insert(key, value, 0)
            }
            Key::V6(key) => {
                value.check = check(key, &value);
                lock(&self.v6).insert(key, value, 0)
            }
        }
    }

    /// Removes a path. That there is none is no error.
    pub fn remove(&self, key: &PathKey) -> Result<(), MapError> {
        let removed = match &key.0 {
            Key::V4(key) => lock(&self.v4).remove(key),
            Key::V6(key) => lock(&self.v6).remove(key),
        };
        match removed {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            removed => removed,
        }
    }
}

fn value_of(path: &Path) -> abi::Path {
    let (from, _) = abi::address(path.from.ip());
    let (to, family) = abi::address(path.to.ip());
    abi::Path {
        check: 0,
        hop: match path.hop {
            NextHop::At(index) => index,
            NextHop::Local => abi::HOP_LOCAL,
        },
        family,
        flags: if path.channel.is_some() { abi::PATH_TO_CLIENT } else { 0 },
        account: path.account,
        to,
        from,
        from_port: path.from.port().to_be_bytes(),
        to_port: path.to.port().to_be_bytes(),
        channel: path.channel.unwrap_or(0).to_be_bytes(),
        zero: 0,
        generation: path.generation,
        zero2: 0,
    }
}

/// What a path must carry to be taken for this key's (see `bpf/abi.h`).
fn check<K: Pod>(key: &K, path: &abi::Path) -> u64 {
    let weighted = |words: &[u64], first: u64| {
        let mut factor = first;
        words.iter().fold(0_u64, |sum, word| {
            let product = word.wrapping_mul(factor);
            factor = factor.wrapping_add(abi::PATH_CHECK_STEP);
            sum.wrapping_add(product)
        })
    };
    // The check itself is the first word, and 0 so far.
    weighted(&words(key), abi::PATH_CHECK_KEY)
        .wrapping_add(weighted(&words(path), abi::PATH_CHECK_VALUE))
}

fn words<T: Pod>(value: &T) -> Vec<u64> {
    // SAFETY: `Pod`s of ours have no padding, so that each of their bytes may be read.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) };
    let (words, rest) = <[u8]>::as_chunks::<8>(bytes);
    debug_assert!(rest.is_empty(), "keys and paths are whole words");
    words.iter().map(|&word| u64::from_ne_bytes(word)).collect()
}
