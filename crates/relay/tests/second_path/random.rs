//! Random days: clients come and go, bind, refresh and run out, limits and users change, flows do
//! what they like. Whatever happens, the figures are what happened and nothing is left at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use turnway_relay::quota::{Bandwidth, UserLimits};
use turnway_relay::{Direction, Event, Quotas, Traffic};

use crate::common::Settings;
use crate::common::client::Ask;
use crate::flows::{Flow, Kind, MS, Net};

const SEEDS: u64 = 40;

#[test]
fn whatever_happens_everything_is_counted() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let seed @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
                    let _seed = Seed(seed);
                    day(seed);
                }
            });
        }
    });
}

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} failed", self.0);
        }
    }
}

fn day(seed: u64) {
    let mut net = Net::with(&settings(&mut Net::new(Quotas::default(), 1, seed)), seed);
    net.begin_day("2023-11-14");
    let mut volume = (0, 0);
    for _ in 0..150 {
        happen(&mut net);
        let time_ns = net.rng.below(120 * MS);
        net.run(time_ns);
        let (to_peer, to_client) = net.volume();
        volume = (volume.0 + to_peer, volume.1 + to_client);
    }
    if net.rng.below(2) == 0 {
        let now = net.world.now;
        net.world.servers.iter_mut().for_each(|server| server.shut_down(now));
        net.world.expire();
        net.check_figures();
        assert_eq!(net.recorded(), net.relayed);
    }
    net.flows.clear();
    net.world.pass(3_600);
    net.check_figures();
    assert_eq!(net.recorded(), net.relayed);
    let (to_peer, to_client) = net.volume();
    let Traffic { to_peer_bytes, to_client_bytes, .. } = net.relayed;
    assert_eq!((volume.0 + to_peer, volume.1 + to_client), (to_peer_bytes, to_client_bytes));
    net.world.assert_empty();
    assert_eq!((net.path.open_places(), net.path.lent()), (0, 0));
    assert!(net.relayed.to_peer + net.relayed.to_client > 500, "a day on which nothing happened");
}

fn happen(net: &mut Net) {
    let guests = net.guests.len() as u64;
    let load = [0, 2_000, 60_000, 400_000][net.rng.below(4) as usize];
    match net.rng.below(12) {
        0 | 1 if guests < 30 => {
            let shard = net.rng.below(2) as usize;
            let came: Vec<_> = match net.rng.below(4) {
                0 => net.try_guest(shard, true).into_iter().collect(),
                1 => net.dual_guest(shard).into_iter().flatten().collect(),
                _ => net.try_guest(shard, false).into_iter().collect(),
            };
            for guest in came {
                let size = [50, 172, 1_200][net.rng.below(3) as usize];
                let flow = Flow::new(guest, size, load);
                let back = net.rng.below(2) == 0;
                net.flow(if back { flow.to_client() } else { flow });
            }
        }
        2..=5 if !net.flows.is_empty() => {
            let flow = net.rng.below(net.flows.len() as u64) as usize;
            net.flows[flow].load = load;
            net.flows[flow].every_ns = [0, 100 * MS][net.rng.below(2) as usize];
        }
        6 if guests > 0 => {
            // What is refused, for whatever reason, is refused.
            let guest = net.rng.below(guests) as usize;
            let lifetime = [0, 600, 900][net.rng.below(3) as usize];
            let mut client = net.guests[guest].client.clone();
            client.ask(&mut net.world, &Ask::refresh(lifetime));
        }
        7 if guests > 0 => {
            let guest = net.rng.below(guests) as usize;
            let (number, peer) = (net.guests[guest].number, net.guests[guest].peer.to_string());
            let mut client = net.guests[guest].client.clone();
            client.ask(&mut net.world, &Ask::channel_bind(number, &peer));
        }
        8 => {
            let (shard, nth) = (net.rng.below(2) as usize, net.rng.below(10));
            let session = ((shard as u64) << 48) + 1 + nth;
            net.world.handle(shard, Event::Kill { session });
        }
        9 => {
            let seconds = [1, 100, 299, 301][net.rng.below(4) as usize];
            net.world.pass(seconds);
        }
        10 => {
            let settings = settings(net);
            net.configure(&settings);
        }
        11 if guests > 0 => {
            let guest = net.rng.below(guests) as usize;
            for _ in 0..20 {
                net.datagram(guest, Direction::ToClient, 700);
            }
        }
        _ => {}
    }
}

/// Any limits, with volume always counted.
fn settings(net: &mut Net) -> Settings {
    let rate = [8_000, 125_000, 1_250_000][net.rng.below(3) as usize];
    let burst_bytes = [1_500, 6_000, 65_507, 650_000][net.rng.below(4) as usize];
    let limit = Bandwidth { bytes_per_second: rate, burst_bytes };
    let volume = UserLimits { volume_per_day: Some(300_000), ..UserLimits::default() };
    let mut quotas = match net.rng.below(8) {
        0 | 1 => Quotas::default(),
        2 => Quotas { default: volume, ..Quotas::default() },
        kind => Kind::ALL[kind as usize % 4].quotas(limit),
    };
    quotas.count_volume = true;
    let mut settings = Settings { quotas, servers: 2, ..Settings::default() };
    match net.rng.below(10) {
        0 => settings.users.retain(|(name, _)| *name != "alice"),
        1 => settings.deny = vec!["198.51.100.0/24"],
        _ => {}
    }
    settings
}
