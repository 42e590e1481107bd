//! What bounds a server: every table, queue and rate of the rules, with its reason.
//!
//! Bounds that protect the process live here. What a *user* may use is a quota, not a limit.

/// The bounds one [`crate::Server`] keeps. All are per allocation or per server, none per user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Permissions one allocation may hold. Bounds the memory an authenticated client can take
    /// and the binary search a relayed datagram pays for. Over it: 508.
    pub permissions_per_allocation: usize,
    /// Channels one allocation may hold, at most 4096 (RFC 8656 has no more numbers). Over it: 508.
    pub channels_per_allocation: usize,
    /// Whether TCP allocations (RFC 6062) can be had.
    pub tcp_allocations: bool,
    /// Whether clients may go on with their allocations from another five-tuple (RFC 8016).
    pub mobility: bool,
    /// Connections to and from peers that one TCP allocation may have at a time: each takes a
    /// descriptor, and two once it is bound. Over it: 508, or the peer's is closed.
    pub connections_per_allocation: usize,
    /// Whether clients of RFC 5766 may bind its channel numbers above 0x4FFF (up to 0x7FFF). RFC
    /// 8656 took these away; clients from before it draw from them at random.
    pub old_channel_numbers: bool,
    /// The longest lifetime granted, in seconds; at least [`DEFAULT_LIFETIME_S`].
    pub max_lifetime_s: u32,
    /// ICMP errors relayed to one client per second: a peer can provoke them at will.
    pub icmp_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            permissions_per_allocation: 256,
            channels_per_allocation: 256,
            tcp_allocations: true,
            mobility: false,
            connections_per_allocation: 64,
            old_channel_numbers: true,
            max_lifetime_s: 3600,
            icmp_per_second: 10,
        }
    }
}

/// Seconds an allocation lives when the client does not ask for more.
//= rfc8656#section-7.2
//# Otherwise, the server uses the default lifetime.
pub const DEFAULT_LIFETIME_S: u32 = 600;

/// Seconds a permission lives.
//= rfc8656#section-9
//# The Permission Lifetime MUST be 300 seconds (= 5 minutes).
pub const PERMISSION_LIFETIME_S: u32 = 300;

/// Seconds a channel binding lives.
//= rfc8656#section-12
//# A channel binding lasts for 10 minutes unless refreshed.
pub const CHANNEL_LIFETIME_S: u32 = 600;

/// Seconds a reserved port is held for its token.
//= rfc8656#section-7.2
//# The server MUST hold this reservation for at least 30 seconds and MAY choose to hold longer
pub const RESERVATION_LIFETIME_S: u32 = 30;

/// Seconds a connection to a peer may take to be made.
//= rfc6062#section-5.2
//# The timeout value MUST be at least 30 seconds.
pub const CONNECT_TIMEOUT_S: u32 = 30;

/// Seconds a connection to or from a peer waits for its ConnectionBind (RFC 6062 sections 5.2 and
/// 5.3).
pub const CONNECTION_BIND_TIMEOUT_S: u32 = 30;

/// Seconds a client has to go on from where it said it would. One that says nothing for so long lets
/// its permissions run out, too; its newest ticket stays good.
pub const RESUME_TIMEOUT_S: u32 = PERMISSION_LIFETIME_S;

/// Seconds a retransmitted Refresh with an old ticket is answered as before.
pub const TICKET_RETAINED_S: u32 = 30;

/// Resumptions of one allocation per second: no network changes more often.
pub(crate) const RESUMES_PER_SECOND: u32 = 10;

/// Resumptions that are not finished, of one server: some 300 bytes each. Over it: 508.
pub(crate) const RESUMES_MAX: usize = 16_384;

/// Refused credentials logged per second and server: the causes matter, a flood of them does not.
pub(crate) const AUTH_RECORDS_PER_SECOND: u32 = 5;

/// The most bytes an unauthenticated answer may have in proportion to its request, both counted
/// with IP and UDP headers, so that a forged source address gains an attacker little.
pub(crate) const AMPLIFICATION_MAX: usize = 3;

/// The most bytes with which the shortest Allocate over IPv4 may be answered: it has a header and
/// REQUESTED-TRANSPORT, 28 bytes, and so have the IP and UDP headers.
pub(crate) const SHORTEST_ALLOCATE_ANSWER_MAX: usize = AMPLIFICATION_MAX * (28 + 28) - 28;
