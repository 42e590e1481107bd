//! How long and how much: deadlines, generations, pockets.

mod common;

use common::{Channel, FOREVER, Kernel, Verdict, now_ns, payload};
use turnway_offload::maps::{Counts, NextHop, Outcome, PathKey};

const ADDRESSES: [[&str; 4]; 2] = [
    ["192.0.2.1:40000", "203.0.113.7:3478", "203.0.113.7:50000", "198.51.100.9:6000"],
    [
        "[2001:db8:1::1]:40003",
        "[2001:db8:7::7]:3478",
        "[2001:db8:7::7]:50003",
        "[2001:db8:99::9]:6003",
    ],
];

/// Both directions of a channel of either family, each with its account.
fn directions(kernel: &mut Kernel) -> Vec<(common::packet::Packet, u32)> {
    let both = |channel: Channel| {
        [
            (channel.client_sends(&payload(100)), channel.to_peer),
            (channel.peer_sends(&payload(100)), channel.to_client),
        ]
    };
    ADDRESSES.into_iter().flat_map(|addresses| both(kernel.channel(addresses))).collect()
}

#[test]
fn a_deadline_ends_a_direction_and_another_one_revives_it() {
    const SECOND_NS: u64 = 1_000_000_000;
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        kernel.maps().accounts.set_deadline(account, now_ns() - SECOND_NS / 10);
        kernel.passes(&packet.encode(), Some(Outcome::PassExpired));
        kernel.maps().accounts.set_deadline(account, now_ns() + 3600 * SECOND_NS);
        kernel.relayed(&packet);
        kernel.maps().accounts.set_deadline(account, 0);
        kernel.passes(&packet.encode(), Some(Outcome::PassExpired));
        assert_eq!(kernel.counts(account).datagrams, 1);
    }
}

#[test]
fn a_deadline_passes_by_itself() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        let deadline_ns = now_ns() + 50_000_000;
        kernel.maps().accounts.set_deadline(account, deadline_ns);
        let mut relayed = 0;
        // The program's clock is the kernel's coarse one, which may be a tick behind.
        while now_ns() < deadline_ns + 20_000_000 {
            relayed += u64::from(kernel.run(&packet.encode()).0 == Verdict::Transmit);
        }
        assert!(relayed > 0);
        kernel.passes(&packet.encode(), Some(Outcome::PassExpired));
        assert_eq!(kernel.counts(account).datagrams, relayed);
    }
}

#[test]
fn paths_of_a_closed_account_stay_dead_when_it_is_opened_for_another() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        kernel.relayed(&packet);
        assert_eq!(kernel.maps().accounts.close(account), 0);
        kernel.passes(&packet.encode(), Some(Outcome::PassExpired));
        assert_eq!(kernel.counts(account).datagrams, 1, "what was counted can still be read");
        let generation = kernel.maps().accounts.open(account, FOREVER, false);
        assert_eq!(generation, kernel.maps().accounts.generation(account));
        kernel.passes(&packet.encode(), Some(Outcome::PassExpired));
        assert_eq!(kernel.counts(account), Counts::default());
    }
}

#[test]
fn a_removed_path_is_nobodys() {
    let Some(mut kernel) = Kernel::load() else { return };
    let channel = kernel.channel(ADDRESSES[0]);
    let from_client = PathKey::from_client(channel.client, channel.server, channel.number).unwrap();
    let from_peer = PathKey::from_peer(channel.peer, channel.relay).unwrap();
    for _ in 0..2 {
        kernel.maps().paths.remove(&from_client).unwrap();
        kernel.maps().paths.remove(&from_peer).unwrap();
    }
    kernel.passes(&channel.client_sends(b"payload").encode(), Some(Outcome::PassUnknown));
    // What looks like ChannelData would be counted as such.
    kernel.passes(&channel.peer_sends(&payload(8)).encode(), None);
    kernel.install(&channel, [NextHop::At(common::TO_PEERS), NextHop::At(common::TO_CLIENTS)]);
    kernel.relayed(&channel.client_sends(b"payload"));
}

#[test]
fn the_pocket_pays_for_payload_to_the_last_byte() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        let accounts = &kernel.maps().accounts;
        accounts.meter(account, true);
        accounts.lend(account, 250);
        accounts.lend(account, 49);
        kernel.relayed(&packet);
        kernel.relayed(&packet);
        let frame = packet.encode();
        kernel.passes(&frame, Some(Outcome::PassLimit));
        let spent = Counts { datagrams: 2, bytes: 200, ..Counts::default() };
        assert_eq!(kernel.counts(account), Counts { passed_bytes: 100, pocket: 99, ..spent });
        kernel.maps().accounts.lend(account, 1);
        kernel.relayed(&packet);
        assert_eq!(kernel.counts(account).pocket, 0);
        kernel.passes(&frame, Some(Outcome::PassLimit));
        // Nobody asks a pocket that does not limit.
        kernel.maps().accounts.meter(account, false);
        kernel.relayed(&packet);
        assert_eq!(kernel.counts(account).bytes, 400);
    }
}

#[test]
fn what_a_shut_pocket_does_not_cover_is_dropped_and_counted() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        kernel.maps().accounts.meter(account, true);
        kernel.maps().accounts.shut(account, true);
        kernel.maps().accounts.lend(account, 150);
        kernel.relayed(&packet);
        let before = kernel.outcomes();
        assert_eq!(kernel.run(&packet.encode()).0, Verdict::Drop);
        assert_eq!(kernel.news(&before), [Outcome::DropLimit]);
        let counts = Counts { dropped: 1, dropped_bytes: 100, pocket: 50, ..Counts::default() };
        assert_eq!(kernel.counts(account), Counts { datagrams: 1, bytes: 100, ..counts });
        kernel.maps().accounts.shut(account, false);
        kernel.passes(&packet.encode(), Some(Outcome::PassLimit));
    }
}

#[test]
fn credit_that_is_left_comes_back() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        let accounts = &kernel.maps().accounts;
        accounts.meter(account, true);
        accounts.lend(account, 1000);
        kernel.relayed(&packet);
        assert_eq!(kernel.maps().accounts.reclaim(account), 900);
        assert_eq!(kernel.maps().accounts.reclaim(account), 0);
        kernel.passes(&packet.encode(), Some(Outcome::PassLimit));
        kernel.maps().accounts.lend(account, 300);
        kernel.relayed(&packet);
        assert_eq!(kernel.maps().accounts.close(account), 200);
    }
}

/// What is not sent costs nothing, whatever the reason.
#[test]
fn what_is_passed_up_costs_nothing() {
    let Some(mut kernel) = Kernel::load() else { return };
    for (packet, account) in directions(&mut kernel) {
        kernel.maps().accounts.meter(account, true);
        kernel.maps().accounts.lend(account, 1000);
        for hop in [common::TO_CLIENTS, common::TO_PEERS] {
            kernel.maps().hops.clear(hop);
        }
        kernel.passes(&packet.encode(), Some(Outcome::PassHop));
        assert_eq!(kernel.counts(account), Counts { pocket: 1000, ..Counts::default() });
    }
}
