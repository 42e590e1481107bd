//! What becomes of IP headers on the way through the relay: RFC 8656 sections 13 to 16.

mod common;

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use turnway_udp::{ReceiveBatch, relay_udp};
use turnway_wire::Family;

use common::client::{Client, Peer};
use common::{PATIENCE, Relay, Setup};

/// What a datagram's header had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    ttl: u8,
    tos: u8,
}

/// DSCP EF with ECT(1), AF41 with CE, and best effort with ECT(0).
const KINDS: [Fields; 4] = [
    Fields { ttl: 64, tos: 0xB9 },
    Fields { ttl: 2, tos: 0x8B },
    Fields { ttl: 255, tos: 0x02 },
    Fields { ttl: 33, tos: 0x00 },
];

/// A socket that sees the headers of what it receives, and chooses those of what it sends.
struct Observer {
    socket: turnway_udp::Socket,
    twin: UdpSocket,
}

impl Observer {
    fn on(ip: IpAddr) -> Self {
        let socket = relay_udp(SocketAddr::new(ip, 0), 0).expect("a free port");
        let twin = socket.as_fd().try_clone_to_owned().expect("a descriptor");
        let twin = UdpSocket::from(twin);
        twin.set_nonblocking(false).expect("a socket");
        twin.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, twin }
    }

    fn twin(&self) -> UdpSocket {
        self.twin.try_clone().expect("a descriptor")
    }

    fn choose(&self, fields: Fields) {
        let socket = SockRef::from(&self.twin);
        let (ttl, tos) = (u32::from(fields.ttl), u32::from(fields.tos));
        if self.twin.local_addr().expect("a socket").is_ipv4() {
            socket.set_ttl_v4(ttl).expect("a socket");
            socket.set_tos_v4(tos).expect("a socket");
        } else {
            socket.set_unicast_hops_v6(ttl).expect("a socket");
            socket.set_tclass_v6(tos).expect("a socket");
        }
    }

    /// The next datagram, which ends with `data`, and its header.
    #[track_caller]
    fn receive(&self, data: &[u8]) -> Fields {
        self.twin.peek_from(&mut [0; 1]).expect("nothing came");
        let mut batch = ReceiveBatch::new(1);
        let range = batch.receive(self.socket.as_fd(), 1).expect("a datagram");
        let received = batch.get(range.start);
        assert!(received.data.ends_with(data), "another datagram");
        let (ttl, tos) = (received.ttl.expect("asked for"), received.tos.unwrap_or(0));
        Fields { ttl, tos }
    }
}

fn localhost(family: Family) -> IpAddr {
    match family {
        Family::V4 => "127.0.0.1",
        Family::V6 => "::1",
    }
    .parse()
    .expect("an address")
}

/// A relay with a listener and a relay address of each family.
fn dual_stack() -> Relay {
    let ip = common::own_address();
    // No other test may have the port on ::1.
    let port = 10_000 + (u16::from(ip.octets()[2]) << 5) + u16::from(ip.octets()[3] % 32);
    Relay::start(Setup {
        listen: vec![
            SocketAddr::new(ip.into(), port),
            SocketAddr::new(localhost(Family::V6), port),
        ],
        relay: Some(format!("addresses = [\"{ip}\", \"::1\"]")),
        ..Setup::default()
    })
}

#[test]
fn ttl_dscp_and_ecn_go_with_each_datagram_in_both_directions() {
    let relay = dual_stack();
    for (client_side, peer_side) in [
        (Family::V4, Family::V4),
        (Family::V4, Family::V6),
        (Family::V6, Family::V4),
        (Family::V6, Family::V6),
    ] {
        let mut server = relay.address;
        if client_side == Family::V6 {
            server.set_ip(localhost(Family::V6));
        }
        let near = Observer::on(localhost(client_side));
        let far = Observer::on(localhost(peer_side));
        let there = far.twin().local_addr().expect("a socket");
        let mut client = Client::udp_from(near.twin(), server);
        let relayed = client.allocate_family(peer_side);
        client.permit(&[there]).expect_success();
        for kind in KINDS {
            near.choose(kind);
            client.send(there, b"by Send");
            //= rfc8656#section-14
            //= type=test
            //# Preferred Behavior: Set the outgoing value to the incoming value.
            let expected = Fields { ttl: kind.ttl - 1, ..kind };
            assert_eq!(far.receive(b"by Send"), expected);
            far.choose(kind);
            far.twin().send_to(b"back!!!!", relayed).expect("sent");
            assert_eq!(near.receive(b"back!!!!"), expected);
        }
        near.choose(KINDS[0]);
        client.bind(0x4000, there).expect_success();
        // A burst, which the relay takes and sends as one batch: each keeps its own.
        for (number, kind) in KINDS.iter().cycle().take(40).enumerate() {
            near.choose(*kind);
            client.send_channel(0x4000, &number.to_be_bytes());
        }
        for (number, kind) in KINDS.iter().cycle().take(40).enumerate() {
            let expected = Fields { ttl: kind.ttl - 1, ..*kind };
            assert_eq!(far.receive(&number.to_be_bytes()), expected);
        }
    }
}

