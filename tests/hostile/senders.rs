//! How hostile messages get to the daemon, and what may come back.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};

use turnway_wire::{Builder, Class, ErrorCode, Frame, Message, Method, TransactionId, frame};

use super::attack::Attack;
use super::common::PATIENCE;
use super::common::client::{Client, UDP};

/// Datagrams sent before their answers are looked at: few enough for any socket buffer.
const WINDOW: u32 = 64;

/// Bytes of the IPv4 and UDP headers around each datagram.
const HEADERS: usize = 28;

/// The longest frame that is taken from somebody without an allocation.
const STRANGER_FRAME: usize = 2048;

/// The transaction id of the Binding request that ends a window.
const FENCE: TransactionId = TransactionId(*b"end of batch");

/// Sends `count` hostile datagrams in windows. Whatever the answers, there is at most one to each
/// message, and none to a stranger is larger than three times what provoked it.
pub(crate) fn datagrams(server: SocketAddr, seed: u64, count: u32) {
    let mut insider = Client::udp(server);
    insider.allocate();
    let mut attack = Attack::new(seed, &mut insider);
    let [inside, outside] = [
        insider.socket().try_clone().expect("a descriptor"),
        UdpSocket::bind("0.0.0.0:0").expect("a free port"),
    ];
    outside.set_read_timeout(Some(PATIENCE)).expect("a socket");
    for (round, _) in (0..count).step_by(WINDOW as usize).enumerate() {
        // Three in four windows are a stranger's. The others get further.
        let stranger = round % 4 != 0;
        let socket = if stranger { &outside } else { &inside };
        let mut sizes = HashMap::new();
        for number in 0..WINDOW {
            let message = match (stranger, number % 2) {
                (true, _) | (false, 0) => attack.datagram(number),
                (false, _) => attack.signed(&mut insider),
            };
            if let Some(id) = message.get(8..20) {
                sizes.insert(id.to_vec(), message.len());
            }
            socket.send_to(&message, server).expect("sent");
        }
        socket.send_to(&fence(), server).expect("sent");
        while let Some((id, size)) = answer(socket, server) {
            let asked = sizes.remove(id.as_slice());
            let asked = asked.unwrap_or_else(|| panic!("seed {seed}: nobody asked, or once only"));
            let large = size + HEADERS > 3 * (asked + HEADERS);
            assert!(!(stranger && large), "seed {seed}: {size} bytes answer {asked}");
        }
    }
    // Whatever became of the allocation, its owner can end it.
    let ended = insider.refresh(0).code();
    assert!(matches!(ended, None | Some(437)), "{ended:?}");
}

/// The next answer's transaction id and size; `None` for the fence's.
fn answer(socket: &UdpSocket, server: SocketAddr) -> Option<([u8; 12], usize)> {
    loop {
        let mut buffer = [0; 2048];
        let (len, from) = socket.recv_from(&mut buffer).expect("at least the fence is answered");
        assert_eq!(from, server);
        let message = Message::parse(&buffer[..len]).expect("answers are STUN");
        match (message.class(), message.transaction_id()) {
            (Class::Success | Class::Error, FENCE) => return None,
            (Class::Success | Class::Error, id) => return Some((id.0, len)),
            // Peers that are not there: the ICMP errors of what the insider sent.
            (Class::Indication, _) => {}
            (Class::Request, _) => panic!("the relay asked something"),
        }
    }
}

fn fence() -> Vec<u8> {
    let mut out = [0; 20];
    let builder = Builder::new(&mut out, Class::Request, Method::BINDING, FENCE).expect("room");
    let len = builder.finish();
    out[..len].to_vec()
}

/// Opens `connections` one after another and sends a batch of hostile frames on each.
pub(crate) fn streams(server: SocketAddr, seed: u64, connections: u32) {
    let mut insider = Client::tcp(server);
    insider.allocate();
    let mut attack = Attack::new(seed, &mut insider);
    for round in 0..connections {
        match round % 8 {
            // Frames that end where they say: all of them are read.
            0..5 => {
                let mut batch: Vec<u8> = (0..WINDOW)
                    .map(|number| attack.framed(number))
                    .filter(|message| message.len() <= STRANGER_FRAME)
                    .flatten()
                    .collect();
                batch.extend(fence());
                whole_frames(server, &batch);
            }
            // The largest there are, from somebody who may send such.
            5 => {
                let giant = attack.giant(round, 65_000);
                insider.raw(&giant).expect("sent");
                let mut channel_data = vec![0x40, 0x00, 0xFF, 0xFF];
                channel_data.resize(4 + 0x1_0000, 0x40);
                insider.raw(&channel_data).expect("sent");
                insider.binding();
                broken_frames(server, &giant);
            }
            6 => {
                let batch: Vec<u8> =
                    (0..WINDOW).flat_map(|number| attack.datagram(number)).collect();
                broken_frames(server, &batch);
            }
            _ => {
                let len = attack.random.below(3000);
                broken_frames(server, &attack.random.bytes(len));
            }
        }
    }
    one_byte_at_a_time(server);
    insider.refresh(0).expect_success();
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// Frames with right lengths: the last one's answer comes, after whatever others.
fn whole_frames(server: SocketAddr, batch: &[u8]) {
    let mut stream = connect(server);
    stream.write_all(batch).expect("sent");
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let len = stream.read(&mut buffer).expect("answers");
        assert!(len > 0, "the relay closed a connection with whole frames");
        received.extend_from_slice(&buffer[..len]);
        while let Frame::Complete { len, payload } = frame(&received) {
            let id = Message::parse(&received[..payload]).expect("STUN").transaction_id();
            if id == FENCE {
                return;
            }
            received.drain(..len);
        }
    }
}

/// Bytes with any lengths: whatever comes, it ends.
fn broken_frames(server: SocketAddr, batch: &[u8]) {
    let mut stream = connect(server);
    // The relay may have closed it already.
    let sent = stream.write_all(batch).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    for error in [sent.err(), read.err()].into_iter().flatten() {
        let broken = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];
        assert!(broken.contains(&error.kind()), "{error}");
    }
    assert!(all.len() < batch.len() * 3 + 1000, "{} bytes for {}", all.len(), batch.len());
}

/// Connections with a part of a message each.
pub(crate) fn half_open(server: SocketAddr, count: usize) -> Vec<TcpStream> {
    let most = [&[0x00, 0x01, 0x07, 0xE8, 0x21, 0x12, 0xA4, 0x42][..], &[0; 2000]].concat();
    let halves: [&[u8]; 4] = [&[], &fence()[..19], &[0x40, 0x00, 0x07, 0x00, 1, 2], &most];
    let open = |index: usize| {
        let mut stream = connect(server);
        stream.write_all(halves[index % halves.len()]).expect("sent");
        stream
    };
    (0..count).map(open).collect()
}

/// An Allocate in as many segments as it has bytes gets its 401.
pub(crate) fn one_byte_at_a_time(server: SocketAddr) {
    let mut client = Client::tcp(server);
    let request = client.build(Class::Request, Method::ALLOCATE, &|b| b.add(&UDP));
    for byte in request {
        client.raw(&[byte]).expect("sent");
    }
    let answer = client.next_message();
    let answer = Message::parse(&answer).expect("STUN");
    let error = answer.get::<ErrorCode>().expect("well-formed").expect("an error");
    assert_eq!(error.code, 401);
}
