//! The thread that writes the program's maps: on commands of the relay, on what the kernel reports
//! and on its own clock. It sleeps in one poll(2) for all three.
//!
//! Whatever it does is bounded for each turn, so that a full routing table that changes and ten
//! thousand channels that come up do not wait for each other.

mod kernel;
mod listeners;
mod wake;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::attach::Attachments;
use crate::checks::{self, Survey};
use crate::figures::{Counters, Figures};
use crate::maps::{Back, BindingRate, Maps, Outcome};
use crate::netlink::route::{Change, parse_change};
use crate::netlink::{Events, Netlink};
use crate::paths::Paths;
use crate::program::{LoadError, Program};
use crate::report::{Refused, Report};
use crate::slots::{Slot, Slots};
use crate::{Channel, Mode, Settings};

use kernel::Kernel;
use listeners::Listeners;
use wake::Wake;

/// What is done of each kind of work in one turn.
const COMMANDS: usize = 1024;
const EVENTS: usize = 64;
const ROUTES: usize = 256;
const NEIGHBOURS: usize = 256;
/// More routes than so many that change at once are as good as all: each flow is held against each.
const PREFIXES: usize = 64;
/// How often neighbours are confirmed and the machine is looked over: the kernel forgets a
/// neighbour that nothing but XDP sends to after some tens of seconds.
const TICK: Duration = Duration::from_secs(20);
/// How soon it is looked over again while the far end of a veth keeps us waiting, twice as long each
/// time: what is set there comes a moment after the cable, or never.
const LOOK: Duration = Duration::from_millis(500);
/// A link or an address that changes seldom does so alone.
const SETTLE_LINKS: Duration = Duration::from_millis(100);
/// A route is replaced by a removal and an addition.
const SETTLE_ROUTES: Duration = Duration::from_millis(20);
/// So many datagrams without room, and none relayed, between two ticks: the driver leaves none.
const WITHOUT_ROOM: u64 = 32;

const GROUPS: [u32; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
];

/// What the relay asks for. At most two for each slot wait at a time, so that the queue is bounded
/// by the number of slots.
#[derive(Debug)]
pub(crate) enum Command {
    /// A channel came up; generations of the accounts to the client and to the peer.
    Install {
        slot: Slot,
        channel: Channel,
        generations: [u32; 2],
    },
    /// It went.
    Remove(Slot),
    Binding(Option<BindingRate>),
    Listeners(Vec<SocketAddr>),
    /// The end.
    Stop,
}

/// What the relay and the thread both look at.
pub(crate) struct Shared {
    pub(crate) maps: Arc<Maps>,
    pub(crate) slots: Slots,
    counters: Counters,
    report: Mutex<Report>,
}

