//! Certificates.

use super::{Family, Kind, labelled};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "turnway_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["name", "file"],
        help: "When a certificate in force ends, in seconds since 1970, by its first name and its \
               file.",
        samples: |now| {
            let certificates = now.certificates.in_force.iter();
            let sample = |(name, file, end): &(String, String, u64)| {
                (vec![name.clone().into(), file.clone().into()], *end)
            };
            certificates.map(sample).collect()
        },
    },
    Family {
        name: "turnway_certificate_reloads",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "How often changed certificates were read: they are in force, or could not be used \
               and the old ones stay.",
        samples: |now| {
            let certificates = &now.certificates;
            labelled([("success", certificates.reloads), ("failure", certificates.failures)])
        },
    },
];
