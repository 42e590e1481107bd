//! A second data path beside the rules, in virtual time: datagrams arrive for channels that a
//! [`common::second_path::FakePath`] relays, drops or passes up, mirrors have their turns, several
//! shards share a ledger. `flows` has who sends what, and the witnesses that hold everything to its
//! limits; the other files are about one property each.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod changes;
mod counters;
mod flows;
mod random;
mod sums;
