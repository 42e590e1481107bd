//! The data path in the kernel: an XDP program that relays the ChannelData of UDP clients, and
//! what loads, feeds and watches it.
//!
//! [`Offload`] is all that a relay needs: it says which channels there are, and moves credit and
//! deadlines in [`Accounts`]. Whatever the program does not relay goes up the stack as it came, so
//! that a channel which is refused, late or forgotten here costs speed and nothing else.
//!
//! In reading order: `control`, the thread that writes the maps; `paths` and `hops`, what it knows
//! of channels, routes and neighbours (plain data, tested without a kernel); `netlink`, where it
//! learns that; `attach` and `checks`, on which interfaces the program runs and why not; `program`
//! and `maps`, the program itself, whose source is in `bpf/`.
#![allow(unsafe_code)] // mapped maps and bpf(2); every use says why it is sound
#![deny(clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]

mod abi;
mod attach;
mod checks;
mod control;
mod figures;
mod hops;
pub mod maps;
mod netlink;
mod paths;
pub mod program;
mod report;
mod slots;

use std::net::SocketAddr;

pub use figures::{Figures, Refusal};
pub use maps::{Accounts, BindingRate, Counts, Outcome};
pub use report::{Interface, Refused, Report, State};
pub use slots::Slot;

use control::{Command, Handle};

/// How the program is attached. Without it nothing here is started at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native where the driver can, generic where it cannot; not where something would be bypassed.
    Auto,
    /// Native, whatever is bypassed; not where the driver cannot.
    Native,
    /// Generic, whatever is bypassed.
    Generic,
}

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to attach.
    pub mode: Mode,
    /// On which interfaces, by name; none: on all that have an address and carry Ethernet.
    pub interfaces: Vec<String>,
    /// How many channels fit. Each reserves 200 bytes of kernel memory, and takes about 400 more
    /// while it is there.
    pub max_channels: u32,
    /// Whether, and how often, STUN Binding requests are answered by the program.
    pub binding: Option<BindingRate>,
    /// The UDP listeners that Binding requests are sent to. A wildcard stands for every address of
    /// its family that this machine has.
    pub listeners: Vec<SocketAddr>,
}

/// A channel as its datagrams are addressed on the wire. Client and server are of one family, relay
/// and peer of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The client's transport address.
    pub client: SocketAddr,
    /// The server's, which the client sends to: never a wildcard.
    pub server: SocketAddr,
    /// The relayed transport address, as bound: on a machine behind address translation not the
    /// one that the client is told.
    pub relay: SocketAddr,
    /// The peer's transport address.
    pub peer: SocketAddr,
    /// The channel number: 0x4000 to 0x4FFF, of old clients up to 0x7FFF.
    pub number: u16,
}

/// The running program and the thread that feeds it. Dropping it detaches the program everywhere,
/// and so does the end of the process.
#[derive(Debug)]
pub struct Offload {
    handle: Handle,
}

/// What [`Offload::start`] made.
#[derive(Debug)]
pub struct Started {
    /// The running program.
    pub offload: Offload,
    /// On which interfaces, and why not on others.
    pub report: Report,
}

impl Offload {
    /// Loads the program, attaches it and starts the thread. Takes up to half a second for each
    /// interface whose driver is tried out, less where packets come in.
    ///
    /// # Errors
    /// Why there is no data path in the kernel, and what would help: privileges, the kernel, or no
    /// interface on which it may run.
    pub fn start(settings: Settings) -> Result<Started, Refused> {
        let handle = control::start(settings)?;
        let report = handle.shared.report();
        Ok(Started { offload: Offload { handle }, report })
    }

    /// The accounts, two for each slot. They are the caller's to open, feed, read and close.
    pub fn accounts(&self) -> &Accounts {
        &self.handle.shared.maps.accounts
    }

    /// A slot for a channel; `None` if all are in use, which is counted. It is given back by
    /// [`remove`](Offload::remove).
    pub fn take(&self) -> Option<Slot> {
        self.handle.shared.slots.take()
    }

    /// Has a channel relayed by the program from soon on, in the directions that can be. Its two
    /// accounts were opened before: what is installed is alive as long as they are.
    pub fn install(&self, slot: Slot, channel: Channel) {
        let accounts = self.accounts();
        let generations =
            [slot.to_client(), slot.to_peer()].map(|index| accounts.generation(index));
        self.handle.send(Command::Install { slot, channel: canonical(channel), generations });
    }

    /// Ends what [`install`](Offload::install) began and gives the slot back, installed or not. Its
    /// accounts were closed before, which stops the relaying at once.
    pub fn remove(&self, slot: Slot) {
        self.handle.send(Command::Remove(slot));
    }

    /// Changes how Binding requests are answered; `None`: not by the program.
    pub fn set_binding(&self, rate: Option<BindingRate>) {
        self.handle.send(Command::Binding(rate));
    }

    /// Changes the UDP listeners that Binding requests are sent to.
    pub fn set_listeners(&self, listeners: Vec<SocketAddr>) {
        self.handle.send(Command::Listeners(listeners));
    }

    /// A reading for metrics. Costs a system call for each [`Outcome`].
    pub fn figures(&self) -> Figures {
        self.handle.shared.figures()
    }

    /// On which interfaces the program runs now, and why not on others.
    pub fn report(&self) -> Report {
        self.handle.shared.report()
    }
}

/// IPv4 in IPv6 clothes is IPv4 on the wire.
fn canonical(channel: Channel) -> Channel {
    let canonical = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
    Channel {
        client: canonical(channel.client),
        server: canonical(channel.server),
        relay: canonical(channel.relay),
        peer: canonical(channel.peer),
        number: channel.number,
    }
}
