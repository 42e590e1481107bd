//! What users may use, and limits that contradict each other.

use std::ops::Range;

use toml::Spanned;
use turnway_relay::quota::{Bandwidth, DATAGRAM_BYTES, MIN_BURST_BYTES, PrefixLimit, UserLimits};

use super::Checks;
use crate::config::Quota;
use crate::config::raw::{RawLimits, RawQuota, RawQuotaRealm, Volumes};
use crate::config::units::{BitRate, Count, Limit, Period, Size, Volume};

/// A key that may be absent.
type Given<T> = Option<Spanned<T>>;

/// A bandwidth in force and where it is written.
pub(super) struct Level {
    pub(super) bandwidth: Bandwidth,
    rate: Spanned<BitRate>,
    /// `None`: the burst is the default one.
    burst: Option<Spanned<Size>>,
}

impl Checks<'_> {
    /// The limits of our realm. `total` is what all relaying together is limited to.
    pub(super) fn quota(
        &mut self,
        mut raw: RawQuota,
        realm: &str,
        total: Option<&Level>,
        database: bool,
    ) -> Quota {
        for counts in [&raw.allocations_per_user, &raw.allocations_per_realm] {
            self.not_zero(counts);
        }
        self.realm_overrides(&mut raw, realm);
        let per_allocation = self.level(
            &raw.bandwidth_per_allocation,
            &raw.burst_per_allocation,
            "bandwidth_per_allocation",
        );
        let per_user =
            self.level(&raw.bandwidth_per_user, &raw.burst_per_user, "bandwidth_per_user");
        let per_realm =
            self.level(&raw.bandwidth_per_realm, &raw.burst_per_realm, "bandwidth_per_realm");
        self.ascending(&[per_allocation.as_ref(), per_user.as_ref(), per_realm.as_ref(), total]);
        self.user_within_realm(&raw);
        self.not_zero(&raw.allocations_per_prefix);
        let prefix = PrefixLimit {
            allocations: count(&raw.allocations_per_prefix),
            v4_bits: self.bits(&raw.ipv4_prefix, 32),
            v6_bits: self.bits(&raw.ipv6_prefix, 128),
        };
        let [day, month] = self.volumes(&raw.volume_per_user, database);
        let bandwidth = |level: Option<Level>| level.map(|level| level.bandwidth);
        Quota {
            user: UserLimits {
                allocations: count(&raw.allocations_per_user),
                bandwidth: bandwidth(per_user),
                bandwidth_per_allocation: bandwidth(per_allocation),
                volume_per_day: day.map(|volume| volume.bytes),
                volume_per_month: month.map(|volume| volume.bytes),
            },
            realm_allocations: count(&raw.allocations_per_realm),
            realm_bandwidth: bandwidth(per_realm),
            prefix,
            time_zone: raw.time_zone.into_inner().0,
        }
    }

    /// What all relaying together is limited to.
    pub(super) fn total_bandwidth(&mut self, raw: &RawLimits) -> Option<Level> {
        self.level(&raw.bandwidth, &raw.bandwidth_burst, "bandwidth")
    }

    /// Puts what our realm has of its own in the place of what holds for all.
    fn realm_overrides(&mut self, raw: &mut RawQuota, realm: &str) {
        let mut found = false;
        for table in std::mem::take(&mut raw.realm) {
            let Some(name) = &table.get_ref().name else {
                self.error(table.span(), format!("`name` is missing; write name = \"{realm}\""));
                continue;
            };
            if name.get_ref() != realm {
                continue;
            }
            if found {
                let span = name.span();
                self.error(span, format!("the realm \"{realm}\" is there already; remove one"));
                continue;
            }
            found = true;
            let own = table.into_inner();
            for counts in [&own.allocations_per_user, &own.allocations_per_realm] {
                self.not_zero(counts);
            }
            override_with(raw, own);
        }
    }

    fn not_zero(&mut self, allocations: &Given<Limit<Count>>) {
        if let Some(allocations) = allocations
            && *allocations.get_ref() == Limit::To(Count(0))
        {
            self.error(
                allocations.span(),
                "0 allocations would shut everybody out; to shut users out remove them, and \
                 write \"unlimited\" for no limit",
            );
        }
    }

    fn user_within_realm(&mut self, raw: &RawQuota) {
        if let (Some(user), Some(realm)) = (&raw.allocations_per_user, &raw.allocations_per_realm)
            && let (Limit::To(of_user), Limit::To(of_realm)) = (user.get_ref(), realm.get_ref())
            && of_user > of_realm
        {
            self.above(user.span(), of_user, &realm.span(), of_realm.to_string());
        }
    }

    fn bits(&mut self, prefix: &Spanned<Count>, most: u8) -> u8 {
        self.between(prefix, Count(1), Count(most.into()));
        u8::try_from(prefix.get_ref().0).unwrap_or(most)
    }

    /// A bandwidth with its burst; `key` is the name of the bandwidth.
    fn level(
        &mut self,
        rate: &Given<Limit<BitRate>>,
        burst: &Given<Size>,
        key: &str,
    ) -> Option<Level> {
        let limited = rate.as_ref().and_then(|rate| {
            let value = rate.get_ref().value()?;
            Some(Spanned::new(rate.span(), value))
        });
        let Some(rate) = limited else {
            if let Some(burst) = burst {
                self.error(
                    burst.span(),
                    format!(
                        "is a burst of nothing, for {key} is not limited; write for example {key} \
                         = \"10 Mbit/s\", or remove the burst"
                    ),
                );
            }
            return None;
        };
        let bytes_per_second = rate.get_ref().bytes_per_second;
        let mut bandwidth = Bandwidth::with_default_burst(bytes_per_second);
        if let Some(burst) = burst {
            self.burst(burst, &rate);
            bandwidth.burst_bytes = burst.get_ref().0;
        }
        Some(Level { bandwidth, rate, burst: burst.clone() })
    }

    fn burst(&mut self, burst: &Spanned<Size>, rate: &Spanned<BitRate>) {
        let (size, rate) = (*burst.get_ref(), rate.get_ref());
        if size.0 < MIN_BURST_BYTES {
            self.error(
                burst.span(),
                format!(
                    "{size} is less than one datagram of usual size, so hardly any would pass; \
                     the least is \"{}\"",
                    Size(MIN_BURST_BYTES)
                ),
            );
            return;
        }
        if size.0 < DATAGRAM_BYTES {
            self.warn(
                burst.span(),
                format!(
                    "datagrams of more than {size} never pass; \"{}\" lets the longest pass",
                    Size(DATAGRAM_BYTES)
                ),
            );
        }
        let in_ten_ms = rate.bytes_per_second / 100;
        if size.0 < in_ten_ms {
            self.warn(
                burst.span(),
                format!(
                    "{size} is less than {rate} brings in 10 ms, so that rate will not be reached; \
                     write at least \"{}\"",
                    Size(in_ten_ms)
                ),
            );
        }
    }

    /// Errors where a limit is above one that includes it. `levels` go from the narrow to the
    /// wide; of each the nearest that contradicts it is named.
    fn ascending(&mut self, levels: &[Option<&Level>]) {
        let mut wider = levels.iter().copied();
        while let Some(level) = wider.next() {
            let Some(level) = level else { continue };
            let above =
                wider.clone().flatten().find(|other| level.rate.get_ref() > other.rate.get_ref());
            if let Some(other) = above {
                let span = other.rate.span();
                let shown = format!("\"{}\"", other.rate.get_ref());
                self.above(level.rate.span(), level.rate.get_ref(), &span, shown);
                continue;
            }
            let Some(burst) = &level.burst else { continue };
            let above = wider
                .clone()
                .flatten()
                .find(|other| burst.get_ref().0 > other.bandwidth.burst_bytes);
            if let Some(other) = above {
                let (span, shown) = match &other.burst {
                    Some(burst) => (burst.span(), format!("\"{}\"", burst.get_ref())),
                    None => {
                        let size = Size(other.bandwidth.burst_bytes);
                        let shown =
                            format!("\"{}\", which has a burst of {size}", other.rate.get_ref());
                        (other.rate.span(), shown)
                    }
                };
                self.above(burst.span(), burst.get_ref(), &span, shown);
            }
        }
    }

    /// The error for a limit that another one, of more, always reaches first.
    fn above(
        &mut self,
        span: Range<usize>,
        value: impl std::fmt::Display,
        other: &Range<usize>,
        shown: String,
    ) {
        let key = self.source.key(other);
        self.error(
            span,
            format!(
                "{value} is above {key} = {shown}, and could never be reached; lower it or raise \
                 the other"
            ),
        );
    }

    /// The volumes of a day and of a month.
    fn volumes(&mut self, raw: &Given<Limit<Volumes>>, database: bool) -> [Option<Volume>; 2] {
        let Some(raw) = raw else { return [None; 2] };
        let Limit::To(Volumes(volumes)) = raw.get_ref() else { return [None; 2] };
        if volumes.is_empty() {
            self.error(
                raw.span(),
                "is empty; write a volume such as \"50 GB/month\", or remove it",
            );
        }
        let (mut day, mut month) = (None, None);
        for volume in volumes {
            let slot = match volume.period {
                Period::Day => &mut day,
                Period::Month => &mut month,
            };
            if let Some(earlier) = slot.replace(*volume) {
                self.error(
                    raw.span(),
                    format!("\"{earlier}\" and \"{volume}\" are for the same period; remove one"),
                );
            }
        }
        if let (Some(day), Some(month)) = (day, month)
            && day.bytes > month.bytes
        {
            self.error(
                raw.span(),
                format!("\"{day}\" is above \"{month}\", and could never be reached; lower it"),
            );
        }
        if !database {
            self.error(
                raw.span(),
                "a volume is kept in the database, and there is none; add database = \
                 \"sqlite:turnway.db\" to [auth]",
            );
        }
        [day, month]
    }
}

