//! Certificates: read at the start, and again when their files change.

use std::sync::Arc;

use super::ServeError;
use crate::config::{Config, Tls};
use crate::credentials::unix_now;
use crate::tls::{Found, Snapshot, Store, Watch, store};

/// Reads the certificates, if the configuration names any.
///
/// # Errors
///
/// Every file that cannot be used: without TLS where it was asked for, nothing starts.
pub(super) fn open(config: &Config) -> Result<Option<Arc<Store>>, ServeError> {
    if config.tls.certificates.is_empty() {
        return Ok(None);
    }
    let (snapshot, warnings) = Snapshot::load(&config.tls, None, now_s()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|it| it.at(&config.places)).collect();
        ServeError::Input(lines.join("\n"))
    })?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    store::say(&snapshot);
    Ok(Some(Arc::new(Store::new(snapshot))))
}

/// Keeps what is in force as new as the files are.
pub(super) struct Keeper {
    store: Arc<Store>,
    watch: Watch,
}

impl Keeper {
    /// Watches over a store that was just made of `tls`.
    pub(super) fn new(store: Arc<Store>, tls: Tls) -> Self {
        Self { watch: Watch::new(Arc::clone(&store), tls), store }
    }

    /// Looks at the files; to be called every second.
    pub(super) fn look(&mut self) {
        let found = self.watch.look(now_s());
        self.report(found);
    }

    /// The configuration was read again.
    pub(super) fn reload(&mut self, tls: &Tls) {
        if tls.certificates.is_empty() {
            // The listeners stay until a restart, and so must what they need.
            tracing::warn!("there is no [[tls.certificate]] any more: the old ones stay in force");
            return;
        }
        let found = self.watch.reload(tls, now_s());
        self.report(found);
    }

    fn report(&self, found: Found) {
        match found {
            Found::Nothing => {}
            Found::Loaded(warnings) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                store::say(&self.store.current());
            }
            Found::Refused(problems) => {
                for problem in problems {
                    tracing::error!("the old certificates stay in force: {}", problem.text);
                }
            }
        }
    }
}

/// Seconds since 1970.
fn now_s() -> i64 {
    i64::try_from(unix_now()).unwrap_or(i64::MAX)
}
