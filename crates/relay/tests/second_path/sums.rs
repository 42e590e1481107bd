//! What gets through, and by which path.

use turnway_relay::Direction;
use turnway_relay::quota::Bandwidth;

use crate::flows::{Flow, Kind, MS, Net, RATES, SECOND_NS, chunk, usual_size};

fn default_burst(rate: u64) -> Bandwidth {
    Bandwidth::with_default_burst(rate)
}

#[test]
fn twice_the_limit_gets_the_limit() {
    for kind in Kind::ALL {
        for rate in RATES {
            for (burst, least) in [
                (default_burst(rate).burst_bytes, 95),
                (1_500.max(rate / 100), 90),
                (10 * rate.max(6_000), 95),
            ] {
                let limit = Bandwidth { bytes_per_second: rate, burst_bytes: burst };
                let mut net = Net::new(kind.quotas(limit), 1, 1);
                let guest = net.guest(0, false);
                let size = usual_size(rate).min(burst / 5);
                net.flow(Flow::new(guest, size, 2 * rate));
                net.flow(Flow::new(guest, size, 2 * rate).to_client());
                // Until the burst is spent: it lasts for so long at twice the rate.
                net.run(burst / rate * SECOND_NS + SECOND_NS);
                let seconds = if rate > 10_000_000 { 1 } else { 4 };
                for flow in net.measure(seconds * SECOND_NS) {
                    let percent = flow.passed() * 100 / (rate * seconds);
                    assert!(percent >= least, "{kind:?} {limit:?}: {percent} %");
                    // What a pocket can hold goes past the rules, and so does what is too much.
                    let above = (flow.slow + flow.slow_drops) * 100 / flow.offered;
                    assert!(above < 5 || burst < rate / 2, "{kind:?} {limit:?}: {above} % up");
                }
            }
        }
    }
}

#[test]
fn less_than_the_limit_loses_nothing_and_takes_the_second_path() {
    for kind in Kind::ALL {
        for rate in RATES {
            let limit = default_burst(rate);
            let steady = Flow::new(0, usual_size(rate), rate * 8 / 10);
            let voice = Flow::new(0, 172, 50 * 172);
            let bursty = steady.every(100 * MS);
            for flow in [steady, voice, bursty] {
                if flow.load > rate {
                    continue;
                }
                for flow in [flow, flow.to_client()] {
                    let mut net = Net::new(kind.quotas(limit), 1, 1);
                    net.guest(0, false);
                    net.flow(flow);
                    net.run(150 * MS);
                    let seconds = if rate > 10_000_000 { 2 } else { 10 };
                    let flow = net.measure(seconds * SECOND_NS)[0];
                    assert_eq!(flow.dropped(), 0, "{kind:?} {limit:?} at {}", flow.load);
                    let fast = flow.fast * 1000 / flow.offered;
                    assert!(fast > 950, "{kind:?} {limit:?} at {}: {fast}/1000", flow.load);
                }
            }
        }
    }
}

/// Whether the channel is new or was idle for long, and whatever the phase of the turns.
#[test]
fn whoever_begins_takes_the_second_path_after_a_few_datagrams() {
    for (kind, rate) in Kind::ALL.into_iter().flat_map(|kind| RATES.map(|rate| (kind, rate))) {
        for idle_ns in [0, 20 * MS, SECOND_NS, SECOND_NS + 70 * MS] {
            for load in [rate / 8, rate / 2] {
                let begun = Flow::new(10, usual_size(rate), load);
                for flow in [begun, begun.to_client()] {
                    let mut net = Net::new(kind.quotas(default_burst(rate)), 1, 1);
                    for _ in 0..20 {
                        net.guest(0, false);
                    }
                    net.run(idle_ns);
                    net.flow(flow);
                    let flow = net.measure(300 * MS)[0];
                    let [slow, all] = [flow.slow, flow.offered].map(|bytes| bytes / flow.size);
                    let begins = format!("{kind:?}, {load} of {rate} after {idle_ns} ns");
                    assert!(slow <= 3 + all / 16, "{begins}: {slow} of {all}");
                }
            }
        }
    }
}

#[test]
fn nothing_is_metered_that_nobody_limits() {
    let counted = turnway_relay::Quotas { count_volume: true, ..Default::default() };
    for quotas in [counted, Default::default()] {
        let mut net = Net::new(quotas, 1, 1);
        let guest = net.guest(0, false);
        net.flow(Flow::new(guest, 1_200, 1_000_000));
        let flow = net.measure(SECOND_NS)[0];
        assert_eq!((flow.fast, net.path.lent()), (flow.offered, 0));
    }
}

