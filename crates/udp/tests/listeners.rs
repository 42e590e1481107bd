//! Listeners: side by side for both families, buffers as granted, connections accepted.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use common::{V4, V6, is_idle, receive, wait_readable};
use socket2::SockRef;
use turnway_udp::{ReceiveBatch, accept, listener_tcp, listener_udp, tune_stream};

#[test]
fn both_wildcards_share_a_port_and_each_gets_its_family() {
    let (v4, _) = listener_udp("0.0.0.0:0".parse().unwrap(), 0).unwrap();
    let port = v4.local_addr().unwrap().port();
    let (v6, _) = listener_udp(SocketAddr::from(([0_u16; 8], port)), 0).unwrap();
    let mut batch = ReceiveBatch::new(2);
    for (ip, this, other) in [(V4, &v4, &v6), (V6, &v6, &v4)] {
        let client = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        client.send_to(b"x", SocketAddr::new(ip, port)).unwrap();
        receive(&mut batch, this, 1);
        assert!(is_idle(other));
        assert_eq!(batch.get(batch.len() - 1).from, client.local_addr().unwrap());
    }

    let tcp = listener_tcp("0.0.0.0:0".parse().unwrap(), 16).unwrap();
    let port = tcp.local_addr().unwrap().port();
    let _v6 = listener_tcp(SocketAddr::from(([0_u16; 8], port)), 16).unwrap();
}

#[test]
fn the_grant_says_what_the_kernel_gave() {
    let any = "127.0.0.1:0".parse().unwrap();
    let (_, default) = listener_udp(any, 0).unwrap();
    assert!(default.asked == 0 && default.receive_got > 0 && default.send_got > 0);
    let asked = 65_536;
    let (listener, grant) = listener_udp(any, asked).unwrap();
    assert_eq!((grant.asked, grant.receive_got, grant.send_got), (asked, asked, asked));
    assert_eq!(SockRef::from(&listener).recv_buffer_size().unwrap(), 2 * asked);
}

#[test]
fn an_accepted_stream_is_non_blocking_and_knows_both_addresses() {
    for ip in [V4, V6] {
        let listener = listener_tcp(SocketAddr::new(ip, 0), 16).unwrap();
        assert_eq!(accept(&listener).unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        wait_readable(&listener);
        let (mut stream, peer, local) = accept(&listener).unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert_eq!(local, client.peer_addr().unwrap());
        tune_stream(&stream).unwrap();
        let options = SockRef::from(&stream);
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
        assert!(options.tcp_user_timeout().unwrap().is_some());

        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        client.write_all(b"request").unwrap();
        wait_readable(&stream);
        let mut buffer = [0; 16];
        assert_eq!(stream.read(&mut buffer).unwrap(), 7);
    }
}