#[test]
fn a_datagram_at_the_end_of_its_hops_is_dropped_and_counted() {
    let relay = dual_stack();
    let dropped = |side: &str| {
        format!("turnway_dropped_datagrams_total{{side=\"{side}\",reason=\"ttl_exceeded\"}}")
    };
    let mut count = 0.0;
    for family in [Family::V4, Family::V6] {
        let mut server = relay.address;
        if family == Family::V6 {
            server.set_ip(localhost(family));
        }
        let (near, far) = (Observer::on(localhost(family)), Observer::on(localhost(family)));
        let there = far.twin().local_addr().expect("a socket");
        let mut client = Client::udp_from(near.twin(), server);
        let relayed = client.allocate_family(family);
        client.bind(0x4000, there).expect_success();
        let last_hop = Fields { ttl: 1, tos: 0 };
        near.choose(last_hop);
        client.send_channel(0x4000, b"dead");
        client.send(there, b"dead");
        far.choose(last_hop);
        far.twin().send_to(b"dead", relayed).expect("sent");
        count += 1.0;
        relay.await_samples("the drops to be counted", |samples| {
            samples[&dropped("client")] == 2.0 * count && samples[&dropped("peer")] == count
        });
        // Nothing of it came: what comes is what is sent now.
        let alive = Fields { ttl: 9, tos: 0 };
        near.choose(alive);
        client.send_channel(0x4000, b"alive");
        assert_eq!(far.receive(b"alive").ttl, 8);
        far.choose(alive);
        far.twin().send_to(b"alive", relayed).expect("sent");
        assert_eq!(near.receive(b"alive").ttl, 8);
    }
}

/// Sees whole IPv4 packets that carry UDP to an address.
struct Tap(Socket, IpAddr);

impl Tap {
    fn on(ip: IpAddr) -> Option<Self> {
        match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
            Ok(socket) => {
                socket.bind(&SocketAddr::new(ip, 0).into()).expect("an address of ours");
                socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
                Some(Self(socket, ip))
            }
            Err(error) => {
                common::skipped(&format!("raw sockets need root (CAP_NET_RAW): {error}"));
                None
            }
        }
    }

    /// Whether the next packet has DF, and its payload, which may be that of several datagrams.
    fn next(&mut self) -> (bool, Vec<u8>) {
        loop {
            let mut packet = [0; 2048];
            let len = self.0.read(&mut packet).expect("nothing came");
            let header = usize::from(packet[0] & 0x0F) * 4;
            let to = [packet[16], packet[17], packet[18], packet[19]];
            // Before it was bound the socket saw packets to other addresses too.
            if IpAddr::from(to) == self.1 {
                return (packet[6] & 0x40 != 0, packet[header + 8..len].to_vec());
            }
        }
    }
}

#[test]
fn dont_fragment_sets_df_for_that_datagram_alone() {
    let relay = Relay::with_shards(1);
    let ip = common::own_address().into();
    let Some(mut tap) = Tap::on(ip) else { return };
    let peer = Peer::on(ip);
    let mut client = Client::udp(relay.address);
    client.allocate();
    client.bind(0x4000, peer.address()).expect_success();
    let mut expected = Vec::new();
    for turn in 0..50_u8 {
        match turn % 5 {
            0 | 3 => client.send(peer.address(), &[turn]),
            1 => client.send_unfragmented(peer.address(), &[turn]),
            _ => client.send_channel(0x4000, &[turn]),
        }
        expected.push((turn % 5 == 1, vec![turn]));
    }
    let mut seen = Vec::new();
    while seen.len() < 50 {
        // Datagrams that leave as one are one packet on loopback, their payloads end to end.
        let (df, payloads) = tap.next();
        seen.extend(payloads.into_iter().map(|payload| (df, vec![payload])));
    }
    // DF is an option of the socket, so the kernel may be given the ones with DF at another time
    // than the others; which is which is what counts.
    seen.sort_by_key(|(_, payload)| payload[0]);
    assert_eq!(seen, expected);
}

#[test]
fn streams_have_no_header_to_copy() {
    let relay = Relay::with_shards(1);
    let far = Observer::on(localhost(Family::V4));
    let there = far.twin().local_addr().expect("a socket");
    let mut client = Client::tcp(relay.address);
    client.allocate();
    client.permit(&[there]).expect_success();
    client.send(there, b"from a stream");
    assert_eq!(far.receive(b"from a stream"), Fields { ttl: 64, tos: 0 });
}
