//! Counts of allocations, against a list of all of them.

use proptest::prelude::*;

use super::*;
use crate::quota::PrefixLimit;

fn account(index: usize) -> Arc<[u8]> {
    format!("account {index}").into_bytes().into()
}

fn client(index: u8) -> IpAddr {
    match index % 2 {
        0 => [192, 0, 2, index / 8].into(),
        _ => [0x2001, 0xDB8, 0, u16::from(index / 16), index.into(), 0, 0, 1].into(),
    }
}

fn quotas(most: [Option<u32>; 3]) -> Arc<Quotas> {
    let [user, prefix, realm] = most;
    Arc::new(Quotas {
        default: UserLimits { allocations: user, ..UserLimits::default() },
        users: [(account(0), UserLimits::default())].into(),
        realm_allocations: realm,
        prefix: PrefixLimit { allocations: prefix, ..PrefixLimit::default() },
        ..Quotas::default()
    })
}

#[derive(Clone, Debug)]
enum Act {
    Reserve {
        account: usize,
        client: u8,
    },
    /// One of those that there are ends.
    Release(prop::sample::Index),
    Configure([Option<u32>; 3]),
}

fn limits() -> impl Strategy<Value = [Option<u32>; 3]> {
    let limit = |most| prop::option::weighted(0.7, 0..most);
    [limit(5_u32), limit(5), limit(20)]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let reserve =
        (0..6_usize, 0..40_u8).prop_map(|(account, client)| Act::Reserve { account, client });
    let act = prop_oneof![
        10 => reserve,
        6 => any::<prop::sample::Index>().prop_map(Act::Release),
        1 => limits().prop_map(Act::Configure),
    ];
    prop::collection::vec(act, 1..300)
}

/// What a limit says, counted anew from all that there is.
fn expected(
    live: &[(Arc<[u8]>, Grant)],
    quotas: &Quotas,
    account: &Arc<[u8]>,
    client: IpAddr,
) -> Result<(), Quota> {
    let over = |most: Option<u32>, count: usize| most.is_some_and(|most| count >= most as usize);
    let prefix = quotas.prefix.prefix_of(client);
    let of_user = live.iter().filter(|(other, _)| other == account).count();
    let of_prefix = live.iter().filter(|(_, grant)| grant.prefix == prefix).count();
    if over(quotas.of(account).allocations, of_user) {
        return Err(Quota::UserAllocations);
    }
    if over(quotas.prefix.allocations, of_prefix) {
        return Err(Quota::PrefixAllocations);
    }
    if over(quotas.realm_allocations, live.len()) {
        return Err(Quota::RealmAllocations);
    }
    Ok(())
}

proptest! {
    #[test]
    fn counts_are_what_there_is(first in limits(), acts in acts()) {
        let mut quotas = self::quotas(first);
        let mut ledger = Ledger::new(Arc::clone(&quotas), 0);
        let mut live: Vec<(Arc<[u8]>, Grant)> = Vec::new();
        for act in acts {
            match act {
                Act::Reserve { account, client } => {
                    let (account, client) = (self::account(account), self::client(client));
                    let expected = expected(&live, &quotas, &account, client);
                    let reserved = ledger.reserve(&account, client, 0);
                    prop_assert_eq!(reserved.map(|_| ()), expected);
                    live.extend(reserved.map(|grant| (account, grant)));
                }
                Act::Release(which) if !live.is_empty() => {
                    let (_, grant) = live.swap_remove(which.index(live.len()));
                    release(&mut ledger, grant);
                }
                Act::Release(_) => {}
                Act::Configure(most) => {
                    quotas = self::quotas(most);
                    ledger.configure(Arc::clone(&quotas), 0);
                }
            }
            prop_assert_eq!(ledger.allocations() as usize, live.len());
            for index in 0..6 {
                let of_user = live.iter().filter(|(other, _)| *other == account(index)).count();
                let report = ledger.user(&account(index), 0);
                prop_assert_eq!(report.map_or(0, |user| user.allocations) as usize, of_user);
            }
        }
        for (_, grant) in live {
            release(&mut ledger, grant);
        }
        prop_assert_eq!((ledger.allocations(), ledger.users()), (0, 0));
        prop_assert!(ledger.prefixes.is_empty());
    }
}

