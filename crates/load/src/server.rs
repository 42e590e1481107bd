//! What the kernel says of the server's process, where it runs on this machine.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::LoadError;

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all their threads in nanoseconds. Loopback delivers in the sender's time, so it
    /// has the kernel's work for what they sent.
    pub cpu_ns: u64,
    /// Times a thread went to sleep or was taken off its CPU.
    pub switches: u64,
}

impl Usage {
    /// Of all these processes together.
    ///
    /// # Errors
    ///
    /// Where one of them is not there.
    pub fn read(pids: &[u32]) -> Result<Self, LoadError> {
        let mut usage = Self::default();
        for &pid in pids {
            let missing = || LoadError::io(format!("there is no process {pid} (--server-pid)"));
            for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(missing())? {
                usage.add(task.map_err(missing())?.path());
            }
        }
        Ok(usage)
    }

    /// Adds a thread, unless it has just ended.
    fn add(&mut self, task: PathBuf) {
        let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
        let first = |text: &str| text.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        self.cpu_ns += first(&read("schedstat")).unwrap_or(0);
        let status = read("status");
        let switches = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
        self.switches += switches.filter_map(|(_, count)| first(count)).sum::<u64>();
    }

    /// What was used since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// What processes hold at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Memory of the whole kernel's slabs in bytes: sockets are there, and much else.
    pub kernel_slab: u64,
    /// UDP and TCP sockets in use on the whole machine.
    pub sockets: u64,
}

impl Held {
    /// By all these processes together.
    ///
    /// # Errors
    ///
    /// Where one of them is not there, or is somebody else's.
    pub fn read(pids: &[u32]) -> Result<Self, LoadError> {
        let mut held = Self { kernel_slab: kernel_slab(), sockets: sockets(), ..Self::default() };
        for &pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status
                .map_err(LoadError::io(format!("there is no process {pid} (--server-pid)")))?;
            held.resident += kibibytes(&status, "VmRSS:");
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
            let descriptors = descriptors.map_err(LoadError::io(format!(
                "cannot count the descriptors of process {pid}; run as the same user, or as root"
            )))?;
            held.descriptors += descriptors.count() as u64;
        }
        Ok(held)
    }
}

fn kernel_slab() -> u64 {
    kibibytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "Slab:")
}

fn sockets() -> u64 {
    ["/proc/net/sockstat", "/proc/net/sockstat6"]
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .flat_map(|text| text.lines().filter_map(in_use).collect::<Vec<_>>())
        .sum()
}

/// `UDP: inuse 5 mem 1` has 5.
fn in_use(line: &str) -> Option<u64> {
    let (protocol, rest) = line.split_once(": inuse ")?;
    let counted = ["UDP", "TCP", "UDP6", "TCP6"].contains(&protocol);
    rest.split(' ').next()?.parse().ok().filter(|_| counted)
}

/// The figure of a line such as `VmRSS:    1234 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    figure.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_uses_cpu_time_and_memory() {
        let pid = [std::process::id()];
        let (before, held) = (Usage::read(&pid).unwrap(), Held::read(&pid).unwrap());
        assert!(held.resident > 1 << 20 && held.descriptors >= 3 && held.kernel_slab > 1 << 20);
        let mut sum = 0_u64;
        while Usage::read(&pid).unwrap().since(&before).cpu_ns == 0 {
            sum = sum.wrapping_add(before.cpu_ns);
        }
        assert!(Usage::read(&pid).unwrap().switches >= before.switches, "{sum}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        let error = Usage::read(&[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("no process 4294967295"), "{error}");
    }

    #[test]
    fn sockets_in_use_are_those_of_udp_and_tcp() {
        assert_eq!(in_use("UDP: inuse 5 mem 1"), Some(5));
        assert_eq!(in_use("TCP6: inuse 17"), Some(17));
        assert_eq!(in_use("RAW: inuse 1"), None);
        assert_eq!(in_use("sockets: used 226"), None);
    }
}
