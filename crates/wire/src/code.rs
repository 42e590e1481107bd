//! Error codes (ERROR-CODE, ADDRESS-ERROR-CODE) and the phrases the RFCs recommend for them.

/// RFC 8489 section 14.8: try the server in ALTERNATE-SERVER.
pub const TRY_ALTERNATE: u16 = 300;
/// RFC 8489 section 14.8: the request was malformed.
pub const BAD_REQUEST: u16 = 400;
/// RFC 8489 section 14.8: credentials are missing or wrong.
pub const UNAUTHENTICATED: u16 = 401;
/// RFC 8656 section 19: valid, but not allowed here.
pub const FORBIDDEN: u16 = 403;
/// RFC 8016 section 3.4: valid, but mobility is not allowed here.
pub const MOBILITY_FORBIDDEN: u16 = 405;
/// RFC 8489 section 14.8: a comprehension-required attribute was not understood.
pub const UNKNOWN_ATTRIBUTE: u16 = 420;
/// RFC 8656 section 19: an allocation is missing, or is there and must not be.
pub const ALLOCATION_MISMATCH: u16 = 437;
/// RFC 8489 section 14.8: the nonce is no longer valid.
pub const STALE_NONCE: u16 = 438;
/// RFC 8656 section 19: the address family is not offered.
pub const ADDRESS_FAMILY_NOT_SUPPORTED: u16 = 440;
/// RFC 8656 section 19: not the credentials that created the allocation.
pub const WRONG_CREDENTIALS: u16 = 441;
/// RFC 8656 section 19: the transport towards peers is not offered.
pub const UNSUPPORTED_TRANSPORT: u16 = 442;
/// RFC 8656 section 19: the peer's family is not the relayed transport address's.
pub const PEER_ADDRESS_FAMILY_MISMATCH: u16 = 443;
/// RFC 6062 section 6.3: there is a connection to this peer already.
pub const CONNECTION_ALREADY_EXISTS: u16 = 446;
/// RFC 6062 section 6.3: the connection to the peer timed out or failed.
pub const CONNECTION_TIMEOUT: u16 = 447;
/// RFC 8656 section 19: this user has no more allocations to create.
pub const ALLOCATION_QUOTA_REACHED: u16 = 486;
/// RFC 8489 section 14.8: a temporary error of the server.
pub const SERVER_ERROR: u16 = 500;
/// RFC 8656 section 19: some capacity limit of the server is reached.
pub const INSUFFICIENT_CAPACITY: u16 = 508;

/// The reason phrase that the RFCs recommend for `code`; empty for a code they do not define.
#[must_use]
pub fn reason(code: u16) -> &'static str {
    match code {
        TRY_ALTERNATE => "Try Alternate",
        BAD_REQUEST => "Bad Request",
        UNAUTHENTICATED => "Unauthenticated",
        FORBIDDEN => "Forbidden",
        MOBILITY_FORBIDDEN => "Mobility Forbidden",
        UNKNOWN_ATTRIBUTE => "Unknown Attribute",
        ALLOCATION_MISMATCH => "Allocation Mismatch",
        STALE_NONCE => "Stale Nonce",
        ADDRESS_FAMILY_NOT_SUPPORTED => "Address Family not Supported",
        WRONG_CREDENTIALS => "Wrong Credentials",
        UNSUPPORTED_TRANSPORT => "Unsupported Transport Protocol",
        PEER_ADDRESS_FAMILY_MISMATCH => "Peer Address Family Mismatch",
        CONNECTION_ALREADY_EXISTS => "Connection Already Exists",
        CONNECTION_TIMEOUT => "Connection Timeout or Failure",
        ALLOCATION_QUOTA_REACHED => "Allocation Quota Reached",
        SERVER_ERROR => "Server Error",
        INSUFFICIENT_CAPACITY => "Insufficient Capacity",
        _ => "",
    }
}
