//! Connections to and from peers of TCP allocations (RFC 6062).

use turnway_relay::ConnectionEnd;

use super::{Family, Kind, labelled, single};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "turnway_peer_connections",
        kind: Kind::Gauge,
        labels: &[],
        help: "Connections to and from peers of TCP allocations now, those that are being made \
               among them.",
        samples: |now| single(now.rules.connections),
    },
    Family {
        name: "turnway_peer_connections_made",
        kind: Kind::Counter,
        labels: &["by"],
        help: "Connections made to peers for clients, and accepted from peers.",
        samples: |now| {
            let rules = &now.rules;
            labelled([("client", rules.connections_made), ("peer", rules.connections_accepted)])
        },
    },
    Family {
        name: "turnway_peer_connections_ended",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Connections to and from peers that ended, or were never made.",
        samples: |now| {
            let ended = now.rules.connections_ended;
            let ends = ConnectionEnd::ALL.iter();
            labelled(ends.map(|reason| (reason.label(), ended[reason.index()])))
        },
    },
    Family {
        name: "turnway_peer_connection_bytes",
        kind: Kind::Counter,
        labels: &["direction"],
        help: "Bytes relayed over such connections; they are in turnway_relayed_bytes_total, too.",
        samples: |now| {
            let streams = now.rules.streams;
            let figures = [streams.to_peer_bytes, streams.to_client_bytes];
            labelled(["to_peer", "to_client"].into_iter().zip(figures))
        },
    },
];
