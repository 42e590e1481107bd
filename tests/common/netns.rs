//! Network namespaces made by a test: its own machines and cables, gone when it ends.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::PATIENCE;

/// A network namespace. Removed when dropped, also by a panic.
pub struct Namespace {
    /// As `ip netns` knows it.
    pub name: String,
}

impl Namespace {
    /// An empty one with its loopback interface up.
    pub fn new(what: &str) -> Self {
        let name = format!("tw-{what}-{}", unique());
        ip(&["netns", "add", &name]);
        let made = Self { name };
        made.ip("link set lo up");
        made
    }

    /// Runs an `ip` command inside.
    pub fn ip(&self, command: &str) {
        let mut words = vec!["-n", &self.name];
        words.extend(command.split(' '));
        ip(&words);
    }

    /// Lays a cable to another namespace. Each end is called `name` inside, and has `addresses`
    /// with their prefix lengths.
    pub fn connect(&self, other: &Self, name: &str, addresses: &[&str], others: &[&str]) {
        let [here, there] = [(); 2].map(|()| format!("tw{}", unique()));
        ip(&["link", "add", &here, "type", "veth", "peer", "name", &there]);
        for (namespace, end, addresses) in [(self, &here, addresses), (other, &there, others)] {
            ip(&["link", "set", end, "netns", &namespace.name, "name", name]);
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                namespace.ip(&format!("address add {address} dev {name}{nodad}"));
            }
            namespace.ip(&format!("link set {name} up"));
        }
    }

    /// Runs something on a thread inside. Sockets made there stay in this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.name, work)
    }

    /// A UDP socket inside.
    pub fn udp(&self, address: SocketAddr) -> UdpSocket {
        self.enter(|| UdpSocket::bind(address)).expect("binds")
    }

    /// A UDP socket on any port of an address inside.
    pub fn udp_on(&self, ip: &str) -> UdpSocket {
        let ip: IpAddr = ip.parse().expect("an address");
        self.udp(SocketAddr::new(ip, 0))
    }

    /// A TCP connection from inside.
    pub fn tcp(&self, server: SocketAddr) -> TcpStream {
        self.enter(|| TcpStream::connect_timeout(&server, PATIENCE)).expect("connects")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "delete", &self.name]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("the network namespace {} could not be removed", self.name);
        }
    }
}

/// Runs something on a thread in the named namespace.
pub fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{name}")).expect("a network namespace");
    let inside = || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter");
        work()
    };
    let done = thread::scope(|scope| scope.spawn(inside).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// No two namespaces or interfaces of a machine have the same name, nor more than 15 letters.
fn unique() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("`ip` of iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
}