/// The relay's end of the thread.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    commands: Sender<Command>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// Looks over the machine, loads and attaches the program, and starts the thread.
pub(crate) fn start(settings: Settings) -> Result<Handle, Refused> {
    checks::privileges()?;
    let control = Control::new(settings)?;
    let shared = Arc::clone(&control.shared);
    let wake = Arc::clone(&control.wake);
    let (commands, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("offload".into())
        .spawn(move || control.run(&receiver))
        .map_err(|error| Refused::new(format!("no thread: {error}")))?;
    Ok(Handle { shared, commands, wake, thread: Some(thread) })
}

impl Handle {
    pub(crate) fn send(&self, command: Command) {
        // The thread ends after `Stop` only, which is the last thing that is sent.
        if self.commands.send(command).is_ok() {
            self.wake.up();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(crate) fn report(&self) -> Report {
        self.lock_report().clone()
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            // A map that exists can be read.
            outcomes: self.maps.outcomes().unwrap_or_default(),
            channels: self.slots.in_use(),
            capacity: self.slots.capacity(),
            full: self.slots.full(),
            paths: self.counters.paths(),
            hops: self.counters.hops(),
            refused: self.counters.refusals(),
            report: self.report(),
        }
    }

    fn lock_report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report();
        f.debug_struct("Shared").field("slots", &self.slots).field("report", &report).finish()
    }
}

/// The thread's own.
struct Control {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    kernel: Kernel,
    events: Events,
    paths: Paths,
    listeners: Listeners,
    interfaces: Vec<String>,
    mode: Mode,
    binding: Option<BindingRate>,
    /// Neighbours yet to be confirmed.
    confirm: VecDeque<(u32, IpAddr)>,
    /// When the machine is looked over again.
    survey_at: Instant,
    /// How long after that once more, if need be.
    look: Duration,
    /// When stale routes are read.
    routes_at: Option<Instant>,
    /// Datagrams without room at the last tick, and by the number of its slot what was relayed.
    without_room: u64,
    relayed: Vec<u64>,
}

impl Control {
    fn new(settings: Settings) -> Result<Control, Refused> {
        let unreadable = |error: io::Error| Refused::new(format!("netlink: {error}"));
        // Changes from now on are heard of, so that none falls between survey and thread.
        let events = Events::open(&GROUPS).map_err(unreadable)?;
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE).map_err(unreadable)?;
        let survey = checks::survey(&mut netlink, &settings.interfaces).map_err(unreadable)?;
        let attachments = Attachments::new(settings.mode);
        // A machine that is full of packet filters should not pay for maps that nobody reads.
        attachments.preview(&survey).map_err(|report| nowhere(&report))?;
        let program = Program::load(settings.max_channels.max(1)).map_err(|error| not(&error))?;
        let shared = Arc::new(Shared {
            maps: Arc::clone(program.maps()),
            slots: Slots::new(program.maps().accounts.len() / 2),
            counters: Counters::default(),
            report: Mutex::default(),
        });
        let hops = u16::try_from(program.maps().hops.len()).unwrap_or(u16::MAX - 1);
        let wake = Wake::new().map_err(|error| Refused::new(format!("eventfd: {error}")))?;
        let mut control = Control {
            shared,
            wake: Arc::new(wake),
            kernel: Kernel { program, netlink, links: survey.links.clone(), attachments },
            events,
            paths: Paths::new(hops),
            listeners: Listeners::new(settings.listeners),
            interfaces: settings.interfaces,
            mode: settings.mode,
            binding: settings.binding,
            confirm: VecDeque::new(),
            survey_at: Instant::now() + TICK,
            look: LOOK,
            routes_at: None,
            without_room: 0,
            relayed: Vec::new(),
        };
        control.apply(survey);
        let report = control.shared.report();
        if report.any() { Ok(control) } else { Err(nowhere(&report)) }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let mut more = match self.obey(commands) {
                Some(more) => more,
                None => return,
            };
            more |= self.listen();
            let now = Instant::now();
            if self.routes_at.is_some_and(|at| at <= now) {
                let left = self.paths.resolve(&mut self.kernel, ROUTES);
                self.routes_at = left.then_some(now);
                more |= left;
            }
            if self.survey_at <= now {
                self.tick();
            }
            more |= self.confirm();
            self.shared.counters.set(self.paths.entries(), self.paths.hops().len() as u64);
            self.wait(more);
        }
    }

    /// Carries out some commands. `None`: the last one; otherwise whether there may be more.
    fn obey(&mut self, commands: &Receiver<Command>) -> Option<bool> {
        for _ in 0..COMMANDS {
            let Ok(command) = commands.try_recv() else { return Some(false) };
            match command {
                Command::Install { slot, channel, generations } => {
                    let refused = self.paths.install(&mut self.kernel, slot, channel, generations);
                    for why in refused.into_iter().flatten() {
                        self.shared.counters.refused(why);
                    }
                }
                Command::Remove(slot) => {
                    self.paths.remove(&mut self.kernel, slot);
                    self.shared.slots.give_back(slot);
                }
                Command::Binding(rate) => self.set_binding(rate),
                Command::Listeners(listeners) => {
                    self.listeners.configure(listeners);
                    self.listeners.update(&self.shared.maps);
                }
                Command::Stop => return None,
            }
        }
        Some(true)
    }

    /// Takes in some of what the kernel reports. True if there may be more.
    fn listen(&mut self) -> bool {
        let mut routes = Vec::new();
        let (mut more, mut missed) = (true, false);
        for _ in 0..EVENTS {
            match self.events.next() {
                Ok(Some(messages)) => {
                    for change in messages.iter().filter_map(parse_change) {
                        self.take_in(change, &mut routes);
                    }
                }
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "offload: changes of the network were missed");
                    missed = true;
                }
            }
        }
        if missed {
            self.paths.hops_mut().refresh(&mut self.kernel);
            self.survey_soon();
            routes.push(None);
        }
        if !routes.is_empty() {
            let all = routes.contains(&None) || routes.len() > PREFIXES;
            let concerned = |to, from| {
                let covers = |route: &Option<(IpAddr, u8)>| {
                    route.is_none_or(|prefix| covers(prefix, to) || covers(prefix, from))
                };
                all || routes.iter().any(covers)
            };
            self.unsettle(concerned);
        }
        more
    }

    fn take_in(&mut self, change: Change, routes: &mut Vec<Option<(IpAddr, u8)>>) {
        match change {
            Change::Link | Change::Address => self.survey_soon(),
            Change::Routes(prefix) => {
                if routes.len() <= PREFIXES && !routes.contains(&prefix) {
                    routes.push(prefix);
                }
            }
            Change::Neighbour { link, address, mac, forgotten: false } => {
                self.paths.hops_mut().neighbour(&mut self.kernel, link, address, mac);
            }
            Change::Neighbour { link, address, forgotten: true, .. } => {
                self.paths.hops_mut().forgotten(&mut self.kernel, link, address);
            }
        }
    }

    fn survey_soon(&mut self) {
        self.look = LOOK;
        self.survey_at = self.survey_at.min(Instant::now() + SETTLE_LINKS);
    }

    fn unsettle(&mut self, concerned: impl Fn(IpAddr, IpAddr) -> bool) {
        self.paths.unsettle(&mut self.kernel, concerned);
        self.routes_at.get_or_insert_with(|| Instant::now() + SETTLE_ROUTES);
    }

    /// Looks over the machine, and has neighbours confirmed.
    fn tick(&mut self) {
        self.survey_at = Instant::now() + TICK;
        if self.confirm.is_empty() {
            self.confirm.extend(self.paths.hops().in_use());
        }
        self.watch_room();
        match checks::survey(&mut self.kernel.netlink, &self.interfaces) {
            Ok(survey) => self.apply(survey),
            Err(error) => tracing::warn!(%error, "offload: the network cannot be looked over"),
        }
    }

    /// Brings attachments, listeners and paths in line with the machine as it is.
    fn apply(&mut self, mut survey: Survey) {
        let moved = kernel::differ(&self.kernel.links, &survey.links);
        self.kernel.links = survey.links.clone();
        let changed = self.kernel.attach(&mut survey, &mut self.paths);
        if self.kernel.attachments.awaits_far_end(&survey) {
            self.survey_at = self.survey_at.min(Instant::now() + self.look);
            self.look = (2 * self.look).min(TICK);
        }
        if moved || !changed.changed.is_empty() {
            self.unsettle(|_, _| true);
        }
        self.set_binding(self.binding);
        self.listeners.set_addresses(survey.addresses.into_iter().map(|(_, address)| address));
        self.listeners.update(&self.shared.maps);
        let mut report = self.shared.lock_report();
        if *report != changed.report {
            // The first one is the caller's to tell.
            if !report.interfaces.is_empty() {
                tracing::warn!("offload: now {}", changed.report);
            }
            *report = changed.report;
        }
    }

    /// A driver that passed the self-test, or met no packet in it, may leave no room all the same.
    fn watch_room(&mut self) {
        let outcomes = self.shared.maps.outcomes().unwrap_or_default();
        let without = outcomes[Outcome::PassHeadroom.index()];
        let accounts = &self.shared.maps.accounts;
        self.relayed.resize(self.shared.slots.capacity() as usize, 0);
        let mut relayed = false;
        for slot in self.paths.slots() {
            let datagrams = [slot.to_peer(), slot.to_client()]
                .map(|account| accounts.read(account).datagrams)
                .iter()
                .sum();
            // A slot may be another channel's by now, which began at 0.
            let before = std::mem::replace(&mut self.relayed[slot.index()], datagrams);
            relayed |= datagrams != 0 && datagrams != before;
        }
        let since = without - std::mem::replace(&mut self.without_room, without);
        let useless = since >= WITHOUT_ROOM && !relayed;
        let tried = self.paths.entries() > 0;
        if useless && tried && self.mode == Mode::Auto && self.kernel.fall_back(&mut self.paths) {
            tracing::warn!("offload: the driver leaves no room for longer headers: generic");
            self.unsettle(|_, _| true);
        }
    }

    /// Has some neighbours confirmed. True if there are more.
    fn confirm(&mut self) -> bool {
        for _ in 0..NEIGHBOURS {
            let Some((link, next)) = self.confirm.pop_front() else { return false };
            if let Err(error) = self.kernel.netlink.use_neighbour(link, next) {
                tracing::debug!(%next, %error, "offload: a neighbour cannot be confirmed");
            }
        }
        !self.confirm.is_empty()
    }

    fn set_binding(&mut self, rate: Option<BindingRate>) {
        self.binding = rate;
        let back = self.kernel.attachments.back();
        let rate = rate.filter(|_| back.is_some());
        if let Err(error) = self.shared.maps.set_binding(rate, back.unwrap_or(Back::Turned)) {
            tracing::warn!(%error, "offload: the rate of Binding answers cannot be set");
        }
    }

    /// Sleeps until something is to be done: not at all if there is `more`.
    fn wait(&mut self, more: bool) {
        let until = self.routes_at.map_or(self.survey_at, |at| at.min(self.survey_at));
        let left =
            if more { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
        let timeout = Timespec::try_from(left).ok();
        let mut sources =
            [PollFd::new(&*self.wake, PollFlags::IN), PollFd::new(&self.events, PollFlags::IN)];
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => tracing::warn!(%error, "offload: poll"),
        }
        self.wake.taken();
    }
}

