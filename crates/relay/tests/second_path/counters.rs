//! Everything that was relayed or dropped is counted, however an allocation ends, also if its last
//! counters were not read before.

use turnway_relay::quota::Bandwidth;
use turnway_relay::{Direction, Event, Quotas, Record, SessionFilter, Traffic};
use turnway_wire::{Family, RequestedAddressFamily};

use crate::common::Settings;
use crate::common::client::Ask;
use crate::common::second_path::Fate;
use crate::flows::{Flow, Kind, MS, Net};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Refresh,
    OneFamily,
    Kill,
    UserRemoved,
    Expiry,
    Shutdown,
}

const ENDS: [End; 6] =
    [End::Refresh, End::OneFamily, End::Kill, End::UserRemoved, End::Expiry, End::Shutdown];

fn end(net: &mut Net, end: End, settings: &Settings) {
    let mut client = net.guests[0].client.clone();
    match end {
        End::Refresh => assert_eq!(client.ask(&mut net.world, &Ask::refresh(0)).code(), 0),
        End::OneFamily => {
            let before = net.path.open_places();
            let v6 = RequestedAddressFamily { family: Some(Family::V6) };
            assert_eq!(client.ask(&mut net.world, &Ask::refresh(0).with(v6)).code(), 0);
            assert_eq!(net.path.open_places(), before - 1);
            assert_eq!(client.ask(&mut net.world, &Ask::refresh(0)).code(), 0);
        }
        End::Kill => {
            let session = session(net).session;
            assert!(net.world.handle(0, Event::Kill { session }).is_none());
        }
        End::UserRemoved => {
            let users = vec![("bob", "hunter2")];
            net.configure(&Settings { users, ..settings.clone() });
        }
        End::Expiry => net.world.pass(600),
        End::Shutdown => {
            let now = net.world.now;
            net.world.servers.iter_mut().for_each(|server| server.shut_down(now));
            net.world.expire();
        }
    }
}

fn session(net: &Net) -> turnway_relay::Session {
    let mut sessions = Vec::new();
    let server = &net.world.servers[0];
    server.sessions(&SessionFilter::default(), 0, 100, 10, net.world.now, &mut sessions);
    sessions.swap_remove(0)
}

#[test]
fn nothing_is_lost_however_it_ends() {
    let limit = Bandwidth::with_default_burst(125_000);
    let all = Kind::ALL.map(|kind| kind.quotas(limit));
    for quotas in all.into_iter().chain([Quotas::default()]) {
        for how in ENDS {
            // Also beside another allocation of the user that goes on.
            for others in [false, true] {
                let quotas = Quotas { count_volume: true, ..quotas.clone() };
                let settings = Settings { quotas, ..Settings::default() };
                let mut net = Net::with(&settings, 1);
                net.begin_day("2023-11-14");
                for guest in net.dual_guest(0).unwrap() {
                    // One way is polite and the other is not.
                    net.flow(Flow::new(guest, 100, 500_000));
                    net.flow(Flow::new(guest, 100, 50_000).to_client());
                }
                if others {
                    net.guest(0, false);
                }
                net.other_guest(0);
                net.run(1_000 * MS);
                let flows = net.flows.clone();
                net.check_figures_after_a_turn();
                assert_eq!(session(&net).traffic, net.relayed);
                let dropped = net.world.stats().client_drops.iter().sum::<u64>();
                assert_eq!(session(&net).dropped, dropped);

                // Between two turns.
                net.flows = flows;
                net.run(127 * MS);
                end(&mut net, how, &settings);
                net.check_figures();
                let first = net.world.records.iter().find_map(|record| match record {
                    Record::Ended(ended) => Some(ended.traffic),
                    Record::Started(_)
                    | Record::AuthFailed(_)
                    | Record::VolumeSpent(_)
                    | Record::Moved(_) => None,
                });
                assert_eq!(first, Some(net.relayed), "{how:?}");
                assert_eq!(net.recorded(), net.relayed);
                net.flows.clear();
                net.world.pass(600);
                let Traffic { to_peer_bytes, to_client_bytes, .. } = net.relayed;
                assert_eq!(net.volume(), (to_peer_bytes, to_client_bytes), "{how:?}");
                net.world.assert_empty();
                assert_eq!((net.path.open_places(), net.path.lent()), (0, 0));
                let (_, mirrors) = net.world.second.as_ref().unwrap();
                assert_eq!(mirrors[0].due_ns(), None);
            }
        }
    }
}

#[test]
fn a_channel_that_is_bound_again_begins_anew() {
    let limit = Bandwidth::with_default_burst(125_000);
    let mut net = Net::new(Kind::User.quotas(limit), 1, 1);
    let guest = net.guest(0, false);
    net.flow(Flow::new(guest, 1_000, 1_000_000));
    net.run(1_027 * MS);
    // Permission and channel run out; the same number is for another peer then.
    let mut client = net.guests[guest].client.clone();
    for _ in 0..2 {
        net.flows[0].load = 0;
        net.world.pass(299);
        assert_eq!(client.ask(&mut net.world, &Ask::refresh(600)).code(), 0);
    }
    net.world.pass(10);
    assert_eq!(net.path.open_places(), 0);
    client.bind(&mut net.world, 0x4000, "198.51.100.2:7");
    net.guests[guest].peer = "198.51.100.2:7".parse().unwrap();
    // Nothing is left of what the first one was lent, or shut for.
    assert_eq!((net.path.lent(), net.path.shut()), (0, 0));
    assert_eq!(net.datagram(guest, Direction::ToPeer, 1_000), (Fate::PassedUp, true));
    net.flows[0].load = 100_000;
    net.run(100 * MS);
    let flow = net.measure(500 * MS)[0];
    assert_eq!((flow.fast, net.path.open_places()), (flow.offered, 1));
    net.check_figures_after_a_turn();
}

#[test]
fn where_there_is_no_place_the_rules_relay() {
    let mut net = Net::new(Quotas::default(), 1, 1);
    net.path = net.world.offload(1);
    for guest in [net.guest(0, false), net.guest(0, false)] {
        net.flow(Flow::new(guest, 1_000, 100_000));
    }
    net.run(1_000 * MS);
    let [first, second] = &net.flows[..] else { panic!("two flows") };
    assert_eq!((first.fast, second.slow), (first.offered, second.offered));
    // A place that is given back is the next one's.
    let mut client = net.guests[0].client.clone();
    assert_eq!(client.ask(&mut net.world, &Ask::refresh(0)).code(), 0);
    net.flows[0].load = 0;
    net.guest(0, false);
    assert_eq!(net.path.open_places(), 1);
    net.check_figures_after_a_turn();
}

#[test]
fn the_volume_of_allocations_that_end_together_is_whole() {
    for how in [End::UserRemoved, End::Expiry, End::Shutdown] {
        let quotas = Quotas { count_volume: true, ..Quotas::default() };
        let settings = Settings { quotas, ..Settings::default() };
        let mut net = Net::with(&settings, 1);
        net.begin_day("2023-11-14");
        for guest in [net.guest(0, false), net.other_guest(0), net.guest(0, false)] {
            net.flow(Flow::new(guest, 100, 50_000));
        }
        net.run(127 * MS);
        end(&mut net, how, &settings);
        net.flows.clear();
        net.world.pass(600);
        assert_eq!(net.recorded(), net.relayed, "{how:?}");
        assert_eq!(net.volume(), (net.relayed.to_peer_bytes, 0), "{how:?}");
        net.world.assert_empty();
    }
}
