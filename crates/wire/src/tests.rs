//! What a user of this crate relies on, rule by rule.
