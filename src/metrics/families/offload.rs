//! What the kernel's data path says of itself.

use turnway_offload::{Figures, Interface, Outcome, Refusal};

use super::{Family, Kind, labelled, single};
use crate::metrics::reading::Reading;

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "turnway_offload_datagrams",
        kind: Kind::Counter,
        labels: &["direction"],
        help: "Datagrams relayed in the kernel; `turnway_relayed_datagrams` has them, too.",
        samples: |now| {
            let kernel = now.io.offloaded;
            labelled([("to_peer", kernel.to_peer), ("to_client", kernel.to_client)])
        },
    },
    Family {
        name: "turnway_offload_bytes",
        kind: Kind::Counter,
        labels: &["direction"],
        help: "Payload bytes relayed in the kernel.",
        samples: |now| {
            let kernel = now.io.offloaded;
            labelled([("to_peer", kernel.to_peer_bytes), ("to_client", kernel.to_client_bytes)])
        },
    },
    Family {
        name: "turnway_offload_outcomes",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "What else became of datagrams in the kernel: passed up to user space, answered, \
               dropped. `docs/offload.md` explains them.",
        samples: |now| {
            let counts = figures(now).map_or_else(Default::default, |figures| figures.outcomes);
            labelled(Outcome::ALL.into_iter().map(Outcome::label).zip(counts))
        },
    },
    Family {
        name: "turnway_offload_channels",
        kind: Kind::Gauge,
        labels: &[],
        help: "Channels in the kernel now.",
        samples: |now| single(figures(now).map_or(0, |figures| figures.channels.into())),
    },
    Family {
        name: "turnway_offload_channel_limit",
        kind: Kind::Gauge,
        labels: &[],
        help: "Channels there may be in the kernel at a time; 0: it relays nothing.",
        samples: |now| single(figures(now).map_or(0, |figures| figures.capacity.into())),
    },
    Family {
        name: "turnway_offload_channels_left_out",
        kind: Kind::Counter,
        labels: &[],
        help: "Channels that found no room in the kernel, and are relayed in user space.",
        samples: |now| single(figures(now).map_or(0, |figures| figures.full)),
    },
    Family {
        name: "turnway_offload_paths",
        kind: Kind::Gauge,
        labels: &[],
        help: "Directions of channels that the kernel relays now: up to two for each channel.",
        samples: |now| single(figures(now).map_or(0, |figures| figures.paths)),
    },
    Family {
        name: "turnway_offload_paths_refused",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Directions of channels that stay in user space, by reason.",
        samples: |now| {
            let counts = figures(now).map_or_else(Default::default, |figures| figures.refused);
            labelled(Refusal::ALL.into_iter().map(Refusal::label).zip(counts))
        },
    },
    Family {
        name: "turnway_offload_interfaces",
        kind: Kind::Gauge,
        labels: &["mode"],
        help: "Network interfaces considered, by how the kernel relays there.",
        samples: |now| {
            let interfaces = figures(now).map_or(&[][..], |figures| &figures.report.interfaces);
            let with = |mode: &'static str| {
                let is_so = |interface: &&Interface| interface.state.label() == mode;
                (mode, interfaces.iter().filter(is_so).count() as u64)
            };
            labelled(["native", "generic", "off"].map(with))
        },
    },
];

fn figures(now: &Reading) -> Option<&Figures> {
    now.offload.as_ref()
}
