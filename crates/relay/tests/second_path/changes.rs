//! What changes while flows run: volume that is spent, users and peers that are no longer allowed,
//! limits that come and go.

use turnway_relay::Quotas;
use turnway_relay::quota::{Bandwidth, UserLimits};

use crate::common::Settings;
use crate::common::second_path::Fate;
use crate::flows::{Flow, Kind, MS, Net, SECOND_NS, chunk, of_users};

fn settings(quotas: Quotas) -> Settings {
    Settings { quotas, servers: 2, ..Settings::default() }
}

#[test]
fn spent_volume_stops_relaying_within_a_second_until_the_next_day() {
    let fast = Bandwidth::with_default_burst(1_250_000);
    for (bandwidth, load) in [(None, 100_000), (Some(fast), 100_000), (None, 2_000_000)] {
        let volume_per_day = Some(1_000_000);
        let limits = UserLimits { bandwidth, volume_per_day, ..UserLimits::default() };
        let mut net = Net::new(of_users(limits), 2, 1);
        net.begin_day("2023-11-14");
        let guests = [net.guest(0, false), net.guest(0, false), net.guest(1, false)];
        // One that uses it up, one that was silent until then, one on another shard.
        net.flow(Flow::new(guests[0], 1_000, load));
        net.flow(Flow::new(guests[1], 1_000, 0));
        net.flow(Flow::new(guests[2], 1_000, 1_000).to_client());
        while net.flows.iter().map(Flow::passed).sum::<u64>() < 1_000_000 {
            net.step();
        }
        net.run(SECOND_NS);
        net.flows[1].load = 10_000;
        for flow in net.measure(3 * SECOND_NS) {
            assert_eq!(flow.passed(), 0, "{bandwidth:?} {load}");
            let above = flow.slow_drops * 100 / flow.offered;
            assert!(above < 10 || flow.offered < 100_000, "{above} % passed up");
        }
        net.volume();
        net.begin_day("2023-11-15");
        net.flows.iter_mut().for_each(|flow| flow.load = 10_000);
        net.run(SECOND_NS);
        for flow in net.measure(3 * SECOND_NS) {
            assert_eq!(flow.dropped(), 0, "{bandwidth:?} {load}");
            assert!(flow.fast * 100 > flow.offered * 95);
        }
        net.run(100 * MS);
    }
}

#[test]
fn who_may_not_any_more_is_not_relayed_from_that_moment_on() {
    let fast = Bandwidth::with_default_burst(1_250_000);
    for quotas in [Quotas::default(), Kind::User.quotas(fast)] {
        let before = settings(quotas);
        let removed = Settings { users: vec![("bob", "hunter2")], ..before.clone() };
        let denied = Settings { deny: vec!["198.51.100.1/32"], ..before.clone() };
        for after in [removed, denied] {
            let mut net = Net::with(&before, 1);
            let guest = net.guest(0, false);
            net.flow(Flow::new(guest, 1_000, 100_000));
            net.flow(Flow::new(guest, 1_000, 100_000).to_client());
            net.run(SECOND_NS);
            let relayed = net.flows[0].fast;
            assert!(relayed > 90_000);
            net.configure(&after);
            assert_eq!(net.path.open_places(), 0);
            let flows = net.measure(SECOND_NS);
            assert_eq!((flows[0].passed(), flows[1].passed()), (0, 0));
            net.check_figures();
        }
    }
}

#[test]
fn what_runs_out_stops_in_time_and_a_new_binding_relays_again() {
    let limit = Bandwidth::with_default_burst(1_250_000);
    let mut net = Net::new(Kind::User.quotas(limit), 1, 1);
    let guest = net.guest(0, false);
    net.flow(Flow::new(guest, 1_000, 100_000));
    net.run(SECOND_NS);
    // Everybody is too busy to look at the clock: the deadline stands for itself.
    net.world.pass_unnoticed(300);
    let way = net.flows[0].way;
    assert_eq!(net.datagram(guest, way, 1_000), (Fate::PassedUp, false));
    net.run(SECOND_NS);
    assert_eq!(net.measure(SECOND_NS)[0].passed(), 0);
    let mut client = net.guests[guest].client.clone();
    let peer = net.guests[guest].peer.to_string();
    client.bind(&mut net.world, 0x4000, &peer);
    net.run(100 * MS);
    let flow = net.measure(SECOND_NS)[0];
    assert_eq!((flow.dropped(), flow.fast), (0, flow.offered));
    assert_eq!(net.path.open_places(), 1);
    net.check_figures_after_a_turn();
}

#[test]
fn limits_come_and_go_while_flows_run() {
    let rate = 125_000;
    let limit = Bandwidth::with_default_burst(rate);
    let free = settings(Quotas::default());
    let counted = settings(Quotas { count_volume: true, ..Quotas::default() });
    for kind in Kind::ALL {
        for before in [&free, &counted] {
            let mut net = Net::with(before, 1);
            let guest = net.guest(0, false);
            net.flow(Flow::new(guest, 1_000, 1_000_000));
            net.flow(Flow::new(guest, 1_000, 20_000).to_client());
            net.run(SECOND_NS);
            for _ in 0..3 {
                let flow = net.measure(SECOND_NS)[0];
                assert_eq!((flow.fast, net.path.lent(), net.path.shut()), (flow.offered, 0, 0));

                net.configure(&settings(kind.quotas(limit)));
                // It holds from the next turns on, and the burst passes first.
                net.run(2 * SECOND_NS);
                net.witnesses.clear();
                net.witness(kind.scope(), limit);
                let flows = net.measure(2 * SECOND_NS);
                let percent = flows[0].passed() * 100 / (2 * rate);
                assert!((95..=100).contains(&percent), "{kind:?}: {percent} %");
                assert_eq!(flows[1].dropped(), 0, "the other direction is polite");
                assert!(net.excess() <= chunk(limit));

                // From one limit to another, and to none.
                net.configure(&settings(kind.quotas(Bandwidth::with_default_burst(rate / 2))));
                net.run(2 * SECOND_NS);
                let percent = net.measure(2 * SECOND_NS)[0].passed() * 100 / rate;
                assert!((95..=101).contains(&percent), "{kind:?}: {percent} %");
                net.configure(before);
                net.run(300 * MS);
            }
            net.check_figures_after_a_turn();
        }
    }
}
