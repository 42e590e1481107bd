//! Clients that go on from another address (RFC 8016).

use super::{Family, Kind, single};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "turnway_mobility_resumed",
        kind: Kind::Counter,
        labels: &[],
        help: "Refreshes with a ticket that were accepted.",
        samples: |now| single(now.rules.resumes),
    },
    Family {
        name: "turnway_mobility_resuming",
        kind: Kind::Gauge,
        labels: &[],
        help: "Addresses from which a client may go on, and has not yet.",
        samples: |now| single(now.rules.resuming),
    },
    Family {
        name: "turnway_mobility_moves",
        kind: Kind::Counter,
        labels: &[],
        help: "Allocations that went along with their client to another address.",
        samples: |now| single(now.rules.moves),
    },
    Family {
        name: "turnway_mobility_moves_between_shards",
        kind: Kind::Counter,
        labels: &[],
        help: "Those of them that went to another thread.",
        samples: |now| single(now.rules.moves_between_shards),
    },
    Family {
        name: "turnway_mobility_dropped_messages",
        kind: Kind::Counter,
        labels: &[],
        help: "Messages of clients dropped because their allocation was on its way between threads \
               or did not come, or because too many asked for theirs.",
        samples: |now| single(now.io.moving_drops),
    },
];
