//! What users may use: units, overrides of the realm, and contradictions.

use super::*;

/// A file with a database, and with `text` as its `[quota]`.
fn quota(text: &str) -> Result<(Config, Warnings), String> {
    parse(&format!("{LISTEN}{AUTH}database = \"sqlite:t.db\"\n[quota]\n{text}"))
}

/// The line of the first key of `[quota]` in such a file.
const LINE: usize = 8;

fn in_force(text: &str) -> Quota {
    quota(text).unwrap().0.quota
}

/// Asserts that such a file is refused with one line, which has all the parts and begins with the
/// place: line `LINE + line`, key `key`.
#[track_caller]
fn no(text: &str, (line, key): (usize, &str), parts: &[&str]) {
    let error = quota(text).expect_err(text);
    assert_eq!(error.lines().count(), 1, "{error}");
    let place = format!("t.toml:{}: quota.{key}: ", LINE + line);
    assert!(error.starts_with(&place), "{place:?} does not begin: {error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[track_caller]
fn doubtful(text: &str, parts: &[&str]) {
    let warnings = quota(text).unwrap().1;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in parts {
        assert!(warnings[0].contains(part), "{part:?} is not in: {}", warnings[0]);
    }
}

#[test]
fn a_burst_is_half_a_second_or_one_datagram() {
    let quota =
        in_force("bandwidth_per_user = \"10 Mbit/s\"\nbandwidth_per_allocation = \"9 kB/s\"");
    assert_eq!(quota.user.bandwidth, Some(rate(1_250_000, 625_000)));
    assert_eq!(quota.user.bandwidth_per_allocation, Some(rate(9_000, 65_507)));
    assert_eq!(quota.realm_bandwidth, None);
}

#[test]
fn bare_numbers_are_refused() {
    let missing = "10 has no unit; write for example \"10 Mbit/s\"";
    for key in ["bandwidth_per_allocation", "bandwidth_per_user", "bandwidth_per_realm"] {
        no(&format!("{key} = 10"), (0, key), &[missing]);
    }
    no("bandwidth_per_user = \"10\"", (0, "bandwidth_per_user"), &[missing]);
    no("bandwidth_per_user = \"10 Mb/s\"", (0, "bandwidth_per_user"), &["bits or bytes"]);
    no("bandwidth_per_user = true", (0, "bandwidth_per_user"), &["such as \"10 Mbit/s\""]);
    let missing = "50 has no unit; write for example \"50 GB/month\"";
    no("volume_per_user = 50", (0, "volume_per_user"), &[missing]);
    no("volume_per_user = [50]", (0, "volume_per_user"), &[missing]);
    no("burst_per_user = 1500", (0, "burst_per_user"), &["1500 has no unit"]);
    refused(
        "[limits]\nbandwidth = 1000",
        &["t.toml:2: limits.bandwidth: 1000 has no unit", "\"1000 Mbit/s\""],
    );
}

#[test]
fn unlimited_is_no_limit() {
    let keys = ["allocations_per_user", "allocations_per_realm", "allocations_per_prefix"];
    let keys = keys.into_iter().chain([
        "bandwidth_per_allocation",
        "bandwidth_per_user",
        "bandwidth_per_realm",
        "volume_per_user",
    ]);
    let text: String = keys.map(|key| format!("{key} = \"unlimited\"\n")).collect();
    assert_eq!(in_force(&text), Quota::default());
    assert_eq!(good("[limits]\nbandwidth = \"unlimited\"").limits.bandwidth, None);
    no("allocations_per_user = \"many\"", (0, "allocations_per_user"), &["many is not a whole"]);
}

#[test]
fn nobody_is_shut_out_by_a_zero() {
    for key in ["allocations_per_user", "allocations_per_realm", "allocations_per_prefix"] {
        no(&format!("{key} = 0"), (0, key), &["to shut users out remove them"]);
    }
    let own = "allocations_per_user = 1\n[[quota.realm]]\nname = \"turnway\"\n\
               allocations_per_user = 0";
    no(own, (3, "realm.allocations_per_user"), &["to shut users out remove them"]);
}

#[test]
fn prefixes_have_as_many_bits_as_addresses() {
    no("ipv4_prefix = 0", (0, "ipv4_prefix"), &["the least is 1"]);
    no("ipv4_prefix = 33", (0, "ipv4_prefix"), &["the most is 32"]);
    no("ipv6_prefix = 129", (0, "ipv6_prefix"), &["the most is 128"]);
    let prefix = in_force("ipv4_prefix = 1\nipv6_prefix = 128").prefix;
    assert_eq!((prefix.v4_bits, prefix.v6_bits), (1, 128));
}

#[test]
fn a_bandwidth_above_one_that_includes_it_is_refused() {
    no(
        "bandwidth_per_allocation = \"20 Mbit/s\"\nbandwidth_per_user = \"10 Mbit/s\"",
        (0, "bandwidth_per_allocation"),
        &["20 Mbit/s is above quota.bandwidth_per_user = \"10 Mbit/s\"", "lower it or raise"],
    );
    no(
        "bandwidth_per_user = \"20 Mbit/s\"\nbandwidth_per_realm = \"10 Mbit/s\"",
        (0, "bandwidth_per_user"),
        &["20 Mbit/s is above quota.bandwidth_per_realm = \"10 Mbit/s\""],
    );
    no(
        "bandwidth_per_allocation = \"20 Mbit/s\"\nbandwidth_per_realm = \"10 Mbit/s\"",
        (0, "bandwidth_per_allocation"),
        &["20 Mbit/s is above quota.bandwidth_per_realm = \"10 Mbit/s\""],
    );
    for key in ["bandwidth_per_allocation", "bandwidth_per_user", "bandwidth_per_realm"] {
        no(
            &format!("{key} = \"2 Gbit/s\"\n[limits]\nbandwidth = \"1 Gbit/s\""),
            (0, key),
            &["2 Gbit/s is above limits.bandwidth = \"1 Gbit/s\""],
        );
    }
    let text = "bandwidth_per_allocation = \"3 MB/s\"\nbandwidth_per_user = \"2 MB/s\"\n\
                bandwidth_per_realm = \"1 MB/s\"";
    assert_eq!(quota(text).unwrap_err().lines().count(), 2, "each is named once");
    let equal = text.replace(['1', '2'], "3");
    assert_eq!(quota(&equal).unwrap().1, Vec::<String>::new());
}

#[test]
fn allocations_of_a_user_fit_into_the_realm() {
    no(
        "allocations_per_user = 20\nallocations_per_realm = 10",
        (0, "allocations_per_user"),
        &["20 is above quota.allocations_per_realm = 10"],
    );
    let quota = in_force("allocations_per_user = 10\nallocations_per_realm = 10");
    assert_eq!((quota.user.allocations, quota.realm_allocations), (Some(10), Some(10)));
    in_force("allocations_per_user = \"unlimited\"\nallocations_per_realm = 10");
}

#[test]
fn a_burst_belongs_to_a_bandwidth() {
    for level in ["allocation", "user", "realm"] {
        let burst = format!("burst_per_{level}");
        let missing = format!("bandwidth_per_{level} = \"10 Mbit/s\"");
        no(&format!("{burst} = \"1 MB\""), (0, &burst), &["is a burst of nothing", &missing]);
    }
    no(
        "burst_per_user = \"1 MB\"\nbandwidth_per_user = \"unlimited\"",
        (0, "burst_per_user"),
        &["bandwidth_per_user is not limited"],
    );
    refused(
        "[limits]\nbandwidth_burst = \"1 MB\"",
        &["t.toml:2: limits.bandwidth_burst", "bandwidth is not limited"],
    );
}

#[test]
fn a_burst_lets_datagrams_pass() {
    let burst =
        |size: &str| format!("burst_per_user = \"{size}\"\nbandwidth_per_user = \"1 Mbit/s\"");
    no(&burst("1499 B"), (0, "burst_per_user"), &["less than one datagram", "\"1500 B\""]);
    doubtful(&burst("1500 B"), &["t.toml:8: quota.burst_per_user", "more than 1500 B never pass"]);
    doubtful(&burst("65506 B"), &["\"65507 B\" lets the longest pass"]);
    assert_eq!(quota(&burst("65507 B")).unwrap().1, Vec::<String>::new());
    let fast = "burst_per_realm = \"100 kB\"\nbandwidth_per_realm = \"1 Gbit/s\"";
    doubtful(fast, &["quota.burst_per_realm", "1 Gbit/s brings in 10 ms", "\"1250 kB\""]);
    let enough = fast.replace("100 kB", "1250 kB");
    assert_eq!(quota(&enough).unwrap().1, Vec::<String>::new());
    warned(
        "[limits]\nbandwidth = \"1 Mbit/s\"\nbandwidth_burst = \"2 kB\"",
        &["t.toml:3: limits.bandwidth_burst", "more than 2 kB never pass"],
    );
}

#[test]
fn a_burst_above_one_that_includes_it_is_refused() {
    let rates = "bandwidth_per_allocation = \"10 Mbit/s\"\nbandwidth_per_user = \"10 Mbit/s\"";
    no(
        &format!("{rates}\nburst_per_allocation = \"2 MB\"\nburst_per_user = \"1 MB\""),
        (2, "burst_per_allocation"),
        &["2 MB is above quota.burst_per_user = \"1 MB\""],
    );
    no(
        &format!("{rates}\nburst_per_allocation = \"2 MB\""),
        (2, "burst_per_allocation"),
        &["2 MB is above quota.bandwidth_per_user = \"10 Mbit/s\", which has a burst of 625 kB"],
    );
    // A burst that nobody wrote contradicts nobody.
    in_force(&format!("{rates}\nburst_per_user = \"100 kB\""));
}

#[test]
fn volumes_have_one_period_each() {
    let volume = |text: &str| {
        let user = in_force(&format!("volume_per_user = {text}")).user;
        (user.volume_per_day, user.volume_per_month)
    };
    assert_eq!(volume("\"50 GB/month\""), (None, Some(50_000_000_000)));
    assert_eq!(volume("[\"2 GB/day\"]"), (Some(2_000_000_000), None));
    assert_eq!(
        volume("[\"3 GB/month\", \"3 GB/day\"]"),
        (Some(3_000_000_000), Some(3_000_000_000))
    );
    let no = |text: &str, parts| {
        no(&format!("volume_per_user = {text}"), (0, "volume_per_user"), parts);
    };
    no("[\"1 GB/day\", \"2 GB/day\"]", &["\"1 GB/day\" and \"2 GB/day\"", "the same period"]);
    no("[\"3 GB/day\", \"2 GB/month\"]", &["\"3 GB/day\" is above \"2 GB/month\""]);
    no("\"50 GB\"", &["\"50 GB\" does not say for how long"]);
    no("\"2 GB/d\"", &["write \"2 GB/day\""]);
    no("[]", &["is empty"]);
    no("[\"unlimited\"]", &["\"unlimited\" is not a volume"]);
    no("true", &["such as \"50 GB/month\", or a list"]);
}

#[test]
fn a_volume_needs_a_database() {
    refused(
        "[quota]\nvolume_per_user = \"50 GB/month\"",
        &["t.toml:2: quota.volume_per_user", "add database = \"sqlite:turnway.db\" to [auth]"],
    );
    good("[quota]\nvolume_per_user = \"unlimited\"");
    // What is wrong with the database is said, and nothing about a volume without one.
    let text = format!("{LISTEN}{AUTH}database = \"turnway.db\"\n[quota]\n");
    let error = parse(&format!("{text}volume_per_user = \"1 GB/day\"")).unwrap_err();
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn time_zones_are_looked_up() {
    no("time_zone = \"Berlin\"", (0, "time_zone"), &["\"Berlin\" is not the name", "\"UTC\""]);
    let zone = in_force("time_zone = \"America/New_York\"").time_zone;
    assert_eq!(zone.iana_name(), Some("America/New_York"));
}

#[test]
fn a_realm_has_limits_of_its_own() {
    let all = "allocations_per_user = 10\nbandwidth_per_user = \"10 Mbit/s\"\n\
               burst_per_user = \"1 MB\"\nbandwidth_per_realm = \"20 Mbit/s\"\n\
               burst_per_realm = \"2 MB\"\nvolume_per_user = \"50 GB/month\"\n";
    let own = |text: &str| format!("{all}[[quota.realm]]\nname = \"turnway\"\n{text}");
    let without = in_force(all);
    assert_eq!(in_force(&own("")), without, "what is absent holds as it stands above");
    let quota = in_force(&own("allocations_per_user = 99\nbandwidth_per_user = \"15 Mbit/s\"\n\
         bandwidth_per_realm = \"unlimited\"\nvolume_per_user = \"1 GB/day\""));
    assert_eq!(quota.user.allocations, Some(99));
    assert_eq!(quota.user.bandwidth, Some(rate(1_875_000, 1_000_000)));
    assert_eq!(quota.realm_bandwidth, None, "the burst is lifted with its bandwidth");
    assert_eq!(quota.user.volume_per_day, Some(1_000_000_000));
    assert_eq!(quota.user.volume_per_month, None, "volumes are replaced as a whole");
    no(
        &own("bandwidth_per_user = \"30 Mbit/s\""),
        (8, "realm.bandwidth_per_user"),
        &["30 Mbit/s is above quota.bandwidth_per_realm = \"20 Mbit/s\""],
    );
    no(
        &own("bandwidth_per_realm = \"5 Mbit/s\""),
        (1, "bandwidth_per_user"),
        &["10 Mbit/s is above quota.realm.bandwidth_per_realm = \"5 Mbit/s\""],
    );
}

#[test]
fn a_realm_has_one_table() {
    let name = (1, "realm.name");
    no("[[quota.realm]]\nname = \"b\"", name, &["\"b\" is no realm", "\"turnway\""]);
    let twice = "[[quota.realm]]\nname = \"turnway\"\n".repeat(2);
    no(&twice, (3, "realm.name"), &["\"turnway\" is there already"]);
    no("[[quota.realm]]", (0, "realm"), &["`name` is missing; write name = \"turnway\""]);
    let prefix = "[[quota.realm]]\nname = \"turnway\"\nipv4_prefix = 8";
    no(prefix, (2, "realm.ipv4_prefix"), &["belongs into [quota]"]);
}

#[test]
fn what_is_in_the_wrong_table_is_told_the_right_one() {
    no("bandwidth = \"1 Gbit/s\"", (0, "bandwidth"), &["\"bandwidth\" belongs into [limits]"]);
    refused("[limits]\nallocations_per_user = 3", &["t.toml:2", "belongs into [quota]"]);
    no(
        "bandwith_per_user = 1",
        (0, "bandwith_per_user"),
        &["did you mean \"bandwidth_per_user\"?"],
    );
}

#[test]
fn what_holds_is_shown() {
    let (config, _) = quota(
        "bandwidth_per_user = \"1.25 MB/s\"\nvolume_per_user = \"50 GB/month\"\n\
         time_zone = \"Europe/Berlin\"\n[[quota.realm]]\nname = \"turnway\"\n\
         allocations_per_user = 7",
    )
    .unwrap();
    let text = config.effective();
    let table: toml::Table = text.parse().unwrap();
    let quota = &table["quota"];
    assert_eq!(quota["allocations_per_user"].as_integer(), Some(7));
    assert_eq!(quota["bandwidth_per_user"].as_str(), Some("10 Mbit/s"));
    assert_eq!(quota["burst_per_user"].as_str(), Some("625 kB"));
    assert_eq!(quota["volume_per_user"][0].as_str(), Some("50 GB/month"));
    assert_eq!(quota["time_zone"].as_str(), Some("Europe/Berlin"));
    assert!(text.contains("# bandwidth_per_realm: not limited"), "{text}");
}
