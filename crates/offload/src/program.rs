//! The program itself: its object file, committed beside the source in `bpf/`, and how it is loaded.

use std::fmt;
use std::sync::Arc;

use aya::maps::MapError;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};

use crate::maps::Maps;

/// A channel has a path and an account for each direction.
const DIRECTIONS: u32 = 2;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/turnway.bpf.o");

/// The loaded program. Dropping it detaches it everywhere.
pub struct Program {
    ebpf: Ebpf,
    maps: Arc<Maps>,
}

impl Program {
    /// Loads the program with room for so many channels, of either family.
    ///
    /// # Errors
    ///
    /// The kernel's refusal, which mostly means that a capability is missing.
    pub fn load(max_channels: u32) -> Result<Program, LoadError> {
        let entries = max_channels.saturating_mul(DIRECTIONS);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("paths4", entries)
            .map_max_entries("paths6", entries)
            .map_max_entries("accounts", entries)
            .load(OBJECT)
            .map_err(LoadError::Ebpf)?;
        let maps = Arc::new(Maps::of(&mut ebpf).map_err(LoadError::Map)?);
        for name in ["turnway", "probe"] {
            xdp(&mut ebpf, name).load().map_err(LoadError::Program)?;
        }
        Ok(Program { ebpf, maps })
    }

    /// Its maps.
    pub fn maps(&self) -> &Arc<Maps> {
        &self.maps
    }

    /// The relay, to be attached to interfaces.
    pub fn xdp(&mut self) -> &mut Xdp {
        xdp(&mut self.ebpf, "turnway")
    }

    /// The self-test, to be attached for a moment before [`Program::xdp`]: it moves the beginning
    /// of every packet back and forth, counts ([`Maps::take_probed`]), and passes it up.
    pub fn probe(&mut self) -> &mut Xdp {
        xdp(&mut self.ebpf, "probe")
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).expect("the object has a program of this name");
    program.try_into().expect("it is an XDP program")
}

/// Why the program could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// Its maps could not be made.
    Ebpf(EbpfError),
    /// A map could not be used as intended.
    Map(MapError),
    /// The kernel refused the program.
    Program(ProgramError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Ebpf(error) => write!(f, "making the maps: {error}"),
            LoadError::Map(error) => write!(f, "using a map: {error}"),
            LoadError::Program(error) => write!(f, "loading the program: {error}"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Ebpf(error) => Some(error),
            LoadError::Map(error) => Some(error),
            LoadError::Program(error) => Some(error),
        }
    }
}
