//! What TLS and DTLS say of themselves, and the PROXY protocol.

use super::{Family, Kind, labelled, single};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "turnway_tls_handshakes",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Handshakes of TLS clients.",
        samples: |now| {
            labelled([
                ("completed", now.io.tls_handshakes),
                ("failed", now.io.tls_handshake_failures),
            ])
        },
    },
    Family {
        name: "turnway_dtls_sessions",
        kind: Kind::Gauge,
        labels: &[],
        help: "DTLS sessions of clients now, those in a handshake included.",
        samples: |now| single(now.io.dtls_sessions),
    },
    Family {
        name: "turnway_dtls_handshakes",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Handshakes of DTLS clients that had returned a cookie.",
        samples: |now| {
            labelled([
                ("completed", now.io.dtls_handshakes),
                ("failed", now.io.dtls_handshake_failures),
            ])
        },
    },
    Family {
        name: "turnway_dtls_strangers",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Datagrams of sources without a DTLS session: answered with a cookie, or ignored. \
               Nothing is kept of either.",
        samples: |now| {
            labelled([("answered", now.io.dtls_hellos), ("ignored", now.io.dtls_ignored)])
        },
    },
    Family {
        name: "turnway_dtls_closed",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "DTLS sessions refused or ended by us: too many at a time, or without an allocation \
               for too long.",
        samples: |now| {
            labelled([("too_many", now.io.dtls_refused), ("idle", now.io.dtls_idle_closed)])
        },
    },
    Family {
        name: "turnway_source_refusals",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections and DTLS sessions refused because their source had too many.",
        samples: |now| single(now.io.source_refused),
    },
    Family {
        name: "turnway_handshake_timeouts",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections and DTLS sessions ended because their handshake took too long.",
        samples: |now| single(now.io.handshake_timeouts),
    },
    Family {
        name: "turnway_proxy_errors",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections of proxies closed because they did not begin with a PROXY header.",
        samples: |now| single(now.io.proxy_errors),
    },
];