fn count(allocations: &Given<Limit<Count>>) -> Option<u32> {
    allocations.as_ref()?.get_ref().value().map(|count| count.0)
}

fn override_with(raw: &mut RawQuota, own: RawQuotaRealm) {
    let RawQuotaRealm {
        name: _,
        allocations_per_user,
        allocations_per_realm,
        bandwidth_per_allocation,
        bandwidth_per_user,
        bandwidth_per_realm,
        burst_per_allocation,
        burst_per_user,
        burst_per_realm,
        volume_per_user,
    } = own;
    put(&mut raw.allocations_per_user, allocations_per_user);
    put(&mut raw.allocations_per_realm, allocations_per_realm);
    put(&mut raw.volume_per_user, volume_per_user);
    for (rate, burst, own_rate, own_burst) in [
        (
            &mut raw.bandwidth_per_allocation,
            &mut raw.burst_per_allocation,
            bandwidth_per_allocation,
            burst_per_allocation,
        ),
        (&mut raw.bandwidth_per_user, &mut raw.burst_per_user, bandwidth_per_user, burst_per_user),
        (
            &mut raw.bandwidth_per_realm,
            &mut raw.burst_per_realm,
            bandwidth_per_realm,
            burst_per_realm,
        ),
    ] {
        // Who lifts a bandwidth has lifted its burst.
        let lifted = matches!(own_rate.as_ref().map(Spanned::get_ref), Some(Limit::Unlimited));
        if lifted {
            *burst = None;
        }
        put(rate, own_rate);
        put(burst, own_burst);
    }
}

fn put<T>(key: &mut Given<T>, own: Given<T>) {
    if own.is_some() {
        *key = own;
    }
}
