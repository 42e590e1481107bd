//! The kernel's data path of a running daemon, between machines of our own: network namespaces
//! for clients, for the relay and for peers. Whatever is relayed there is counted apart, so that
//! each test knows which path its datagrams took.
//!
//! | File | What is there |
//! |---|---|
//! | `offload/net.rs` | the machines, the daemon between them, sockets that see headers |
//! | `offload/differential.rs` | the same datagrams with and without the kernel |
//! | `offload/ends.rs` | what ends a channel, takes its place, or changes the network under it |
//! | `offload/hostile.rs` | super-packets, forged packets, Binding requests |
//! | `offload/interop.rs` | the clients of coturn and of webrtc-rs, as elsewhere without the kernel |
//! | `offload/limits.rs` | bandwidths and volumes |
//! | `offload/modes.rs` | `auto` and what it says, explicit modes, capabilities |
//! | `offload/relaying.rs` | what arrives: every pair of families, lengths, headers, relay to relay |

#[path = "offload/differential.rs"]
mod differential;
#[path = "offload/ends.rs"]
mod ends;
#[path = "offload/hostile.rs"]
mod hostile;
#[path = "offload/interop.rs"]
mod interop;
#[path = "offload/limits.rs"]
mod limits;
#[path = "offload/modes.rs"]
mod modes;
#[path = "offload/net.rs"]
mod net;
#[path = "offload/relaying.rs"]
mod relaying;

mod common;
#[path = "turnutils/uclient.rs"]
mod uclient;

use std::thread;

use net::{Net, World};

/// Does something in each mode, side by side.
fn in_each_mode(test: impl Fn(&str, Net) + Sync) {
    thread::scope(|scope| {
        for mode in net::MODES {
            let Some(net) = Net::new() else { return };
            let test = &test;
            scope.spawn(move || test(mode, net));
        }
    });
}

/// The same with a daemon that needs no special configuration.
fn in_each_world(test: impl Fn(&World) + Sync) {
    in_each_mode(|mode, net| test(&World::start(net, mode, World::setup())));
}
