//! Well-behaved clients that talk to their peers while something else goes on, and notice whatever
//! is lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::client::{Client, Peer, Relayed, Transport};

/// Clients of a relay over these transports, each with a peer. Made on this thread: in the network
/// namespace it is in.
pub fn pairs(server: SocketAddr, roots: &str, over: &[Transport]) -> Vec<(Client, Peer)> {
    let pair =
        |transport: &Transport| (Client::over(*transport, server, roots), Peer::on(server.ip()));
    over.iter().map(pair).collect()
}

/// Does some work while clients talk to their peers, whereby nothing may be lost or changed.
pub fn while_talking<T>(pairs: Vec<(Client, Peer)>, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // A panic here must end the conversations as well.
        let end = SetWhenDropped(&over);
        let over = &over;
        let talk = |(client, peer)| scope.spawn(move || converse(client, &peer, over));
        let talking: Vec<_> = pairs.into_iter().map(talk).collect();
        let result = work();
        drop(end);
        for client in talking {
            let turns = client.join().expect("a well-behaved client lost something");
            assert!(turns > 100, "only {turns} turns");
        }
        result
    })
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody with an account who does all of it right, and loses nothing while it lasts. Returns
/// how often everything was done.
fn converse(mut client: Client, peer: &Peer, over: &AtomicBool) -> u32 {
    let relayed = client.allocate();
    client.permit(&[peer.address()]).expect_success();
    client.bind(0x4ABC, peer.address()).expect_success();
    let mut turn = 0_u32;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        let data = turn.to_be_bytes();
        client.send_channel(0x4ABC, &data);
        assert_eq!(peer.receive(), (data.to_vec(), relayed));
        peer.send(&data, relayed);
        assert_eq!(client.receive(), Relayed::Channel { number: 0x4ABC, data: data.to_vec() });
        if turn.is_multiple_of(64) {
            client.refresh(600).expect_success();
        }
    }
    client.refresh(0).expect_success();
    turn
}
