//! Hostile bytes around and within TLS and DTLS records.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};

use turnway_wire::{Class, Message, Method};

use super::attack::Attack;
use super::common::PATIENCE;
use super::common::client::{Client, Peer, Random, Relayed, Transport};
use super::common::link::connected;

/// The most that one record holds.
const RECORD: usize = 16_000;

/// Messages sent before their answers are looked at.
const WINDOW: u32 = 64;

/// A ClientHello with something wrong, or bytes that begin as records do.
fn mangled(random: &mut Random, hello: &[u8]) -> Vec<u8> {
    let mut bytes = hello.to_vec();
    match random.below(4) {
        0 => bytes.truncate(1 + random.below(hello.len() - 1)),
        1 => {
            let len = random.below(2000);
            bytes = random.bytes(1 + len);
            bytes[0] = 20 + random.below(44) as u8;
        }
        2 => {
            // All that says how long something is lies in front.
            let at = random.below(bytes.len().min(100));
            bytes[at] = random.next() as u8;
        }
        _ => {
            for _ in 0..=random.below(8) {
                let (at, bit) = (random.below(bytes.len()), random.below(8));
                bytes[at] ^= 1 << bit;
            }
        }
    }
    bytes
}

/// Connections that begin with mangled ClientHellos. Whatever comes of each, it ends.
pub(crate) fn tls_handshakes(server: SocketAddr, seed: u64, hello: &[u8], count: u32) {
    let mut random = Random(seed);
    for _ in 0..count {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let bytes = mangled(&mut random, hello);
        // The relay may have closed it already.
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Mangled records from somebody without a session.
pub(crate) fn dtls_records(server: SocketAddr, seed: u64, hello: &[u8], count: u32) {
    let mut random = Random(seed);
    let socket = connected(server);
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    for _ in (0..count).step_by(WINDOW as usize) {
        for _ in 0..WINDOW {
            socket.send(&mangled(&mut random, hello)).expect("sent");
        }
        // The relay has seen all of them when it answers what is well-formed.
        socket.send(hello).expect("sent");
        socket.recv(&mut [0; 2048]).expect("an answer");
        drain(&socket);
    }
}

fn drain(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket");
    while socket.recv(&mut [0; 2048]).is_ok() {}
    socket.set_nonblocking(false).expect("a socket");
}

/// Somebody who can write datagrams in a DTLS client's name does not end its session.
pub(crate) fn injected_records(server: SocketAddr, roots: &str, seed: u64, hello: &[u8]) {
    let mut random = Random(seed);
    let mut client = Client::over(Transport::Dtls, server, roots);
    client.allocate();
    let peer = Peer::on(server.ip());
    client.bind(0x4000, peer.address()).expect_success();
    for turn in 0..200_u32 {
        for _ in 0..10 {
            let mut record = match random.below(4) {
                0 => mangled(&mut random, hello),
                _ => {
                    let len = random.below(200);
                    random.bytes(13 + len)
                }
            };
            // An alert, application data, a handshake, in the epoch that is in use or the first.
            if record.len() >= 13 {
                record[0] = [20, 21, 22, 23, 26][random.below(5)];
                record[1..5].copy_from_slice(&[0xFE, 0xFD, 0, random.below(2) as u8]);
                let len = (record.len() - 13) as u16;
                record[11..13].copy_from_slice(&len.to_be_bytes());
            }
            client.socket().send(&record).expect("sent");
        }
        let data = turn.to_be_bytes().to_vec();
        client.send_channel(0x4000, &data);
        let (received, relayed) = peer.receive();
        assert_eq!(received, data);
        peer.send(&data, relayed);
        assert_eq!(client.receive(), Relayed::Channel { number: 0x4000, data });
    }
    client.refresh(0).expect_success();
}

/// Hostile messages within good records, from somebody with an account.
pub(crate) fn within(server: SocketAddr, over: Transport, roots: &str, seed: u64, windows: u32) {
    let mut insider = Client::over(over, server, roots);
    insider.allocate();
    let mut attack = Attack::new(seed, &mut insider);
    for _ in 0..windows {
        for number in 0..WINDOW {
            // What has a wrong length ends a stream.
            let message = match (over.is_stream(), number % 2) {
                (true, _) => attack.framed(number),
                (false, 0) => attack.datagram(number),
                (false, _) => attack.signed(&mut insider),
            };
            if !message.is_empty() && message.len() <= RECORD {
                insider.raw(&message).expect("sent");
            }
        }
        let fence = insider.build(Class::Request, Method::BINDING, &|_| Ok(()));
        let id = |message: &[u8]| Message::parse(message).map(|message| message.transaction_id());
        insider.raw(&fence).expect("sent");
        while id(&insider.next_message()) != id(&fence) {}
    }
    // Whatever became of the allocation, its owner can end it.
    let ended = insider.refresh(0).code();
    assert!(matches!(ended, None | Some(437)), "{ended:?}");
}
