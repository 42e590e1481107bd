use super::*;

const DELAY: Duration = Duration::from_micros(120);
const DELAY_NS: u64 = DELAY.as_nanos() as u64;
const SECOND_NS: u64 = 1_000_000_000;

/// Datagrams that come every `gap_ns`, served by turns which take `work_ns` for each of them: for
/// each turn how many it served and what followed it, once the shard has got used to them.
fn turns(pace: &mut Pace, gap_ns: u64, work_ns: u64) -> Vec<(u64, Rest)> {
    let (begin_ns, mut now_ns, mut served) = (SECOND_NS, SECOND_NS, 0);
    let mut turns = Vec::new();
    while now_ns < begin_ns + SECOND_NS / 10 {
        let come = (now_ns - begin_ns) / gap_ns + 1;
        let count = come - served;
        served = come;
        let ended_ns = now_ns + count * work_ns;
        let rest = pace.rest(now_ns, ended_ns, count);
        turns.push((count, rest));
        now_ns = ended_ns;
        now_ns = match rest {
            Rest::Pause(pause_ns) => now_ns + pause_ns,
            Rest::Wait | Rest::WaitOften => now_ns,
        };
        now_ns = now_ns.max(begin_ns + served * gap_ns);
    }
    turns.split_off(40.min(turns.len() / 2))
}

fn served_by_each(turns: &[(u64, Rest)]) -> f64 {
    turns.iter().map(|(count, _)| count).sum::<u64>() as f64 / turns.len() as f64
}

fn pauses(turns: &[(u64, Rest)]) -> impl Iterator<Item = u64> + '_ {
    turns.iter().filter_map(|(_, rest)| match rest {
        Rest::Pause(pause_ns) => Some(*pause_ns),
        Rest::Wait | Rest::WaitOften => None,
    })
}

#[test]
fn evenly_paced_datagrams_share_wakeups() {
    for gap_ns in [50_000, 30_000, 20_000] {
        let turns = turns(&mut Pace::new(DELAY), gap_ns, 5_000);
        let served = served_by_each(&turns);
        assert!(served >= 2.0, "{served} per wake-up, {gap_ns} ns apart");
    }
}

#[test]
fn no_pause_is_longer_than_configured_or_than_a_few_datagrams_take() {
    for gap_ns in [70_000, 60_000, 50_000, 25_000, 20_000, 16_000, 14_000] {
        let turns = turns(&mut Pace::new(DELAY), gap_ns, 4_000);
        let longest_ns = pauses(&turns).max().expect("there are pauses");
        assert!(longest_ns <= DELAY_NS, "{longest_ns} ns, {gap_ns} ns apart");
        // The gap is an estimate.
        let few_ns = GATHER * gap_ns * 5 / 4;
        assert!(longest_ns <= few_ns, "{longest_ns} ns, {gap_ns} ns apart");
    }
}

#[test]
fn datagrams_further_apart_than_the_delay_never_wait() {
    for gap_ns in [DELAY_NS + 1, 2 * DELAY_NS, 1_000_000, 20_000_000] {
        let turns = turns(&mut Pace::new(DELAY), gap_ns, 5_000);
        assert_eq!(pauses(&turns).count(), 0, "{gap_ns} ns apart");
    }
}

#[test]
fn the_first_datagrams_after_a_quiet_time_do_not_wait() {
    let mut pace = Pace::new(DELAY);
    assert!(pauses(&turns(&mut pace, 20_000, 5_000)).count() > 0);
    for at_ns in [5 * SECOND_NS, 5 * SECOND_NS + 10_000] {
        assert_eq!(pace.rest(at_ns, at_ns + 5_000, 1), Rest::Wait);
    }
}

#[test]
fn saturation_and_bursts_are_not_held_up() {
    // Work for 4 µs with what comes every 4 µs, or nearly as often.
    for gap_ns in [4_000, 6_000, 9_000] {
        let turns = turns(&mut Pace::new(DELAY), gap_ns, 4_000);
        assert_eq!(pauses(&turns).count(), 0, "{gap_ns} ns apart");
    }
    // Thirty at once, a thousand times in a second.
    let mut pace = Pace::new(DELAY);
    let rests =
        (1..1_000).map(|burst| pace.rest(burst * 1_000_000, burst * 1_000_000 + 40_000, 30));
    assert!(rests.into_iter().all(|rest| !matches!(rest, Rest::Pause(_))));
}

#[test]
fn zero_means_never() {
    for gap_ns in [50_000, 20_000, 10_000] {
        let turns = turns(&mut Pace::new(Duration::ZERO), gap_ns, 5_000);
        assert_eq!(pauses(&turns).count(), 0);
    }
}

#[test]
fn turns_without_datagrams_change_nothing() {
    let mut pace = Pace::new(DELAY);
    turns(&mut pace, 50_000, 5_000);
    let (gap_ns, turned_ns) = (pace.gap_ns, pace.turned_ns);
    assert_eq!(pace.rest(3 * SECOND_NS, 3 * SECOND_NS, 0), Rest::Wait);
    assert_eq!((pace.gap_ns, pace.turned_ns), (gap_ns, turned_ns));
}

#[test]
fn a_pause_ends_in_time_and_beats_follow_each_other() {
    let mut metronome = Metronome::new().unwrap();
    let begin_ns = turnway_udp::system::monotonic_ns();
    let mut last_ns = begin_ns;
    for _ in 0..10 {
        metronome.pause(last_ns, 2_000_000);
        let now_ns = turnway_udp::system::monotonic_ns();
        let beat_ns = metronome.beats_ns[metronome.next ^ 1];
        assert!((last_ns..=last_ns + 2_000_000).contains(&beat_ns), "no later than asked for");
        assert!(now_ns >= beat_ns, "it was slept through");
        last_ns = now_ns;
    }
    metronome.stay_set(last_ns + SECOND_NS);
    assert!(metronome.beats_ns.iter().any(|&beat_ns| beat_ns > last_ns + SECOND_NS));
}
