//! The bare hairpin: `bpf/hairpin.bpf.c`, attached where a server would be.

use std::net::SocketAddrV4;

use aya::maps::{HashMap, MapData};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use super::cable::Cable;
use super::common::netns;
use super::frames::Flow;

static OBJECT: &[u8] = include_bytes_aligned!("bpf/hairpin.bpf.o");

/// As many as Turnway's table has by default: two for each channel.
pub(crate) const ENTRIES: u32 = 2 * 65_536;

/// `struct key4` and `struct path` of the relay's `abi.h`, as far as the hairpin reads them.
type Key = [u8; 16];
type Path = [u8; 64];
const PATH_TO: usize = 16;
const PATH_FROM: usize = 32;
const PATH_PORTS: usize = 48;
const PATH_CHANNEL: usize = 52;

/// Attached for as long as it lives.
pub(crate) struct Hairpin {
    _ebpf: Ebpf,
}

impl Hairpin {
    /// Attaches it to the server's end of the cable, with both directions of these channels.
    pub(crate) fn attach(cable: &Cable, flows: &[Flow]) -> Self {
        let loader = EbpfLoader::new().map_max_entries("paths4", ENTRIES).load(OBJECT);
        let mut ebpf = loader.expect("the kernel takes the map");
        let paths = ebpf.take_map("paths4").expect("the object has a map of this name");
        let mut paths: HashMap<MapData, Key, Path> = paths.try_into().expect("a hash map");
        for flow in flows {
            let to_peer =
                (key(flow.client, flow.server, flow.channel), path(flow.relay, flow.peer, 0));
            let to_client =
                (key(flow.peer, flow.relay, 0), path(flow.server, flow.client, flow.channel));
            for (key, path) in [to_peer, to_client] {
                paths.insert(key, path, 0).expect("there is room for all");
            }
        }
        let interface = cable.far_index();
        netns::enter(&cable.server.name, || {
            let program = ebpf.program_mut("hairpin").expect("the object has this program");
            let program: &mut Xdp = program.try_into().expect("it is an XDP program");
            program.load().expect("the kernel takes the program");
            program.attach_to_if_index(interface, XdpMode::Driver).expect("veth has native XDP");
        });
        Self { _ebpf: ebpf }
    }
}

fn key(from: SocketAddrV4, to: SocketAddrV4, channel: u16) -> Key {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&from.ip().octets());
    key[4..8].copy_from_slice(&to.ip().octets());
    key[8..12].copy_from_slice(&ports(from, to));
    key[12..14].copy_from_slice(&channel.to_be_bytes());
    key
}

fn path(from: SocketAddrV4, to: SocketAddrV4, channel: u16) -> Path {
    let mut path = [0; 64];
    path[PATH_TO..PATH_TO + 4].copy_from_slice(&to.ip().octets());
    path[PATH_FROM..PATH_FROM + 4].copy_from_slice(&from.ip().octets());
    path[PATH_PORTS..PATH_PORTS + 4].copy_from_slice(&ports(from, to));
    path[PATH_CHANNEL..PATH_CHANNEL + 2].copy_from_slice(&channel.to_be_bytes());
    path
}

fn ports(from: SocketAddrV4, to: SocketAddrV4) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    [a, b, c, d]
}
