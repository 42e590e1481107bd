//! Attaching the program to interfaces: natively where that works, else generically.
//!
//! "Works" is tried and not believed: a driver may accept the program and leave no room for longer
//! headers, or have no way to send. Nothing is pinned; the kernel detaches when we are gone.
//!
//! What was refused is tried again while the interface exists, seldom: a driver may take its link
//! down to try. Whether the far end of a veth takes frames is only asked, each time we look.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use crate::Mode;
use crate::checks::{Candidate, Survey};
use crate::maps::Back;
use crate::netlink::{Netlink, firewall};
use crate::program::Program;
use crate::report::{Interface, Report, State};
use aya::programs::ProgramError;
use aya::programs::xdp::{XdpLink, XdpMode};

/// How long the self-test waits for a packet, and how often it looks.
const PROBE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// When an interface that refused is tried again first, and then at most so much later each time.
const AGAIN: Duration = Duration::from_secs(20);
const AGAIN_MOST: Duration = Duration::from_secs(3600);
const DEAF: &str = "the far end of this veth takes no XDP frames (switch on its GRO: ethtool -K)";
/// How the operator overrides what keeps `auto` off.
const OVERRIDE: &str = "mode = \"native\" or \"generic\" overrides";

/// On which interfaces the program runs.
#[derive(Debug)]
pub(crate) struct Attachments {
    mode: Mode,
    attached: BTreeMap<u32, Attached>,
    failed: BTreeMap<u32, Failed>,
}

/// An interface that refused.
#[derive(Debug)]
struct Failed {
    why: String,
    circumstances: Circumstances,
    /// It is tried again so long after that; `None`: not unless the circumstances change.
    at: Instant,
    wait: Option<Duration>,
}

/// What an interface may refuse for, as far as we know.
#[derive(Debug, PartialEq, Eq)]
struct Circumstances {
    mtu: u32,
    vlans: bool,
    deaf: bool,
}

/// Why an interface has no program, or not natively.
struct Unable {
    why: String,
    /// It is the driver's nature.
    forever: bool,
}

#[derive(Debug)]
struct Attached {
    name: String,
    /// Place in the program's map of devices.
    device: u32,
    native: bool,
    /// The driver can send what came in elsewhere.
    sends: bool,
    /// What came in here may turn round. A veth that is native leaves it lying until something
    /// else wakes its far end, unless there is an XDP program at that as well, which nobody can
    /// see; what is redirected wakes it.
    turns: bool,
    /// Generic only until the far end of this veth takes frames.
    waits: bool,
    note: Option<String>,
    /// Detaches when dropped.
    _link: XdpLink,
}

/// What became of the wish to attach.
pub(crate) struct Outcome {
    pub(crate) report: Report,
    /// Interfaces that got or lost the program.
    pub(crate) changed: Vec<u32>,
}

