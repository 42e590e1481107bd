//! `turnway`: a STUN/TURN relay server. The arguments are in `cli.rs`.

use std::process::ExitCode;

use clap::Parser as _;
use turnway::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