#[test]
fn who_is_idle_holds_nothing() {
    for kind in Kind::ALL {
        let limit = default_burst(125_000);
        let mut net = Net::new(kind.quotas(limit), 1, 1);
        let guest = net.guest(0, false);
        net.flow(Flow::new(guest, 1_200, 100_000));
        net.run(SECOND_NS);
        let lent = net.path.lent();
        assert!(lent > 0 && lent <= chunk(limit), "{lent}");
        net.flows[0].load = 0;
        net.run(250 * MS);
        assert_eq!(net.path.lent(), 0, "{kind:?}");
        // All of it is there for others again, at once.
        net.run(SECOND_NS);
        net.flows[0].load = limit.burst_bytes * 1_000;
        let flow = net.measure(MS)[0];
        assert!(flow.passed() + 1_500 > limit.burst_bytes, "{kind:?}: {}", flow.passed());
    }
}

#[test]
fn a_flow_that_stops_or_trickles_costs_others_a_chunk_at_most() {
    let limit = default_burst(125_000);
    for trickle in [0, 500] {
        let mut net = Net::new(Kind::User.quotas(limit), 2, 1);
        let first = net.guest(0, false);
        let other = net.guest(1, true);
        net.flow(Flow::new(first, 100, 250_000));
        net.run(3 * SECOND_NS);
        net.flows[0].load = trickle;
        net.flow(Flow::new(other, 1_200, 250_000));
        let passed = net.measure(SECOND_NS)[1].passed();
        assert!(passed + chunk(limit) + trickle + 1_500 >= 125_000, "{passed} beside {trickle}");
    }
}

#[test]
fn a_flood_is_dropped_below_and_forgiven() {
    for kind in Kind::ALL {
        for rate in [8_000, 125_000, 1_250_000] {
            let limit = default_burst(rate);
            let mut net = Net::new(kind.quotas(limit), 1, 1);
            let guest = net.guest(0, false);
            net.flow(Flow::new(guest, usual_size(rate), rate * 20));
            net.run(limit.burst_bytes / (rate * 19) * SECOND_NS + 2 * SECOND_NS);
            let flow = net.measure(2 * SECOND_NS)[0];
            let above = (flow.slow + flow.slow_drops) * 100 / flow.offered;
            let percent = flow.passed() * 100 / (2 * rate);
            assert!(above <= 5, "{kind:?} {limit:?}: {above} % of the flood was passed up");
            assert!(percent >= 90, "{kind:?} {limit:?}: {percent} % of the limit");
            assert_eq!(net.path.shut(), 1);
            // Polite again.
            net.flows[0].load = rate / 2;
            net.run(SECOND_NS);
            let flow = net.measure(4 * SECOND_NS)[0];
            assert_eq!((flow.dropped(), net.path.shut()), (0, 0), "{kind:?} {limit:?}");
            assert!(flow.fast * 100 > flow.offered * 95);
        }
    }
}

#[test]
fn tcp_and_offloaded_get_their_halves() {
    for shards in [[0, 0], [0, 1]] {
        for rate in RATES {
            for load in [1, 2, 10] {
                let limit = default_burst(rate);
                let mut net = Net::new(Kind::User.quotas(limit), 2, 1);
                let udp = net.guest(shards[0], false);
                let tcp = net.guest(shards[1], true);
                for guest in [udp, tcp] {
                    net.flow(Flow::new(guest, usual_size(rate), rate * load));
                }
                net.run(limit.burst_bytes / rate * SECOND_NS + 3 * SECOND_NS);
                let seconds = if rate > 10_000_000 { 1 } else { 10 };
                let flows = net.measure(seconds * SECOND_NS);
                let percent = |flow: &Flow| flow.passed() * 100 / (rate * seconds);
                let [fast, slow] = [percent(&flows[0]), percent(&flows[1])];
                let offloaded = flows[0].fast * 100 / flows[0].passed().max(1);
                assert!(offloaded > if load > 1 { 95 } else { 60 }, "{offloaded} % of {fast} %");
                assert!(fast >= 40 && slow >= 40, "{shards:?} {rate} x{load}: {fast} {slow}");
                assert!(fast + slow >= 95, "{shards:?} {rate} x{load}: {fast} {slow}");
            }
        }
    }
}

#[test]
fn directions_do_not_share() {
    let limit = default_burst(125_000);
    let mut net = Net::new(Kind::User.quotas(limit), 1, 1);
    let guest = net.guest(0, false);
    net.flow(Flow::new(guest, 1_200, 2_000_000));
    net.flow(Flow::new(guest, 172, 100_000).to_client());
    net.run(SECOND_NS);
    let polite = net.measure(5 * SECOND_NS)[1];
    assert_eq!((polite.way, polite.dropped()), (Direction::ToClient, 0));
}
