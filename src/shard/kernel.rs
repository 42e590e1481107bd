//! The kernel's data path as the rules' mirror sees it.

use std::net::SocketAddr;
use std::sync::Arc;

use turnway_offload::{Accounts, Channel, Offload, Slot};
use turnway_relay::Direction;
use turnway_relay::effect::ChannelPath;
use turnway_relay::mirror::{Counts, SecondPath};

/// See the module.
pub(super) struct Kernel(pub(super) Arc<Offload>);

impl Kernel {
    fn accounts(&self) -> &Accounts {
        self.0.accounts()
    }
}

impl SecondPath for Kernel {
    type Place = Slot;

    fn take(&self) -> Option<Slot> {
        self.0.take()
    }

    fn open(&self, slot: Slot, deadline_ns: u64, metered: bool) {
        for account in both(slot) {
            // What is installed asks for the generation itself.
            let _ = self.accounts().open(account, deadline_ns, metered);
        }
    }

    fn install(&self, slot: Slot, path: &ChannelPath, relay: SocketAddr) {
        let channel = Channel {
            client: path.client.tuple.client,
            server: path.client.tuple.server,
            relay,
            peer: path.peer.socket(),
            number: path.number,
        };
        self.0.install(slot, channel);
    }

    fn set_deadline(&self, slot: Slot, deadline_ns: u64) {
        for account in both(slot) {
            self.accounts().set_deadline(account, deadline_ns);
        }
    }

    fn meter(&self, slot: Slot, metered: bool) {
        for account in both(slot) {
            self.accounts().meter(account, metered);
        }
    }

    fn read(&self, slot: Slot, direction: Direction) -> Counts {
        let counts = self.accounts().read(account(slot, direction));
        Counts {
            datagrams: counts.datagrams,
            bytes: counts.bytes,
            dropped: counts.dropped,
            dropped_bytes: counts.dropped_bytes,
            passed_bytes: counts.passed_bytes,
            pocket: counts.pocket,
        }
    }

    fn lend(&self, slot: Slot, direction: Direction, bytes: u64) {
        self.accounts().lend(account(slot, direction), bytes);
    }

    fn reclaim(&self, slot: Slot, direction: Direction) -> u64 {
        self.accounts().reclaim(account(slot, direction))
    }

    fn shut(&self, slot: Slot, direction: Direction, shut: bool) {
        self.accounts().shut(account(slot, direction), shut);
    }

    fn close(&self, slot: Slot) {
        for account in both(slot) {
            self.accounts().close(account);
        }
        self.0.remove(slot);
    }
}

fn both(slot: Slot) -> [u32; 2] {
    Direction::BOTH.map(|direction| account(slot, direction))
}

fn account(slot: Slot, direction: Direction) -> u32 {
    match direction {
        Direction::ToPeer => slot.to_peer(),
        Direction::ToClient => slot.to_client(),
    }
}
