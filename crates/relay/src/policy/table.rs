//! [`RangeTable`]: CIDR ranges compiled for lookup by longest prefix.

use super::{IpAddr, IpNet};

/// Ranges of one address family, each permitting or refusing. Whatever their number, a lookup is
/// one binary search over whole addresses as numbers.
#[derive(Clone, Debug)]
pub(super) struct RangeTable {
    /// (first address, what holds from there to the next entry), sorted. Starts at address 0
    /// unless there are no ranges at all.
    segments: Vec<(u128, Option<bool>)>,
}

impl RangeTable {
    /// The longest prefix wins; a refusal wins over a permission for the same range.
    pub(super) fn new(ranges: impl Iterator<Item = (IpNet, bool)>) -> Self {
        let mut ranges: Vec<(IpNet, bool)> = ranges.collect();
        // Outer ranges before inner ones; among equal ones the refusal last, thus innermost.
        ranges.sort_by_key(|(net, permit)| (number(net.network()), net.prefix_len(), !permit));
        let mut segments = Segments(Vec::new());
        if !ranges.is_empty() {
            segments.start(0, None);
        }
        // CIDR ranges are nested or apart: those around the present address form a stack.
        let mut around: Vec<(u128, bool)> = Vec::new();
        for (net, permit) in ranges {
            let (first, last) = (number(net.network()), number(net.broadcast()));
            while around.last().is_some_and(|&(end, _)| end < first) {
                segments.leave(&mut around);
            }
            around.push((last, permit));
            segments.start(first, Some(permit));
        }
        while !around.is_empty() {
            segments.leave(&mut around);
        }
        Self { segments: segments.0 }
    }

    /// What the narrowest range around `ip` says; `None` if there is none. `ip` is of the
    /// table's family.
    pub(super) fn lookup(&self, ip: IpAddr) -> Option<bool> {
        let ip = number(ip);
        let after = self.segments.partition_point(|&(first, _)| first <= ip);
        after.checked_sub(1).and_then(|at| self.segments[at].1)
    }
}

struct Segments(Vec<(u128, Option<bool>)>);

impl Segments {
    /// From `first` on, `permit` holds. A later call for the same address replaces an earlier one.
    fn start(&mut self, first: u128, permit: Option<bool>) {
        match self.0.last_mut() {
            Some(segment) if segment.0 == first => segment.1 = permit,
            Some(_) | None => self.0.push((first, permit)),
        }
    }

    /// Ends the innermost range: behind it, the one around it holds.
    fn leave(&mut self, around: &mut Vec<(u128, bool)>) {
        let Some((last, _)) = around.pop() else {
            return;
        };
        if let Some(next) = last.checked_add(1) {
            self.start(next, around.last().map(|&(_, permit)| permit));
        }
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ranges close together, so that they nest and touch.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0_u32..16, 28_u8..=32).prop_map(|(low, length)| {
            IpNet::new(IpAddr::V4((0xffff_fff0 | low).into()), length).unwrap()
        });
        prop_oneof![20 => v4, 1 => Just("0.0.0.0/0".parse().unwrap())]
    }

    /// The reference: look at every range.
    fn naive(ranges: &[(IpNet, bool)], ip: IpAddr) -> Option<bool> {
        let around = ranges.iter().filter(|(net, _)| net.contains(&ip));
        let narrowest = around.clone().map(|(net, _)| net.prefix_len()).max()?;
        let mut tied = around.filter(|(net, _)| net.prefix_len() == narrowest);
        Some(tied.all(|&(_, permit)| permit))
    }

    proptest! {
        #[test]
        fn finds_what_a_search_of_all_ranges_finds(
            ranges in prop::collection::vec((net(), any::<bool>()), 0..12),
        ) {
            let table = RangeTable::new(ranges.iter().copied());
            for low in (0..40_u32).map(|low| 0xffff_ffd8 + low).chain([0, 1]) {
                let ip = IpAddr::V4(low.into());
                prop_assert_eq!(table.lookup(ip), naive(&ranges, ip), "{}", ip);
            }
        }
    }

    #[test]
    fn the_whole_of_ipv6_is_a_range() {
        let all: IpNet = "::/0".parse().unwrap();
        let last: IpNet = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
        let table = RangeTable::new([(last, false), (all, true)].into_iter());
        assert_eq!(table.lookup("::".parse().unwrap()), Some(true));
        assert_eq!(table.lookup("ffff::".parse().unwrap()), Some(true));
        assert_eq!(table.lookup(last.addr()), Some(false));
    }
}
