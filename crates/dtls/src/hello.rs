//! The first message of a client, as much of it as the cookie exchange needs, and our answer.
//!
//! Sources that have proven nothing get no further than this file: it is safe code that borrows the
//! datagram, allocates nothing and asks nothing of OpenSSL. What it accepts is at least as narrow as
//! what `DTLSv1_listen` accepts afterwards.

use crate::VERIFY_REQUEST_LEN;
use crate::record::{
    ANY_VERSION, HEADER_LEN as RECORD_HEADER_LEN, MAJOR_VERSION, number, sequence,
};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const RANDOM_LEN: usize = 32;
/// A handshake message's type, length, sequence number, fragment offset and fragment length.
const MESSAGE_HEADER_LEN: usize = 12;

/// Why a datagram of an unverified source got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Not the beginning of a DTLS association: garbage, or a record of one that is gone.
    NotHello,
    /// Says that it is a ClientHello, and is cut off or contradicts itself.
    Malformed,
    /// A later fragment of a ClientHello, or a first one that ends before the cookie does. To keep
    /// it for the others would be state; the cookie must be in the first.
    Fragment,
    /// Has a valid cookie, and OpenSSL does not begin a handshake with it.
    Refused,
}

impl Ignored {
    /// Every reason, in the order of the declaration.
    pub const ALL: [Self; 4] = [Self::NotHello, Self::Malformed, Self::Fragment, Self::Refused];

    /// A stable name for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotHello => "not_hello",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Refused => "refused",
        }
    }
}

/// Whether a datagram begins with a ClientHello in the clear.
///
/// On a five-tuple with an established session it may come from a client that has lost its state
/// and begins anew. Give it to [`Listener::judge`](crate::Listener::judge) rather than to the
/// session, and let the old session go only when the new one is established (RFC 6347 section
/// 4.2.8): anybody can send a ClientHello in the client's name, or a recorded one again.
pub fn opens_association(datagram: &[u8]) -> bool {
    matches!(datagram, [HANDSHAKE, MAJOR_VERSION, _, 0, 0, ..])
        && datagram.get(RECORD_HEADER_LEN) == Some(&CLIENT_HELLO)
}

/// The parts of a ClientHello (its first fragment) that a cookie covers, and the cookie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello<'a> {
    /// Of the record, 48 bits.
    pub(crate) sequence: u64,
    /// 0 for the first ClientHello, 1 for the one that answers a HelloVerifyRequest.
    pub(crate) message_sequence: u16,
    /// Version, random and session id, with its length.
    pub(crate) parameters: &'a [u8],
    /// Empty in the first ClientHello.
    pub(crate) cookie: &'a [u8],
}

/// Reads the first record of a datagram; what follows it is of no concern before the cookie is
/// verified.
pub(crate) fn parse(datagram: &[u8]) -> Result<Hello<'_>, Ignored> {
    if !opens_association(datagram) {
        return Err(Ignored::NotHello);
    }
    let (header, rest) = split(datagram, RECORD_HEADER_LEN)?;
    let (record, _) = split(rest, number(&header[11..13]))?;
    let (message, fragment) = split(record, MESSAGE_HEADER_LEN)?;
    let message_len = number(&message[1..4]);
    let message_sequence = u16::from_be_bytes([message[4], message[5]]);
    let fragment_offset = number(&message[6..9]);
    if fragment_offset != 0 {
        return Err(Ignored::Fragment);
    }
    // A client that was verified once continues with 1; it never gets further without a session.
    if number(&message[9..12]) != fragment.len()
        || fragment.len() > message_len
        || message_sequence > 1
    {
        return Err(Ignored::Malformed);
    }
    let cut = match fragment.len() == message_len {
        true => Ignored::Malformed,
        false => Ignored::Fragment,
    };
    let (parameters, cookie) = parameters(fragment).ok_or(cut)?;
    if parameters[0] != MAJOR_VERSION {
        return Err(Ignored::Malformed);
    }
    Ok(Hello { sequence: sequence(header), message_sequence, parameters, cookie })
}

/// Splits a ClientHello's body into version, random and session id, and the cookie.
fn parameters(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let session_at = 2 + RANDOM_LEN;
    let cookie_at = session_at + 1 + usize::from(*body.get(session_at)?);
    let cookie_len = usize::from(*body.get(cookie_at)?);
    let cookie = body.get(cookie_at + 1..)?.get(..cookie_len)?;
    Some((&body[..cookie_at], cookie))
}

/// The HelloVerifyRequest that answers a ClientHello whose record had this `sequence` number. It is
/// shorter than any ClientHello, so it amplifies nothing.
pub(crate) fn verify_request(sequence: u64, cookie: &[u8; 32]) -> [u8; VERIFY_REQUEST_LEN] {
    let body_len = (VERIFY_REQUEST_LEN - RECORD_HEADER_LEN - MESSAGE_HEADER_LEN) as u8;
    let mut datagram = [0; VERIFY_REQUEST_LEN];
    let (header, record) = datagram.split_at_mut(RECORD_HEADER_LEN);
    header[0] = HANDSHAKE;
    // What will be negotiated is another matter (RFC 6347 section 4.2.1).
    header[1..3].copy_from_slice(&ANY_VERSION);
    // The client's own number: without state there is no other that is certain to be new to it.
    header[5..11].copy_from_slice(&sequence.to_be_bytes()[2..]);
    header[12] = body_len + MESSAGE_HEADER_LEN as u8;
    record[0] = HELLO_VERIFY_REQUEST;
    // Length of the message, then of its only fragment; message number 0 and offset 0 between them.
    record[3] = body_len;
    record[11] = body_len;
    let body = &mut record[MESSAGE_HEADER_LEN..];
    body[..2].copy_from_slice(&ANY_VERSION);
    body[2] = cookie.len() as u8;
    body[3..].copy_from_slice(cookie);
    datagram
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Ignored> {
    bytes.split_at_checked(at).ok_or(Ignored::Malformed)
}

#[cfg(test)]
mod tests;