impl Attachments {
    pub(crate) fn new(mode: Mode) -> Attachments {
        Attachments { mode, attached: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Whether any interface may have the program at all; if not, why.
    pub(crate) fn preview(&self, survey: &Survey) -> Result<(), Report> {
        let mut candidates = survey.candidates.iter();
        if candidates.any(|candidate| self.objection(candidate).is_none()) {
            return Ok(());
        }
        Err(self.report(survey))
    }

    /// Interfaces that [`apply`](Attachments::apply) would take the program from. Not those that are
    /// down or have no address for a while: a driver may take its link down to attach or detach.
    pub(crate) fn leaving(&self, survey: &Survey) -> Vec<u32> {
        let refused = |index: u32| {
            let mut candidates = survey.candidates.iter();
            candidates.any(|it| it.index == index && self.objection(it).is_some())
        };
        let otherwise =
            |index: u32| survey.candidates.iter().any(|it| it.index == index && self.outdated(it));
        let leaves =
            |index: u32| !survey.links.contains_key(&index) || refused(index) || otherwise(index);
        self.attached.keys().copied().filter(|&index| leaves(index)).collect()
    }

    /// Attaches and detaches until the machine is as it should be.
    pub(crate) fn apply(
        &mut self,
        program: &mut Program,
        netlink: &mut Netlink,
        survey: &mut Survey,
    ) -> Outcome {
        let mut changed = self.leaving(survey);
        for &index in &changed {
            self.detach(program, index);
            // What was found there was ours.
            survey
                .candidates
                .iter_mut()
                .filter(|it| it.index == index)
                .for_each(|it| it.xdp = None);
        }
        self.failed.retain(|index, _| survey.links.contains_key(index));
        let now = Instant::now();
        for candidate in &survey.candidates {
            let index = candidate.index;
            if self.attached.contains_key(&index) || self.objection(candidate).is_some() {
                continue;
            }
            let mtu = survey.links.get(&index).map_or(0, |link| link.mtu);
            let Candidate { vlans, deaf, .. } = *candidate;
            let circumstances = Circumstances { mtu, vlans, deaf };
            let before = self.failed.remove(&index).filter(|it| it.circumstances == circumstances);
            let failed = match before {
                Some(failed) if !failed.is_due(now) => failed,
                before => match self.attach(program, netlink, candidate) {
                    Ok(()) => {
                        changed.push(index);
                        continue;
                    }
                    Err(unable) => Failed::new(unable, circumstances, before.as_ref(), now),
                },
            };
            self.failed.insert(index, failed);
        }
        self.list_devices(program);
        Outcome { report: self.report(survey), changed }
    }

    /// Whether the far end of a veth keeps an interface from having the program natively. Nobody
    /// tells us when that changes.
    pub(crate) fn awaits_far_end(&self, survey: &Survey) -> bool {
        let deaf = survey.candidates.iter().any(|candidate| candidate.up && candidate.deaf);
        deaf && self.mode != Mode::Generic
    }

    /// The interfaces where packets come in natively: what [`fall_back`](Attachments::fall_back)
    /// would change.
    pub(crate) fn native(&self) -> Vec<u32> {
        let native = self.attached.iter().filter(|(_, attached)| attached.native);
        native.map(|(&index, _)| index).collect()
    }

    /// The driver turned out to leave no room: generic from now on.
    pub(crate) fn fall_back(&mut self, program: &mut Program) {
        for index in self.native() {
            self.detach(program, index);
        }
        self.mode = Mode::Generic;
    }

    /// The place of an interface in the program's map of devices, and whether frames may turn round
    /// there; `None` if it has no program.
    pub(crate) fn device(&self, index: u32) -> Option<(u32, bool)> {
        self.attached.get(&index).map(|attached| (attached.device, attached.turns))
    }

    /// How answers can leave where their requests came in; `None`: by no way that is right for all.
    pub(crate) fn back(&self) -> Option<Back> {
        let mut all = self.attached.values();
        if all.clone().all(|attached| attached.turns) {
            Some(Back::Turned)
        } else {
            all.all(|attached| attached.sends).then_some(Back::Redirected)
        }
    }

    /// Detaches everything.
    pub(crate) fn clear(&mut self) {
        self.attached.clear();
    }

    /// Why an interface is not to have the program.
    fn objection(&self, candidate: &Candidate) -> Option<String> {
        if let Some(why) = &candidate.unfit {
            return Some(why.clone());
        }
        match self.mode {
            Mode::Auto if !candidate.bypassed.is_empty() => {
                return Some(format!("would bypass {}; {OVERRIDE}", list(&candidate.bypassed)));
            }
            Mode::Native if candidate.deaf => return Some(format!("not native: {DEAF}")),
            Mode::Auto | Mode::Native | Mode::Generic => {}
        }
        if self.attached.contains_key(&candidate.index) {
            return None;
        }
        if !candidate.up {
            return Some("it is down".into());
        }
        candidate.xdp.map(|id| format!("another XDP program is attached there (id {id})"))
    }

    /// Whether an interface has the program, but not in the way that is right by now.
    fn outdated(&self, candidate: &Candidate) -> bool {
        match (self.mode, self.attached.get(&candidate.index)) {
            (Mode::Auto, Some(attached)) if attached.native => candidate.up && candidate.deaf,
            (Mode::Auto, Some(attached)) => candidate.up && attached.waits && !candidate.deaf,
            (Mode::Auto | Mode::Native | Mode::Generic, _) => false,
        }
    }

    fn attach(
        &mut self,
        program: &mut Program,
        netlink: &mut Netlink,
        candidate: &Candidate,
    ) -> Result<(), Unable> {
        let used: Vec<u32> = self.attached.values().map(|attached| attached.device).collect();
        let device = (0..program.maps().devices.len()).find(|device| !used.contains(device));
        let device = device.ok_or("too many interfaces have the program")?;
        let native = match self.mode {
            Mode::Auto | Mode::Native if candidate.deaf => Err(DEAF.into()),
            Mode::Auto | Mode::Native => attach_native(program, netlink, candidate),
            Mode::Generic => Err("mode = \"generic\"".into()),
        };
        let (link, native, sends, note) = match (native, self.mode) {
            (Ok((link, sends)), Mode::Auto | Mode::Native | Mode::Generic) => {
                (link, true, sends, None)
            }
            (Err(Unable { why, forever }), Mode::Native) => {
                return Err(Unable { why: format!("not native: {why}"), forever });
            }
            (Err(Unable { why, forever }), Mode::Auto | Mode::Generic) => {
                // One that has no native way is not tried again for want of a generic one.
                let link =
                    attach_generic(program, candidate).map_err(|why| Unable { why, forever })?;
                let note = (self.mode == Mode::Auto).then(|| format!("not native: {why}"));
                (link, false, true, note)
            }
        };
        let name = candidate.name.clone();
        let turns = !(native && candidate.kind == "veth");
        let waits = !native && self.mode == Mode::Auto && candidate.deaf;
        let attached = Attached { name, device, native, sends, turns, waits, note, _link: link };
        self.attached.insert(candidate.index, attached);
        Ok(())
    }

    fn detach(&mut self, program: &mut Program, index: u32) {
        if let Some(attached) = self.attached.remove(&index) {
            forget_device(program, attached.device);
        }
    }

    /// Says to the program which interfaces can take what came in by another one. A native program
    /// cannot hand a frame to a driver that has no such way, or that has the program only
    /// generically: the frame would be lost. Left out here, it is passed up.
    fn list_devices(&self, program: &mut Program) {
        let any_native = self.attached.values().any(|attached| attached.native);
        for (&index, attached) in &self.attached {
            if attached.sends && attached.native == any_native {
                if let Err(error) = program.maps().devices.set(attached.device, index) {
                    tracing::warn!(interface = attached.name, %error, "offload: no redirecting");
                }
            } else {
                forget_device(program, attached.device);
            }
        }
    }

    fn report(&self, survey: &Survey) -> Report {
        let interfaces = survey.candidates.iter().map(|candidate| {
            let mut notes = Vec::new();
            let state = match self.attached.get(&candidate.index) {
                Some(attached) => {
                    notes.extend(attached.note.clone());
                    if !candidate.bypassed.is_empty() {
                        notes.push(format!("bypasses {}", list(&candidate.bypassed)));
                    }
                    if attached.native { State::Native } else { State::Generic }
                }
                None => {
                    let refused = || self.failed.get(&candidate.index).map(|it| it.why.clone());
                    State::Off(self.objection(candidate).or_else(refused).unwrap_or_default())
                }
            };
            Interface { name: candidate.name.clone(), state, notes }
        });
        Report { interfaces: interfaces.collect() }
    }
}

/// Attaches in the driver after a self-test. Also: whether the driver can send frames that came in
/// elsewhere.
fn attach_native(
    program: &mut Program,
    netlink: &mut Netlink,
    candidate: &Candidate,
) -> Result<(XdpLink, bool), Unable> {
    let probe = program.probe();
    let id = probe.attach_to_if_index(candidate.index, XdpMode::Driver);
    let link = id.and_then(|id| probe.take_link(id)).map_err(|error| cause(&error))?;
    // A driver may be able to send only since it has a program. What leaves a veth goes by the same
    // way whether it turns round or comes from elsewhere, and its far end was asked about.
    let silent = matches!(firewall::sends_frames(candidate.index), Ok(Some(false)));
    let sends = candidate.kind == "veth" || !silent;
    if !leaves_room(program, netlink, candidate.index).map_err(|error| error.to_string())? {
        let why = "the driver leaves no room for longer headers".into();
        return Err(Unable { why, forever: true });
    }
    let xdp = program.xdp();
    let id = xdp.attach_to_link(link);
    let link = id.and_then(|id| xdp.take_link(id)).map_err(|error| cause(&error))?;
    Ok((link, sends))
}

fn attach_generic(program: &mut Program, candidate: &Candidate) -> Result<XdpLink, String> {
    if candidate.vlans {
        return Err("it carries VLANs, whose tags a generic program cannot tell apart".into());
    }
    let xdp = program.xdp();
    let id = xdp.attach_to_if_index(candidate.index, XdpMode::Skb);
    id.and_then(|id| xdp.take_link(id)).map_err(|error| cause(&error))
}

/// Has a neighbour answer while the self-test is attached. Where nobody answers in time nothing is
/// known, and the counter of datagrams without room will tell.
fn leaves_room(program: &mut Program, netlink: &mut Netlink, index: u32) -> io::Result<bool> {
    let _ = program.maps().take_probed();
    let mut asked = false;
    for neighbour in netlink.neighbours(index)?.into_iter().take(4) {
        asked |= netlink.probe_neighbour(index, neighbour).is_ok();
    }
    let until = Instant::now() + PROBE;
    while asked && Instant::now() < until {
        let counts = program.maps().take_probed().map_err(io::Error::other)?;
        if counts.seen > 0 {
            return Ok(counts.failed == 0);
        }
        // Whatever packet comes will do, and none of them tells us.
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

impl Failed {
    /// `before`: the same interface refused already in these circumstances.
    fn new(
        unable: Unable,
        circumstances: Circumstances,
        before: Option<&Failed>,
        at: Instant,
    ) -> Failed {
        let wait = before.and_then(|it| it.wait).map_or(AGAIN, |wait| (2 * wait).min(AGAIN_MOST));
        let wait = (!unable.forever).then_some(wait);
        Failed { why: unable.why, circumstances, at, wait }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.wait.is_some_and(|wait| now.saturating_duration_since(self.at) >= wait)
    }
}

impl<S: Into<String>> From<S> for Unable {
    fn from(why: S) -> Unable {
        Unable { why: why.into(), forever: false }
    }
}

fn forget_device(program: &Program, place: u32) {
    // A place that is empty already, or whose interface is gone.
    let _ = program.maps().devices.clear(place);
}

/// The kernel's own words, without the names of our library's layers.
fn cause(error: &ProgramError) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// At most three, so that a line stays a line.
fn list(found: &[String]) -> String {
    let shown = found[..found.len().min(3)].join(", ");
    match found.len().saturating_sub(3) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
