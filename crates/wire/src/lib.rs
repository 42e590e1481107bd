//! The STUN (RFC 8489) and TURN (RFC 8656) codec: bytes in, meaning out, and back.
//!
//! No clock, no socket, no heap. A received message is checked once and borrowed from the receive
//! buffer; a message to send is written into the caller's buffer.
//!
//! | Module | What is there |
//! |---|---|
//! | [`message`] | [`classify`] by first byte, [`Message::parse`], class, method, transaction id |
//! | [`builder`] | [`Builder`]: writes a message, its integrity and its fingerprint |
//! | [`attribute`] | the one table of attribute numbers, and a type for each attribute |
//! | [`address`] | transport addresses, plain and XOR-ed |
//! | [`channel`] | ChannelData, its padding, and the framing of streams |
//! | [`prefix`] | what precedes a relayed payload on its way to the client |
//! | [`integrity`] | long-term keys and MESSAGE-INTEGRITY with cached key state |
//! | [`code`] | error codes and their reason phrases |
//! | [`error`] | what can be wrong with a message, an attribute or a buffer |
//!
//! ```
//! use turnway_wire::{Builder, Class, Message, Method, TransactionId, XorMappedAddress};
//!
//! let mut out = [0; 64];
//! let tid = TransactionId([7; 12]);
//! let mut reply = Builder::new(&mut out, Class::Success, Method::BINDING, tid)?;
//! reply.add(&XorMappedAddress("192.0.2.1:40000".parse().unwrap()))?;
//! reply.fingerprint()?;
//! let len = reply.finish();
//!
//! let message = Message::parse(&out[..len]).unwrap();
//! let mapped = message.get::<XorMappedAddress>().unwrap().unwrap();
//! assert_eq!(mapped.0, "192.0.2.1:40000".parse().unwrap());
//! # Ok::<(), turnway_wire::BufferFull>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod attribute;
pub mod builder;
pub mod channel;
pub mod code;
pub mod error;
pub mod integrity;
pub mod message;
pub mod prefix;

pub use address::{
    AlternateServer, Family, MappedAddress, OtherAddress, ResponseOrigin, XorMappedAddress,
    XorPeerAddress, XorRelayedAddress,
};
pub use attribute::fixed::{
    AdditionalAddressFamily, CacheTimeout, ChangeRequest, ChannelNumber, ConnectionId,
    DontFragment, EvenPort, IceControlled, IceControlling, Icmp, Lifetime, Priority,
    RequestedAddressFamily, RequestedTransport, ReservationToken, ResponsePort, UseCandidate,
    UserHash,
};
pub use attribute::variable::{
    AccessToken, AddressErrorCode, AlternateDomain, Data, ErrorCode, MobilityTicket, Nonce, Origin,
    Padding, PasswordAlgorithmAttribute, PasswordAlgorithms, Realm, Software,
    ThirdPartyAuthorization, UnknownAttributes, Username,
};
pub use attribute::{Attribute, AttributeType, Encode};
pub use builder::Builder;
pub use channel::{
    CHANNEL_HEADER_LEN, CHANNEL_MAX, CHANNEL_MIN, ChannelData, Frame, OLD_CHANNEL_MAX,
    channel_header, frame, padding,
};
pub use error::{BufferFull, Malformed, ParseError};
pub use integrity::{IntegrityAlgorithm, IntegrityKey, LongTermKey, PasswordAlgorithm, user_hash};
pub use message::{
    Class, HEADER_LEN, Kind, MAGIC_COOKIE, Message, Method, TransactionId, classify,
};
pub use prefix::Prefix;
