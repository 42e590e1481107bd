//! Several shards and one ledger, driven as the daemon drives them, under a virtual clock.
//!
//! - `fleet.rs`: the shards, their senders, and what all of them are measured by
//! - `sharing.rs`: whoever saturates a limit gets all of it, in equal parts
//! - `random.rs`: whatever anybody does, no more passes than burst and rate allow

mod changes;
mod fleet;
mod random;
mod sharing;
