//! The control plane: signals, reload, drain, metrics, watchdog. One thread, and never in the
//! way of a datagram.

use std::future::Future;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use turnway_relay::Shared;
use turnway_udp::system::{give_heap_back, separate_large_pieces};

use super::certificates::Keeper;
use super::{ServeError, machine, rules};
use crate::accounts::Zones;
use crate::admin::{self, Door, Subject, Token};
use crate::config::{self, Config};
use crate::database::UserRow;
use crate::log::Level;
use crate::mailbox::{Command, Mailbox};
use crate::metrics::{self, View};
use crate::ports::Ports;
use crate::shard::clock;

/// How often reservations are looked after, and the watchdog is told that all is well.
const TICK: Duration = Duration::from_millis(500);

/// How often the files of certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(1);

/// How often this machine's addresses are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// How much longer systemd is asked to wait, each time, while a drain goes on.
const EXTENSION: Duration = Duration::from_secs(30);

/// How often a drain looks whether the last allocation is gone.
const DRAIN_TICK: Duration = Duration::from_millis(50);

/// It is not worth while to give back what fewer allocations took.
const FREED_LEAST: u32 = 1000;

/// All that the control plane has a hand on.
pub(super) struct Control {
    pub(super) config: Config,
    pub(super) path: Option<PathBuf>,
    pub(super) context: rules::Context,
    /// This machine's addresses as the rules know them.
    pub(super) own: Vec<IpAddr>,
    /// The present rules and those before. Kept, so that it is no shard that has to free the tables
    /// of all users when it lets go of them.
    pub(super) rules: [Option<Arc<turnway_relay::Config>>; 2],
    /// The users of the database, and where it says that they changed.
    pub(super) users: Vec<UserRow>,
    pub(super) changed_users: mpsc::UnboundedReceiver<Vec<UserRow>>,
    pub(super) zones: Option<Zones>,
    /// The certificates, if there are any.
    pub(super) certificates: Option<Keeper>,
    pub(super) level: Level,
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) view: Arc<View>,
    pub(super) metrics: Option<TcpListener>,
    pub(super) admin: Option<Door>,
    /// What clients of the admin API must show.
    pub(super) token: Arc<Token>,
    pub(super) shared: Arc<Shared>,
    pub(super) ports: Arc<Ports>,
}

/// Watches for the end of a peak, after which the process need not keep its memory.
#[derive(Default)]
struct Heap {
    /// The most allocations since memory was last given back.
    peak: u32,
    /// Allocations at the last look.
    last: u32,
}

/// Runs until the daemon is to end; the shards have been told to stop then.
pub(super) fn run(control: Control) -> Result<(), ServeError> {
    separate_large_pieces();
    let mailboxes = Arc::clone(&control.mailboxes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| runtime.block_on(control.serve()));
    // Whatever happened, nothing is left running.
    for mailbox in mailboxes.iter() {
        mailbox.send(Command::Stop);
    }
    result.map_err(|error| ServeError::Runtime(format!("the control plane failed: {error}")))
}

