//! By how much a limit can be exceeded: by what is in the pockets of those who relay under it, at
//! most a chunk for each direction of a channel.

use turnway_relay::quota::Bandwidth;

use crate::flows::{Flow, Kind, MS, Net, RATES, SECOND_NS, Scope, chunk, usual_size};

/// Bursts of a datagram or two, of half a second, of many seconds.
fn limits(rate: u64) -> [Bandwidth; 4] {
    let default = Bandwidth::with_default_burst(rate);
    let of = |burst_bytes: u64| Bandwidth { bytes_per_second: rate, burst_bytes };
    [default, of(1_500.max(rate / 500)), of(6_000.max(rate / 20)), of(default.burst_bytes * 10)]
}

/// Lets everybody fall silent, trickle, and send far too much, at random moments.
fn shake(net: &mut Net, rate: u64, time_ns: u64) {
    for _ in 0..time_ns / (10 * MS) {
        for index in 0..net.flows.len() {
            if net.rng.below(10) == 0 {
                let load = [0, 0, rate / 50, rate, 3 * rate, 10 * rate];
                net.flows[index].load = load[net.rng.below(load.len() as u64) as usize];
            }
        }
        net.run(10 * MS);
    }
}

/// Pauses that let everything recover, between floods that take all there is, where a pocket holds
/// the most for the longest time.
fn flood_and_pause(net: &mut Net, rate: u64) {
    for pause_ns in [20 * MS, 60 * MS, 110 * MS, 160 * MS, 240 * MS, SECOND_NS] {
        for load in [10 * rate, 0, 100 * rate] {
            net.flows.iter_mut().for_each(|flow| flow.load = load);
            net.run(if load == 0 { pause_ns } else { 130 * MS });
        }
    }
}

#[test]
fn one_channel_exceeds_no_limit_by_more_than_a_chunk() {
    for kind in Kind::ALL {
        for rate in &RATES[..3] {
            for limit in limits(*rate) {
                for seed in 0..3 {
                    let mut net = Net::new(kind.quotas(limit), 1, seed);
                    net.guest(0, false);
                    net.witness(kind.scope(), limit);
                    net.flow(Flow::new(0, usual_size(*rate), 0));
                    net.flow(Flow::new(0, usual_size(*rate), 0).to_client());
                    shake(&mut net, *rate, 5 * SECOND_NS);
                    flood_and_pause(&mut net, *rate);
                    let excess = net.excess();
                    assert!(excess <= chunk(limit), "{kind:?} {limit:?} {seed}: {excess}");
                }
            }
        }
    }
}

#[test]
fn a_user_with_a_tcp_and_an_offloaded_allocation_exceeds_its_limit_by_a_chunk_at_most() {
    for shards in [[0, 0], [0, 1]] {
        for rate in &RATES[..3] {
            for limit in limits(*rate) {
                for seed in 0..3 {
                    let mut net = Net::new(Kind::User.quotas(limit), 2, seed);
                    net.guest(shards[0], false);
                    net.guest(shards[1], true);
                    net.witness(Scope::User("alice"), limit);
                    for guest in [0, 1] {
                        net.flow(Flow::new(guest, usual_size(*rate), 0));
                    }
                    shake(&mut net, *rate, 5 * SECOND_NS);
                    flood_and_pause(&mut net, *rate);
                    let excess = net.excess();
                    assert!(excess <= chunk(limit), "{shards:?} {limit:?} {seed}: {excess}");
                }
            }
        }
    }
}

#[test]
fn many_channels_exceed_no_limit_by_more_than_a_chunk_each() {
    for kind in Kind::ALL {
        for rate in [20_000, 1_250_000] {
            for limit in limits(rate) {
                let mut net = Net::new(kind.quotas(limit), 3, 5);
                let mut flows = 0;
                for index in 0..20 {
                    // Mostly not bob, so that alice's limit is held by many.
                    match index % 5 {
                        0 => net.other_guest(index % 3),
                        1 => net.guest(index % 3, true),
                        _ => net.guest(index % 3, false),
                    };
                    let rate = rate / (index as u64 % 3 + 1);
                    net.flow(Flow::new(index, usual_size(rate), 0));
                    flows += u64::from(index % 5 != 1);
                }
                net.witness(kind.scope(), limit);
                shake(&mut net, rate, 5 * SECOND_NS);
                flood_and_pause(&mut net, rate);
                let flows = if kind == Kind::Allocation { 1 } else { flows };
                let excess = net.excess();
                assert!(excess <= flows * chunk(limit), "{kind:?} {limit:?}: {excess}");
            }
        }
    }
}
