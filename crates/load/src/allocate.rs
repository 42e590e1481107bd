//! Allocations.