/// Detaches first, while what is attached can still be told.
impl Drop for Control {
    fn drop(&mut self) {
        self.kernel.attachments.clear();
    }
}

fn covers((prefix, length): (IpAddr, u8), address: IpAddr) -> bool {
    let equal = |a: u128, b: u128, width: u32| {
        let ignored = width.saturating_sub(length.into());
        a.checked_shr(ignored) == b.checked_shr(ignored)
    };
    match (prefix, address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            equal(prefix.to_bits().into(), address.to_bits().into(), 32)
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            equal(prefix.to_bits(), address.to_bits(), 128)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn nowhere(report: &Report) -> Refused {
    Refused::new(report.to_string())
}

/// The kernel's refusal, with what may be behind it.
fn not(error: &LoadError) -> Refused {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let refused = Refused::new(error.to_string());
    match cause.downcast_ref::<io::Error>().and_then(checks::explain) {
        Some(help) => refused.helped_by(help),
        None => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_its_addresses_and_no_others() {
        let covers = |prefix: &str, length: u8, address: &str| {
            covers((prefix.parse().unwrap(), length), address.parse().unwrap())
        };
        assert!(covers("0.0.0.0", 0, "192.0.2.1"));
        assert!(covers("192.0.2.0", 24, "192.0.2.255"));
        assert!(!covers("192.0.2.0", 24, "192.0.3.0"));
        assert!(covers("192.0.2.1", 32, "192.0.2.1"));
        assert!(!covers("192.0.2.1", 32, "192.0.2.0"));
        assert!(covers("::", 0, "2001:db8::1"));
        assert!(!covers("::", 0, "192.0.2.1"));
        assert!(!covers("2001:db8::", 64, "2001:db8:0:1::"));
        assert!(covers("2001:db8::1", 128, "2001:db8::1"));
    }
}