/// The signals a daemon lives by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Control {
    async fn serve(mut self) -> io::Result<()> {
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        let (stopping, stopped) = watch::channel(false);
        let admin = self.admin.take().map(|door| self.serve_admin(door, stopped.clone()));
        let admin = admin.transpose()?.map(tokio::spawn);
        let metrics = self.metrics.take().map(|listener| self.serve_metrics(listener, stopped));
        let metrics = metrics.transpose()?.map(tokio::spawn);

        self.view.ready.store(true, Ordering::Relaxed);
        self.say_started();
        notify(&[NotifyState::Ready]);
        let mut tick = tokio::time::interval(TICK);
        let mut look = tokio::time::interval(LOOK);
        let mut certificates = tokio::time::interval(CERTIFICATES);
        let mut heap = Heap::default();
        loop {
            tokio::select! {
                _ = tick.tick() => self.on_tick(&mut heap),
                _ = look.tick() => self.look_around(),
                _ = certificates.tick() => self.look_at_certificates(),
                _ = signals.hang_up.recv() => self.reload(),
                Some(users) = self.changed_users.recv() => self.adopt_users(users),
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => {
                    self.drain(&mut signals, &mut heap).await;
                    break;
                }
            }
        }
        tracing::info!("stopping");
        notify(&[NotifyState::Stopping]);
        let _ = stopping.send(true);
        drop((metrics, admin)); // a request under way does not hold up the end
        Ok(())
    }

    fn serve_metrics(
        &self,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let view = Arc::clone(&self.view);
        Ok(metrics::serve(listener, view, come_true(stopped)))
    }

    fn serve_admin(
        &self,
        door: Door,
        stopped: watch::Receiver<bool>,
    ) -> io::Result<impl Future<Output = ()> + Send + 'static> {
        let subject = Subject {
            view: Arc::clone(&self.view),
            mailboxes: Arc::clone(&self.mailboxes),
            realm: self.config.realm.clone(),
            listeners: self.config.listen.clone(),
        };
        admin::serve(door, subject, Arc::clone(&self.token), come_true(stopped))
    }

    fn say_started(&self) {
        for listen in &self.config.listen {
            tracing::info!(transport = %listen.transport, address = %listen.address, "listening");
        }
        if let Some(address) = self.config.metrics.listen {
            tracing::info!(%address, "serving /metrics, /livez and /readyz");
        }
        if let Some(address) = &self.config.admin.listen {
            tracing::info!(%address, "serving the admin API");
        }
        let version = env!("CARGO_PKG_VERSION");
        tracing::info!(version, realm = self.config.realm, "ready");
    }

    fn on_tick(&self, heap: &mut Heap) {
        if heap.peak_is_over(self.shared.allocations.count()) {
            give_heap_back();
        }
        self.ports.expire(clock().mono_ns);
        if metrics::live(&self.view.boards, clock().mono_ns).is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// Reads the configuration again and hands it to the shards, or keeps the old one.
    fn reload(&mut self) {
        let Some(path) = &self.path else {
            tracing::warn!("SIGHUP: there is no configuration file to read again");
            return;
        };
        notify(&[NotifyState::Reloading]);
        match Config::load(path) {
            Ok((config, warnings)) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                self.adopt(config);
            }
            Err(error) => {
                for problem in error.to_string().lines() {
                    tracing::error!("{problem}");
                }
                tracing::error!("not reloaded: the old configuration stays");
            }
        }
        notify(&[NotifyState::Ready]);
    }

    fn adopt(&mut self, config: Config) {
        for key in config::restart_needed(&self.config, &config) {
            tracing::warn!(key, "changed, but only a restart applies it");
        }
        let merged = config::reloaded(&self.config, config);
        match machine::own_addresses() {
            Ok(own) => self.own = own,
            Err(error) => tracing::error!("{error}"),
        }
        match rules::build(&merged, &self.context, &self.own, &self.users) {
            Err(error) => tracing::error!("not reloaded, the old configuration stays: {error}"),
            Ok(rules) => {
                self.configure(rules);
                self.level.set(merged.log.level);
                self.token.set(merged.admin.token.clone());
                if let Some(zones) = &self.zones {
                    zones.set(merged.quota.time_zone.clone());
                }
                if let Some(certificates) = &mut self.certificates {
                    certificates.reload(&merged.tls);
                }
                self.config = merged;
                tracing::info!("reloaded");
            }
        }
    }

    /// The table of users has changed.
    fn adopt_users(&mut self, mut users: Vec<UserRow>) {
        // Of several changes only the last one matters.
        while let Ok(newer) = self.changed_users.try_recv() {
            users = newer;
        }
        match rules::build(&self.config, &self.context, &self.own, &users) {
            Ok(rules) => {
                self.users = users;
                self.configure(rules);
                tracing::info!(users = self.users.len(), "users of the database changed");
            }
            Err(error) => tracing::error!("the users of before stay: {error}"),
        }
    }

    fn configure(&mut self, rules: turnway_relay::Config) {
        let rules = Arc::new(rules);
        self.rules = [Some(Arc::clone(&rules)), self.rules[0].take()];
        // The ledger first: a shard that knows a limit finds it there.
        let quotas = Arc::clone(&rules.quotas);
        self.view.ledger.lock().configure(quotas, clock().mono_ns);
        for mailbox in self.mailboxes.iter() {
            mailbox.send(Command::Configure(Arc::clone(&rules)));
        }
    }

    fn look_at_certificates(&mut self) {
        if let Some(certificates) = &mut self.certificates {
            certificates.look();
        }
    }

    /// Looks whether this machine has other addresses than it had: our listeners are behind them
    /// too, and no peer.
    fn look_around(&mut self) {
        let Ok(own) = machine::own_addresses() else { return };
        if own == self.own {
            return;
        }
        tracing::info!(addresses = ?own, "this machine's addresses changed");
        self.own = own;
        match rules::build(&self.config, &self.context, &self.own, &self.users) {
            Ok(rules) => self.configure(rules),
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Lets existing allocations live on until the last has gone, time is up, or it is enough.
    async fn drain(&mut self, signals: &mut Signals, heap: &mut Heap) {
        self.view.ready.store(false, Ordering::Relaxed);
        for mailbox in self.mailboxes.iter() {
            mailbox.send(Command::Drain);
        }
        let timeout = self.config.limits.drain_timeout;
        let allocations = self.shared.allocations.count();
        tracing::info!(allocations, timeout_s = timeout.as_secs(), "draining");
        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        let began = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let mut look = tokio::time::interval(DRAIN_TICK);
        let mut around = tokio::time::interval(LOOK);
        let mut certificates = tokio::time::interval(CERTIFICATES);
        while self.shared.allocations.count() > 0 && began.elapsed() < timeout {
            tokio::select! {
                _ = look.tick() => {}
                _ = around.tick() => self.look_around(),
                _ = certificates.tick() => self.look_at_certificates(),
                Some(users) = self.changed_users.recv() => self.adopt_users(users),
                _ = tick.tick() => {
                    self.on_tick(heap);
                    notify(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
                }
                _ = signals.hang_up.recv() => {
                    tracing::warn!("SIGHUP: draining, the configuration is not read again");
                }
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
            }
        }
    }
}

impl Heap {
    /// Whether there are far fewer allocations than there were, and hardly more of them end just
    /// now than begin.
    fn peak_is_over(&mut self, allocations: u32) -> bool {
        let quiet = allocations >= self.last - self.last / 64;
        self.last = allocations;
        self.peak = self.peak.max(allocations);
        let over = quiet && allocations < self.peak / 2 && self.peak - allocations >= FREED_LEAST;
        if over {
            self.peak = allocations;
        }
        over
    }
}

async fn come_true(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Tells systemd, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "sd_notify");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of these numbers of allocations, one for each tick, those at which memory is given back.
    fn given_back(allocations: &[u32]) -> Vec<u32> {
        let mut heap = Heap::default();
        allocations.iter().copied().filter(|&now| heap.peak_is_over(now)).collect()
    }

    #[test]
    fn memory_is_given_back_when_a_peak_is_over_and_once() {
        assert_eq!(given_back(&[0, 10_000, 10_000, 6_000, 2_000, 0, 0, 0, 0]), [0]);
        assert!(given_back(&[10_000, 5_001, 5_001]).is_empty(), "half of it is there");
        assert!(given_back(&[1_800, 900, 900]).is_empty(), "not worth while");
        assert_eq!(given_back(&[10_000, 1_000, 1_000, 5_000, 100, 100]), [1_000, 100]);
    }

    #[test]
    fn some_may_come_and_go_meanwhile() {
        assert_eq!(given_back(&[100_000, 20_000, 19_990, 20_010, 20_000, 19_995]), [19_990]);
    }
}
