//! The clock of a daemon, put forward by libfaketime.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program;

/// The clock of a daemon, which can be put forward.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// `None`, said aloud, where it cannot be had. `folder` is for its own file.
    pub fn new(folder: &Path) -> Option<Self> {
        program("faketime", "faketime")?;
        let arch = std::env::consts::ARCH;
        let library = format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketimeMT.so.1").into();
        let clock = Self { library, offset: folder.join("clock") };
        clock.put_forward(Duration::ZERO);
        Some(clock)
    }

    /// For [`super::Setup::environment`].
    pub fn environment(&self) -> Vec<(String, String)> {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            own("LD_PRELOAD", self.library.to_str().expect("text")),
            own("FAKETIME_TIMESTAMP_FILE", self.offset.to_str().expect("text")),
            own("FAKETIME_CACHE_DURATION", "1"),
        ]
    }

    /// Puts it forward by so much from the real time; it is seen within a second.
    pub fn put_forward(&self, by: Duration) {
        fs::write(&self.offset, format!("+{}\n", by.as_secs())).expect("a file of ours");
    }
}
