//! Clients of others, whose channels the kernel relays: they lose nothing.

use std::sync::Arc;
use std::thread;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use turnway_wire::Family;
use webrtc_util::Conn;

use crate::common::{PASSWORD, PATIENCE, REALM, SECRET, USER};
use crate::in_each_world;
use crate::net::{MODES, Net, PAIRS, World, address};
use crate::uclient::{Counts, Peer, Run};

/// Sessions of a run, and messages of each.
const SIZE: (u64, u64) = (8, 100);

/// The modes of coturn's client that work over UDP: its arguments, its family and that of its
/// peer, and whether what it sends goes by channels.
const RUNS: [(&[&str], Family, Family, bool); 10] = [
    (&[], Family::V4, Family::V4, true),
    (&["-c"], Family::V4, Family::V4, true),
    (&["-s"], Family::V4, Family::V4, false),
    (&["-s", "-c"], Family::V4, Family::V4, false),
    (&["-g"], Family::V4, Family::V4, true),
    (&["-y"], Family::V4, Family::V4, true),
    (&["-x"], Family::V6, Family::V6, true),
    (&["-x"], Family::V4, Family::V6, true),
    (&["-X"], Family::V6, Family::V4, true),
    (&["-Z"], Family::V4, Family::V4, true),
];

#[test]
fn coturns_client_loses_nothing() {
    in_each_world(|world| {
        let peers = [Family::V4, Family::V6]
            .map(|family| Peer::start_in(Some(&world.net.peers.name), address(family, 2, 2), 3480));
        let run = |near: Family, far: Family, arguments: &[&str]| {
            let peer = &peers[usize::from(far == Family::V6)];
            let mut run = Run::anonymous(world.server(near), peer.address);
            run.within(&world.net.clients.name).sized(SIZE.0, SIZE.1).add(arguments);
            run
        };
        // Neighbours are known then: who answers late has datagrams lost by any router.
        for pair in PAIRS {
            let _ = world.talk(pair, 0x4000);
        }
        let before = world.counts();
        let (mut sent, mut by_channel) = (0, 0);
        thread::scope(|scope| {
            let mut start = |run: Run, channels: bool| {
                sent += run.messages();
                by_channel += if channels { run.messages() } else { 0 };
                scope.spawn(move || lossless(&run));
            };
            for (arguments, near, far, channels) in RUNS {
                let mut run = run(near, far, arguments);
                run.add(&["-u", USER, "-w", PASSWORD]);
                start(run, channels);
            }
            start(run(Family::V4, Family::V4, &["-u", "somebody", "-W", SECRET]), true);
        });
        // Until it has heard of a channel, user space relays.
        let kernel = world.kernel().minus(before.kernel);
        let part = kernel.to_peer.min(kernel.to_client) as f64 / by_channel as f64;
        assert!(part > 0.8, "{}: {part:.2} of {by_channel} in the kernel", world.mode);
        world.relay.await_samples("all datagrams in the metrics", |_| {
            let all = world.all().minus(before.all);
            all.to_peer >= sent && all.to_client >= sent
        });
        assert_eq!(world.net.checksum_errors(), 0);
    });
}

/// Runs the client and asserts that all its messages came back.
#[track_caller]
fn lossless(run: &Run) {
    let Some(counts) = run.finish() else { return };
    let all = run.messages();
    assert_eq!(counts, Counts { sent: all, received: all, lost: 0, dropped: 0 }, "{run}");
}

#[tokio::test]
async fn the_client_of_webrtc_rs_relays_both_ways() {
    const MESSAGES: usize = 500;
    for mode in MODES {
        let Some(net) = Net::new() else { return };
        let world = World::start(net, mode, World::setup());
        let client = client(&world).await;
        let relayed = client.allocate().await.expect("an allocation");
        let peer = socket(world.net.peers.udp_on("10.9.2.2"));
        let peer_address = peer.local_addr().expect("a socket");
        let relayed_address = relayed.local_addr().expect("known since the Allocate");
        // The first message goes by Send indication; with it the client asks for a channel.
        relayed.send_to(b"first", peer_address).await.expect("sent");
        assert_eq!(receive(&peer).await, (b"first".to_vec(), relayed_address));
        world.expect_paths(2);
        for number in 0..MESSAGES {
            let data = vec![number as u8; number % 1_200];
            relayed.send_to(&data, peer_address).await.expect("sent");
            assert_eq!(receive(&peer).await, (data.clone(), relayed_address));
            peer.send_to(&data, relayed_address).await.expect("sent");
            assert_eq!(receive(&relayed).await, (data, peer_address));
        }
        let most = (MESSAGES - MESSAGES / 5) as u64;
        world.relay.await_samples("the kernel's part", |_| {
            let kernel = world.kernel();
            kernel.to_peer >= most && kernel.to_client >= most
        });
        relayed.close().await.expect("closes");
        client.close().await.expect("closes");
        world.relay.await_no_allocations();
    }
}

fn socket(socket: std::net::UdpSocket) -> UdpSocket {
    socket.set_nonblocking(true).expect("a socket");
    UdpSocket::from_std(socket).expect("a runtime")
}

async fn client(world: &World) -> Client {
    let server = world.server(Family::V4).to_string();
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.clone(),
        turn_serv_addr: server,
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        realm: REALM.to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket(world.net.clients.udp_on("10.9.1.2"))),
        vnet: None,
    });
    let client = client.await.expect("a client");
    client.listen().await.expect("listens");
    client
}

async fn receive(conn: &(impl Conn + ?Sized)) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = vec![0; 2_048];
    let received = timeout(PATIENCE, conn.recv_from(&mut buffer)).await.expect("nothing came");
    let (len, from) = received.expect("received");
    buffer.truncate(len);
    (buffer, from)
}
