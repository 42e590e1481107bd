//! Answers as people read them: aligned tables, figures with units.

use crate::admin::answers::{self, Session, Status, Traffic, User};
use crate::admin::bytes_of;
use crate::log::Name;
use crate::table::{Table, bit_rate, bytes};

/// A user name, made harmless as in the log.
pub(super) fn name(name: &[u8]) -> String {
    Name(name).to_string()
}

pub(super) fn status(status: &Status, top: &[User]) -> String {
    let listener = |it: &answers::Listener| format!("{} {}", it.transport, it.address);
    let listeners: Vec<String> = status.listeners.iter().map(listener).collect();
    let draining = if status.draining { ", draining: no new allocations" } else { "" };
    let answers::Allocations { udp, tcp, tls, dtls, limit } = status.allocations;
    let all = udp + tcp + tls + dtls;
    let by_transport = format!("{udp} udp, {tcp} tcp, {tls} tls, {dtls} dtls");
    let Traffic { to_peer_datagrams, to_peer_bytes, to_client_datagrams, to_client_bytes } =
        status.relayed;
    let relayed = |rate: u64, amount: u64, datagrams: u64| {
        format!("{}; {} in {datagrams} datagrams so far", bit_rate(rate), bytes(amount))
    };
    let to_peer = status.rate.to_peer_bytes_per_second;
    let to_client = status.rate.to_client_bytes_per_second;
    let mut table = Table::default();
    for (what, is) in [
        ("turnway", format!("{}, up {}{draining}", status.version, age(status.uptime_seconds))),
        ("realm", status.realm.clone()),
        ("listening", listeners.join(", ")),
        ("shards", status.shards.to_string()),
        ("allocations", format!("{all} ({by_transport}), at most {limit}")),
        ("users", status.users.to_string()),
        ("to peers", relayed(to_peer, to_peer_bytes, to_peer_datagrams)),
        ("to clients", relayed(to_client, to_client_bytes, to_client_datagrams)),
    ] {
        table.row([what.to_owned(), is]);
    }
    let mut text = table.to_string();
    text += &dropped(&status.dropped);
    text += &refused(status);
    if !top.is_empty() {
        text += "\n";
        text += &users(top);
    }
    text
}

/// What was dropped, where it is not 0.
fn dropped(drops: &answers::Drops) -> String {
    let mut table = Table::headed(["DATAGRAMS DROPPED", "FROM CLIENTS", "FROM PEERS"]);
    let mut any = false;
    for (reason, from_clients) in &drops.from_clients {
        let from_peers = drops.from_peers.get(reason).copied().unwrap_or(0);
        if *from_clients > 0 || from_peers > 0 {
            table.row([reason.clone(), from_clients.to_string(), from_peers.to_string()]);
            any = true;
        }
    }
    if any { format!("\n{table}") } else { String::new() }
}

/// Which quotas refused allocations.
fn refused(status: &Status) -> String {
    let mut table = Table::headed(["ALLOCATIONS REFUSED", "TIMES"]);
    let mut any = false;
    for (quota, times) in status.refused.iter().filter(|(_, times)| **times > 0) {
        table.row([quota.clone(), times.to_string()]);
        any = true;
    }
    if any { format!("\n{table}") } else { String::new() }
}

fn users(users: &[User]) -> String {
    let mut table = Table::headed([
        "TOP USERS",
        "ALLOCATIONS",
        "TO PEERS",
        "TO CLIENTS",
        "EACH AT MOST",
        "TODAY",
        "THIS MONTH",
        "DROPPED",
    ]);
    for user in users {
        let limits = &user.limits;
        let most = limits.bandwidth.map(|limit| bit_rate(limit.bytes_per_second));
        let (day, month) = (user.volume.map(|it| it.day), user.volume.map(|it| it.month));
        let dropped: u64 = user.dropped_by_limit.values().map(|dropped| dropped.datagrams).sum();
        table.row([
            name(&bytes_of(&user.name, user.name_encoding)),
            of(user.allocations.to_string(), limits.allocations.map(|most| most.to_string())),
            bit_rate(user.rate.to_peer_bytes_per_second),
            bit_rate(user.rate.to_client_bytes_per_second),
            most.unwrap_or_else(|| "-".to_owned()),
            volume(day, limits.volume_per_day_bytes),
            volume(month, limits.volume_per_month_bytes),
            dropped.to_string(),
        ]);
    }
    table.to_string()
}

fn volume(used: Option<answers::Bytes>, limit: Option<u64>) -> String {
    let total = |used: answers::Bytes| used.to_peer_bytes.saturating_add(used.to_client_bytes);
    of(used.map_or_else(|| "-".to_owned(), |used| bytes(total(used))), limit.map(bytes))
}

fn of(used: String, limit: Option<String>) -> String {
    match limit {
        Some(limit) => format!("{used} of {limit}"),
        None => used,
    }
}

pub(super) fn sessions(sessions: &[Session], more: bool) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let mut table = Table::headed([
        "ID",
        "USER",
        "CLIENT",
        "RELAYED ADDRESS",
        "AGE",
        "ENDS IN",
        "PERMISSIONS",
        "CHANNELS",
        "TO PEERS",
        "TO CLIENTS",
        "DROPPED",
    ]);
    for session in sessions {
        table.row([
            session.id.clone(),
            name(&bytes_of(&session.user, session.user_encoding)),
            format!("{} {}", session.transport, session.client),
            session.relayed_addresses.join(" "),
            age(session.age_seconds),
            age(session.expires_in_seconds),
            session.permissions.to_string(),
            session.channels.to_string(),
            bytes(session.relayed.to_peer_bytes),
            bytes(session.relayed.to_client_bytes),
            session.dropped_by_limits.to_string(),
        ]);
    }
    let more = if more { "\nThere are more; show them with --limit.\n" } else { "" };
    format!("{table}{more}")
}

/// `3d 4h`, `4h 5m`, `5m 6s` or `6s`
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        86_400.. => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_steers_no_terminal() {
        let session = Session {
            id: "281474976710657".to_owned(),
            user: "%1B\u{1b}[2J\nx\u{202e}".to_owned(),
            user_encoding: answers::Encoding::Utf8,
            username: String::new(),
            username_encoding: answers::Encoding::Utf8,
            transport: "udp".to_owned(),
            client: "192.0.2.1:5000".to_owned(),
            server: "192.0.2.2:3478".to_owned(),
            relayed_addresses: vec!["192.0.2.2:50000".to_owned()],
            age_seconds: 61,
            expires_in_seconds: 539,
            permissions: 1,
            channels: 0,
            relayed_transport: "udp".into(),
            connections: 0,
            relayed: turnway_relay::Traffic::default().into(),
            dropped_by_limits: 0,
        };
        let percent = Session {
            user: "%FF%1B".to_owned(),
            user_encoding: answers::Encoding::Percent,
            ..session.clone()
        };
        let text = sessions(&[session, percent], false);
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(text.contains(" %251B%1B[2J%0Ax%E2%80%AE "), "{text:?}");
        assert!(text.contains(" %FF%1B "), "{text:?}");
        assert!(text.contains("udp 192.0.2.1:5000  192.0.2.2:50000  1m 1s  8m 59s"), "{text:?}");
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!([5, 65, 3_700, 90_000].map(age), ["5s", "1m 5s", "1h 1m", "1d 1h"]);
    }
}
