//! Two network namespaces with a cable between them: the generator's and the server's. Both ends
//! receive in kernel threads of their own (threaded NAPI), each pinned to its side's CPU, so that
//! receiving is charged to whom it belongs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};

use super::common::netns::{self, Namespace};
use super::common::{await_some, in_namespace};
use super::frames::{GENERATOR_MAC, SERVER_MAC};

/// The hosts of the cable's network: server; clients and peers, which share an interface.
pub(crate) const SERVER: u8 = 1;
/// See [`SERVER`].
pub(crate) const CLIENTS: u8 = 2;
/// See [`SERVER`].
pub(crate) const PEERS: u8 = 3;

/// The cable. Gone when dropped.
pub(crate) struct Cable {
    pub(crate) generator: Namespace,
    pub(crate) server: Namespace,
    /// The generator's end.
    pub(crate) near: String,
    /// The server's end.
    pub(crate) far: String,
    /// The CPU of everything that belongs to the server.
    pub(crate) server_cpu: usize,
    /// The CPU of generator and sink.
    pub(crate) generator_cpu: usize,
}

/// What the kernel counted at the server's side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Frames that the interface received.
    pub(crate) frames: u64,
    /// Datagrams that got to a socket.
    pub(crate) to_sockets: u64,
}

impl Cable {
    /// Lays a cable between the server's CPU and the generator's.
    pub(crate) fn new([server_cpu, generator_cpu]: [usize; 2]) -> Self {
        let (generator, server) = (Namespace::new("generator"), Namespace::new("relay"));
        let pid = std::process::id();
        let (near, far) = (format!("g{pid}"), format!("r{pid}"));
        let queues = "numtxqueues 1 numrxqueues 1";
        let (near_mac, far_mac) = (text(GENERATOR_MAC), text(SERVER_MAC));
        let peer = format!("peer name {far} address {far_mac} {queues} netns {}", server.name);
        generator.ip(&format!("link add {near} address {near_mac} {queues} type veth {peer}"));
        let cable = Self { generator, server, near, far, server_cpu, generator_cpu };
        cable.address(&cable.generator, &cable.near, &[CLIENTS, PEERS]);
        cable.address(&cable.server, &cable.far, &[SERVER]);
        // No neighbour is asked for while something is measured.
        cable.neighbour(&cable.generator, &cable.near, &far_mac, &[SERVER]);
        cable.neighbour(&cable.server, &cable.far, &near_mac, &[CLIENTS, PEERS]);
        // A native XDP program sees a datagram before a device would have filled in its checksum.
        ethtool(&cable.generator, &["-K", &cable.near, "tx", "off"]);
        for (namespace, device) in [(&cable.generator, &cable.near), (&cable.server, &cable.far)] {
            await_some("the carrier", || {
                (read(namespace, device, "operstate") == "up").then_some(())
            });
        }
        cable
    }

    fn address(&self, namespace: &Namespace, device: &str, hosts: &[u8]) {
        for &host in hosts {
            namespace.ip(&format!("address add {}/24 dev {device}", super::frames::address(host)));
        }
        namespace.ip(&format!("link set {device} up"));
        // With GRO a veth receives by NAPI, whether it has an XDP program or not.
        ethtool(namespace, &["-K", device, "gro", "on"]);
        let file = format!("/sys/class/net/{device}/threaded");
        let mut shell = in_namespace(Some(&namespace.name), "sh");
        check(shell.args(["-c", &format!("echo 1 > {file}")]));
    }

    fn neighbour(&self, namespace: &Namespace, device: &str, mac: &str, hosts: &[u8]) {
        for &host in hosts {
            let address = super::frames::address(host);
            let entry = format!("{address} lladdr {mac} dev {device} nud permanent");
            namespace.ip(&format!("neighbour replace {entry}"));
        }
    }

    /// Puts the receiving threads of both ends where they belong, and gives those of the server's.
    /// They go before all other work of their CPU, as the interrupts do for which they stand.
    pub(crate) fn pin(&self) -> Vec<u32> {
        let far = pin(&self.far, self.server_cpu);
        pin(&self.near, self.generator_cpu);
        far
    }

    /// The number of the generator's end in its namespace.
    pub(crate) fn near_index(&self) -> u32 {
        number(&read(&self.generator, &self.near, "ifindex"))
    }

    /// The number of the server's end in its namespace.
    pub(crate) fn far_index(&self) -> u32 {
        number(&read(&self.server, &self.far, "ifindex"))
    }

    /// What was counted so far.
    pub(crate) fn counted(&self) -> Counted {
        let mut command = in_namespace(Some(&self.server.name), "ethtool");
        let output = command.args(["-S", &self.far]).output().expect("ethtool");
        let statistics: HashMap<String, u64> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        let frames = statistics.get("rx_queue_0_xdp_packets").copied();
        let to_sockets = netns::enter(&self.server.name, || {
            let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("/proc");
            let figures = text.lines().filter(|line| line.starts_with("Udp:")).nth(1);
            figures.and_then(|line| line.split(' ').nth(1)?.parse().ok())
        });
        Counted {
            frames: frames.expect("veth counts frames"),
            to_sockets: to_sockets.expect("UDP counts datagrams"),
        }
    }
}

fn pin(device: &str, cpu: usize) -> Vec<u32> {
    let prefix = format!("napi/{device}-");
    let threads = await_some("the receiving threads", || {
        Some(named(&prefix)).filter(|threads| !threads.is_empty())
    });
    let mut only = CpuSet::new();
    only.set(cpu);
    for &thread in &threads {
        let pid = Pid::from_raw(thread as i32).expect("a process has a number");
        sched_setaffinity(Some(pid), &only).expect("root may pin kernel threads");
        check(Command::new("chrt").args(["--fifo", "--pid", "1", &thread.to_string()]));
    }
    threads
}

/// Kernel threads whose names begin so.
fn named(prefix: &str) -> Vec<u32> {
    let numbers = fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let comm =
        |pid: &u32| fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
    numbers.filter(|pid| comm(pid).is_ok_and(|name| name.starts_with(prefix))).collect()
}

fn number(index: &str) -> u32 {
    index.parse().expect("an interface has a number")
}

/// What the kernel says of an interface.
fn read(namespace: &Namespace, device: &str, file: &str) -> String {
    let mut command = in_namespace(Some(&namespace.name), "cat");
    let output = command.arg(format!("/sys/class/net/{device}/{file}")).output().expect("cat");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn ethtool(namespace: &Namespace, arguments: &[&str]) {
    check(in_namespace(Some(&namespace.name), "ethtool").args(arguments));
}

fn check(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
