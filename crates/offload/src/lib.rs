//! The data path in the kernel: an XDP program that relays the ChannelData of UDP clients, and
//! what loads, feeds and watches it.
#![allow(unsafe_code)] // mapped maps and bpf(2); every use says why it is sound
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod abi;
pub mod maps;
pub mod program;
