//! Devices: the interfaces through which the program may send what came by another one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;

use aya::maps::xdp::{DevMap, XdpMapError};
use aya::maps::{Map, MapData, MapError};

use super::lock;

/// Places for interfaces; a [`super::Hop`] names one by its place.
pub struct Devices {
    map: Mutex<DevMap<MapData>>,
    fd: OwnedFd,
}

impl Devices {
    pub(crate) fn new(map: Map) -> Result<Devices, MapError> {
        let Map::DevMap(data) = map else {
            return Err(MapError::InvalidMapType { map_type: 0 });
        };
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        Ok(Devices { map: Mutex::new(Map::DevMap(data).try_into()?), fd })
    }

    /// How many places there are.
    #[expect(clippy::len_without_is_empty, reason = "there are always as many")]
    pub fn len(&self) -> u32 {
        lock(&self.map).len()
    }

    /// Puts an interface in a place.
    pub fn set(&self, place: u32, ifindex: u32) -> Result<(), XdpMapError> {
        lock(&self.map).set(place, ifindex, None, 0)
    }

    /// Empties a place: what would leave there is passed up. That it is empty is no error.
    pub fn clear(&self, place: u32) -> io::Result<()> {
        delete(&self.fd, place)
    }
}

/// What bpf(2) wants to know for `BPF_MAP_DELETE_ELEM`.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// aya can only set places.
fn delete(map: &OwnedFd, place: u32) -> io::Result<()> {
    const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
    let element = Element {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: (&raw const place).addr() as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads as many bytes as we say, and four at `key`; both live until then.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw const element, size_of::<Element>())
    };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => Err(error),
    }
}