fn release(ledger: &mut Ledger, grant: Grant) {
    let mut release = Release::of(grant);
    ledger.release(0, &mut release, 0);
}

#[test]
fn pages_show_everybody_once() {
    let mut ledger = Ledger::new(quotas([None; 3]), 0);
    let grants: Vec<_> =
        (0..100).map(|index| ledger.reserve(&account(index), client(0), 0).unwrap()).collect();
    grants.iter().step_by(3).for_each(|&grant| release(&mut ledger, grant));
    let (mut users, mut from) = (Vec::new(), Some(0));
    while let Some(place) = from {
        from = ledger.page(place, 7, 0, &mut users);
    }
    let seen: std::collections::BTreeSet<_> = users.iter().map(|user| &user.account).collect();
    assert_eq!((seen.len(), users.len()), (66, 66));
}

#[test]
fn users_that_left_a_moment_ago_are_bounded() {
    let limit = Bandwidth { bytes_per_second: 1_000, burst_bytes: 65_507 };
    let limits = UserLimits { bandwidth: Some(limit), ..UserLimits::default() };
    let quotas = Quotas { default: limits, ..Quotas::default() };
    let mut ledger = Ledger::new(Arc::new(quotas), 0);
    for index in 0..1_000 {
        let grant = ledger.reserve(&account(index), client(0), 0).unwrap();
        let report = Report { active: WHOLE, need: 1_000, want: 1_000, ..Report::default() };
        let scope = Scope::User(grant.user);
        let ask = Ask { scope, direction: Direction::ToPeer, report, answer: Answer::default() };
        let mut exchange = Exchange { asks: vec![ask], counts: Vec::new() };
        ledger.exchange(0, &mut exchange, 0);
        assert_eq!(exchange.asks[0].answer.granted, 1_000);
        let count = Count {
            user: grant.user,
            relayed: [1_000, 0],
            dropped: [Dropped::default(); LIMITS.len()],
            spread: 1,
            spent: None,
            crossed: false,
        };
        let last = Some(Last { account: Arc::from(&b""[..]), count, unspent: [0; 2] });
        let mut release = Release { last, ..Release::of(grant) };
        ledger.release(0, &mut release, 0);
        assert!(ledger.resting.len() <= 64);
    }
    // All have everything back, and nobody is kept in mind.
    let later_ns = 10 * NANOS_PER_SECOND;
    for _ in 0..8 {
        let before = ledger.resting.len();
        let grant = ledger.reserve(&account(0), client(0), later_ns).unwrap();
        assert!(before - ledger.resting.len() <= 8, "all at once, behind a lock");
        release(&mut ledger, grant);
    }
    assert_eq!(ledger.resting.len(), 0);
}

#[test]
fn who_comes_and_goes_drives_nobody_out_of_mind() {
    let limit = Bandwidth { bytes_per_second: 1_000, burst_bytes: 65_507 };
    let limits = UserLimits { bandwidth: Some(limit), ..UserLimits::default() };
    let quotas = Quotas { default: limits, ..Quotas::default() };
    let mut ledger = Ledger::new(Arc::new(quotas), 0);
    let mut spend = |account: Arc<[u8]>, bytes, now_ns| {
        let grant = ledger.reserve(&account, client(0), now_ns).unwrap();
        let report = Report { active: WHOLE, need: bytes, want: bytes, ..Report::default() };
        let scope = Scope::User(grant.user);
        let ask = Ask { scope, direction: Direction::ToPeer, report, answer: Answer::default() };
        let mut exchange = Exchange { asks: vec![ask], counts: Vec::new() };
        ledger.exchange(0, &mut exchange, now_ns);
        let granted = exchange.asks[0].answer.granted;
        let dropped = [Dropped::default(); LIMITS.len()];
        let (relayed, spent) = ([granted, 0], None);
        let count = Count { user: grant.user, relayed, dropped, spread: 1, spent, crossed: false };
        let last = Some(Last { account, count, unspent: [0; 2] });
        let mut release = Release { last, ..Release::of(grant) };
        ledger.release(0, &mut release, now_ns);
        granted
    };
    assert_eq!(spend(account(0), 65_507, 0), 65_507);
    for now_ns in 1..1_000 {
        spend(account(1), 1, now_ns);
    }
    assert_eq!(spend(account(0), 65_507, 1_000), 0, "the burst was had anew");
}
