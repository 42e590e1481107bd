//! What the process may use of the machine: CPUs, descriptors, addresses; and its clock.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;

use crate::address::Family;
use crate::options::set;

/// Destinations that take the default route wherever there is one: a.root-servers.net. Addresses
/// for documentation would not do, since some hosts route those to nowhere.
const FAR_AWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
const FAR_AWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30);

/// Bytes of the smallest piece that [`separate_large_pieces`] is about: glibc's own first choice.
#[cfg(target_env = "gnu")]
const LARGE_PIECE: i32 = 128 << 10;

/// From `linux/in6.h`, unknown to libc.
const IPV6_ADDR_PREFERENCES: i32 = 72;
const IPV6_PREFER_SRC_PUBLIC: i32 = 2;

/// How many threads can run at once: the CPUs of the affinity mask, or fewer where a cgroup (v1 or
/// v2) has a quota. At least one.
pub fn usable_cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The numbers of the CPUs in this thread's affinity mask.
///
/// # Errors
///
/// Those of `sched_getaffinity`: `EINVAL` on a machine with more than 1,024 CPUs.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let mut set = empty_cpu_set();
    // SAFETY: `set` is writable and has the size stated; zero means this thread.
    let done = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    check(done)?;
    // SAFETY: each number is below the size of the set.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Lets this thread run on `cpu` only.
///
/// # Errors
///
/// `EINVAL` where there is no such CPU or it is not ours to use.
pub fn pin_thread(cpu: usize) -> io::Result<()> {
    let mut set = empty_cpu_set();
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the number is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is readable and has the size stated; zero means this thread.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// Raises the soft limit of open descriptors to the hard one and returns both as they are then.
///
/// # Errors
///
/// Those of `getrlimit` and `setrlimit`.
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is readable.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// The local address from which the default route of `family` is used; `None` without such a
/// route. Nothing is sent.
pub fn default_route_address(family: Family) -> Option<IpAddr> {
    let (any, far): (IpAddr, IpAddr) = match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), FAR_AWAY_V4.into()),
        Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), FAR_AWAY_V6.into()),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    if family == Family::V6 {
        // A server's address is not one of the temporary ones, which change every day. A kernel
        // without privacy extensions has no others.
        let _ = set(&socket, libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, IPV6_PREFER_SRC_PUBLIC);
    }
    socket.connect(SocketAddr::new(far, 53)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| is_of_use(*address))
}

/// Whether others could reach a socket at `address` without a scope: not so if the default route
/// is used from a link-local address, for want of a better one.
fn is_of_use(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback() && !address.is_unspecified()
}

/// Has large pieces of the heap taken from the system one by one and given back when they are
/// freed, and small ones merged at once with what is free beside them. Left to itself glibc comes
/// to keep pieces as large as those it has seen freed; and it merges many small ones in one go,
/// which takes a tenth of a second after the end of a million.
pub fn separate_large_pieces() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory of ours is involved. Values within bounds are not refused.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_PIECE);
        libc::mallopt(libc::M_MXFAST, 0);
    }
}

/// Gives back to the system what of the heap is free, between what is not. A thread that allocates
/// meanwhile may wait for it: some 50 ms for each GB of small pieces that were freed.
pub fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only free memory of the heap is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which never goes back.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable. It cannot fail: every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn empty_cpu_set() -> libc::cpu_set_t {
    // SAFETY: it consists of integers.
    unsafe { std::mem::zeroed() }
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
