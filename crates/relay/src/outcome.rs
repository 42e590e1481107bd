//! The one vocabulary of logs, metrics, tests and the admin API: what became of a datagram or a
//! request, and why.
//!
//! Every variant has a stable snake_case label. The label sets are small and fixed, so they are
//! fit for metrics.

/// Declares an enum whose variants have stable labels and a dense index.
macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every variant, in index order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many variants there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable label used in logs and metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// A dense index below [`Self::COUNT`].
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

vocabulary! {
    /// Why a datagram was dropped without an answer.
    Reason {
        /// Neither STUN nor ChannelData.
        NotTurn = "not_turn",
        /// A STUN message that breaks the format (RFC 8489 section 6.3).
        Malformed = "malformed",
        /// A STUN response or an indication that a server does not take.
        Unexpected = "unexpected",
        /// For a client that has gone and may come back (RFC 8016).
        ClientAway = "client_away",
        /// ChannelData or Send from a five-tuple without an allocation.
        NoAllocation = "no_allocation",
        /// A channel number that is not bound, or whose binding expired.
        NoChannel = "no_channel",
        /// ChannelData shorter than its length field says.
        BadChannelData = "bad_channel_data",
        /// No live permission for the peer.
        NoPermission = "no_permission",
        /// The peer policy forbids the address.
        PeerDenied = "peer_denied",
        /// The allocation has no relayed transport address of the peer's family.
        FamilyMismatch = "family_mismatch",
        /// The allocation's lifetime is over.
        Expired = "expired",
        /// TTL or Hop Limit is used up.
        TtlExceeded = "ttl_exceeded",
        /// A datagram too large to be wrapped for the client.
        TooLarge = "too_large",
        /// More unauthenticated requests from one source than the limit.
        RateLimited = "rate_limited",
        /// An ICMP error that is not relayed (no permission, type, or rate).
        IcmpIgnored = "icmp_ignored",
        /// A peer's connection beyond those that an allocation may have.
        TooManyConnections = "too_many_connections",
        /// Over the bandwidth of one allocation.
        AllocationBandwidth = "allocation_bandwidth",
        /// Over the bandwidth of the user.
        UserBandwidth = "user_bandwidth",
        /// Over the bandwidth of the realm.
        RealmBandwidth = "realm_bandwidth",
        /// Over the bandwidth of the server.
        TotalBandwidth = "total_bandwidth",
        /// The user's volume of the day or the month is used up.
        VolumeSpent = "volume_spent",
    }
}

vocabulary! {
    /// What became of a request.
    Outcome {
        /// Answered with success.
        Success = "success",
        /// 300: another server is to be asked instead.
        TryAlternate = "try_alternate",
        /// 400: the client broke a rule of the protocol.
        BadRequest = "bad_request",
        /// 401: no credentials, or wrong ones.
        Unauthenticated = "unauthenticated",
        /// 403: the peer policy forbids it.
        Forbidden = "forbidden",
        /// 405: no client goes on from another five-tuple here.
        MobilityForbidden = "mobility_forbidden",
        /// 420: an attribute that must be understood is not.
        UnknownAttribute = "unknown_attribute",
        /// 437: no allocation, or one too many, on this five-tuple.
        AllocationMismatch = "allocation_mismatch",
        /// 438: the nonce is too old, forged or another client's.
        StaleNonce = "stale_nonce",
        /// 440: no such relayed address family here.
        FamilyNotSupported = "family_not_supported",
        /// 441: another user's allocation.
        WrongCredentials = "wrong_credentials",
        /// 442: no such relayed transport.
        UnsupportedTransport = "unsupported_transport",
        /// 443: the peer's family differs from the relayed address's.
        FamilyMismatch = "family_mismatch",
        /// 446: there is a connection to the peer, or one is being made.
        ConnectionExists = "connection_exists",
        /// 447: the connection to the peer failed, or took too long.
        ConnectionFailed = "connection_failed",
        /// 486: the user's share is used up.
        QuotaReached = "quota_reached",
        /// 508: the server's capacity is used up, or it is draining.
        InsufficientCapacity = "insufficient_capacity",
    }
}

vocabulary! {
    /// The kinds of request a server answers.
    Request {
        /// Binding.
        Binding = "binding",
        /// Allocate.
        Allocate = "allocate",
        /// Refresh.
        Refresh = "refresh",
        /// CreatePermission.
        CreatePermission = "create_permission",
        /// ChannelBind.
        ChannelBind = "channel_bind",
        /// Connect (RFC 6062).
        Connect = "connect",
        /// ConnectionBind (RFC 6062).
        ConnectionBind = "connection_bind",
    }
}

vocabulary! {
    /// Why an allocation ended.
    EndReason {
        /// Its lifetime ran out.
        Expired = "expired",
        /// The client ended it (Refresh with LIFETIME 0).
        Deleted = "deleted",
        /// The client's connection closed.
        Disconnected = "disconnected",
        /// The server stopped.
        Shutdown = "shutdown",
        /// The operator ended it.
        Killed = "killed",
        /// Its user is no more.
        UserRemoved = "user_removed",
    }
}

vocabulary! {
    /// Why a connection to a peer ended, or was never made (RFC 6062).
    ConnectionEnd {
        /// The client or the peer closed it.
        Closed = "closed",
        /// The peer or the network refused it.
        Failed = "failed",
        /// The peer did not answer.
        TimedOut = "timed_out",
        /// No descriptor, port or memory for it.
        NoResources = "no_resources",
        /// No client bound it in time.
        Unbound = "unbound",
        /// Its allocation ended.
        AllocationEnded = "allocation_ended",
        /// A new peer policy forbids it.
        PeerDenied = "peer_denied",
        /// The user's volume is used up.
        VolumeSpent = "volume_spent",
    }
}

vocabulary! {
    /// The quotas that refuse an Allocate with 486.
    Quota {
        /// Allocations of the user.
        UserAllocations = "user_allocations",
        /// Allocations of the client's address prefix.
        PrefixAllocations = "prefix_allocations",
        /// Allocations of the realm.
        RealmAllocations = "realm_allocations",
        /// The user's volume of the day or the month.
        UserVolume = "user_volume",
    }
}

vocabulary! {
    /// The periods that volume is counted in.
    Period {
        /// A calendar day.
        Day = "day",
        /// A calendar month.
        Month = "month",
    }
}

/// Why credentials were refused, with what an operator needs to find the mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// No user of that name (or USERHASH).
    UnknownUser,
    /// The user exists; the key that signed the request is another.
    WrongKey,
    /// A time-limited user name whose time is over.
    Expired {
        /// Seconds since it ended.
        by_s: u64,
    },
    /// The name has the form of no kind of user that is configured.
    NotTimeLimited,
    /// An access token that the key of its identifier does not open, or that makes no sense.
    BadToken,
    /// An access token whose time has not come.
    NotYetValid {
        /// Seconds until then.
        in_s: u64,
    },
}

impl AuthFailure {
    /// The stable label used in logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownUser => "unknown_user",
            Self::WrongKey => "wrong_key",
            Self::Expired { .. } => "expired",
            Self::NotTimeLimited => "not_time_limited",
            Self::BadToken => "bad_token",
            Self::NotYetValid { .. } => "not_yet_valid",
        }
    }
}
