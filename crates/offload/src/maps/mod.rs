//! The program's maps, each with the operations that user space has for it. All take `&self` and
//! may be called by several threads.
//!
//! In reading order: [`Paths`], which datagram goes where; [`Accounts`], how much and how long;
//! [`Hops`], by which interface and to which MAC address; then the small ones.

mod accounts;
mod devices;
mod hops;
mod mapped;
mod paths;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};

pub use self::accounts::{Accounts, Counts};
pub use self::devices::Devices;
pub use self::hops::{Hop, HopState, Hops};
pub use self::paths::{NextHop, Path, PathKey, Paths};
use crate::abi;
pub use crate::abi::{Outcome, Outcomes, Probed};

/// All maps.
pub struct Maps {
    /// Which datagram goes where.
    pub paths: Paths,
    /// How much of each direction of a channel may pass, how long, and how much has.
    pub accounts: Arc<Accounts>,
    /// By which interface, to which MAC address.
    pub hops: Hops,
    /// Through which other interfaces the program may send.
    pub devices: Devices,
    listeners: Mutex<HashMap<MapData, abi::Listener, u32>>,
    settings: Mutex<Array<MapData, abi::Settings>>,
    outcomes: PerCpuArray<MapData, u64>,
    probed: Mutex<Array<MapData, Probed>>,
}

impl Maps {
    pub(crate) fn of(ebpf: &mut Ebpf) -> Result<Maps, MapError> {
        Ok(Maps {
            paths: Paths::new(take(ebpf, "paths4"), take(ebpf, "paths6"))?,
            accounts: Arc::new(Accounts::new(take(ebpf, "accounts"))?),
            hops: Hops::new(take(ebpf, "hops"))?,
            devices: Devices::new(take(ebpf, "devices"))?,
            listeners: Mutex::new(take(ebpf, "listeners").try_into()?),
            settings: Mutex::new(take(ebpf, "settings").try_into()?),
            outcomes: take(ebpf, "outcomes").try_into()?,
            probed: Mutex::new(take(ebpf, "probed").try_into()?),
        })
    }

    /// Answers Binding requests to a server address, if [`Maps::set_binding`] allows.
    pub fn add_listener(&self, listener: SocketAddr) -> Result<(), MapError> {
        lock(&self.listeners).insert(key_of(listener), 1, 0)
    }

    /// Ends that.
    pub fn remove_listener(&self, listener: SocketAddr) -> Result<(), MapError> {
        lock(&self.listeners).remove(&key_of(listener))
    }

    /// Whether Binding requests are answered here, how often per source, and how answers leave.
    pub fn set_binding(&self, rate: Option<BindingRate>, back: Back) -> Result<(), MapError> {
        lock(&self.settings).set(0, settings(rate, back), 0)
    }

    /// What became of what was not relayed, over all CPUs since the program was loaded.
    pub fn outcomes(&self) -> Result<Outcomes, MapError> {
        let mut outcomes = [0; Outcome::ALL.len()];
        for (index, sum) in outcomes.iter_mut().enumerate() {
            *sum = self.outcomes.get(&(index as u32), 0)?.iter().sum();
        }
        Ok(outcomes)
    }

    /// What the self-test has found since the last call.
    pub fn take_probed(&self) -> Result<Probed, MapError> {
        let mut probed = lock(&self.probed);
        let found = probed.get(&0, 0)?;
        probed.set(0, Probed::default(), 0)?;
        Ok(found)
    }
}

/// How many Binding requests of one IPv4 address or IPv6 /64 are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingRate {
    /// Answers per second; 0: as many as are asked for.
    pub per_second: u32,
    /// Answers at once; at least 1.
    pub burst: u32,
}

/// How an answer leaves by the interface that the request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// It turns round in the driver.
    Turned,
    /// As what comes from another interface.
    Redirected,
}

fn settings(rate: Option<BindingRate>, back: Back) -> abi::Settings {
    const SECOND_NS: u64 = 1_000_000_000;
    let Some(rate) = rate else {
        return abi::Settings::default();
    };
    let interval_ns = SECOND_NS.checked_div(rate.per_second.into()).unwrap_or(0);
    abi::Settings {
        flags: match back {
            Back::Turned => abi::SETTINGS_BINDING,
            Back::Redirected => abi::SETTINGS_BINDING | abi::SETTINGS_REDIRECT,
        },
        zero: 0,
        binding_interval_ns: interval_ns,
        binding_ahead_ns: interval_ns * u64::from(rate.burst.max(1)),
    }
}

fn key_of(listener: SocketAddr) -> abi::Listener {
    let (address, family) = abi::address(listener.ip());
    let port = listener.port().to_be_bytes();
    abi::Listener { address, port, family: family.into() }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).expect("the program has a map of this name, and it is taken once")
}

/// What a panicking thread leaves is whole: each of these is one system call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
