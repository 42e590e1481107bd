//! Tickets: which allocation a client may resume, sealed so that only this process can make and
//! read one.
//!
//! A ticket is 32 printable characters, the base64 of `tag (12 bytes) ‖ sealed (12 bytes)`. What is
//! sealed is the session's number and the ticket's generation. The tag is a truncated HMAC-SHA256
//! of that, and begins the key stream that hides it, as in the SIV construction (RFC 5297): no
//! number has to be used once only. Whose allocation it is stands in no ticket: whoever brings one
//! must prove to be its user.
//!
//! Printable because coturn's client takes a ticket for a text, and no longer than 32 because it
//! has no more room.

use core::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const TAG_LEN: usize = 12;
const SESSION_LEN: usize = 8;
const PLAIN_LEN: usize = SESSION_LEN + 4;
const BINARY_LEN: usize = TAG_LEN + PLAIN_LEN;

/// Bytes of every ticket: far from what could make a message too long for any path.
//= rfc8016#section-3.1.2
//# The TURN server to support mobility must assume that the path MTU is unknown and use a ticket
//# length in accordance with the published guidance on STUN UDP fragmentation (Section 7.1 of
//# [RFC5389]).
pub const TICKET_LEN: usize = BINARY_LEN / 3 * 4;

/// Makes and reads the tickets of a process. All its shards share it.
pub struct Tickets {
    /// Keyed alike, and then apart by their first byte.
    mac: Hmac<Sha256>,
}

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The allocation's number.
    pub(crate) session: u64,
    /// Each resumption gives a ticket of the next one.
    pub(crate) generation: u32,
}

impl Tickets {
    /// Tickets sealed with a secret. One that is new with every process makes them meaningless to
    /// any other.
    //= rfc8016#section-5
    //# The TURN server MUST always ensure that the ticket is authenticated and encrypted using strong
    //# cryptographic algorithms to prevent modification or eavesdropping by an attacker.
    pub fn new(secret: [u8; 32]) -> Self {
        let secret = Zeroizing::new(secret);
        let mac = Hmac::new_from_slice(&*secret).expect("HMAC takes keys of any length");
        Self { mac }
    }

    pub(crate) fn seal(&self, ticket: Ticket) -> [u8; TICKET_LEN] {
        let mut plain = [0; PLAIN_LEN];
        plain[..SESSION_LEN].copy_from_slice(&ticket.session.to_be_bytes());
        plain[SESSION_LEN..].copy_from_slice(&ticket.generation.to_be_bytes());
        let tag = self.tag(&plain);
        let mut binary = [0; BINARY_LEN];
        binary[..TAG_LEN].copy_from_slice(&tag);
        binary[TAG_LEN..].copy_from_slice(&self.hide(&tag, plain));
        let mut out = [0; TICKET_LEN];
        STANDARD_NO_PAD.encode_slice(binary, &mut out).expect("the lengths are constants that fit");
        out
    }

    /// What a ticket says; `None` if it is none of ours.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Ticket> {
        if ticket.len() != TICKET_LEN {
            return None;
        }
        let mut binary = [0; BINARY_LEN];
        STANDARD_NO_PAD.decode_slice_unchecked(ticket, &mut binary).ok()?;
        let (tag, sealed) = binary.split_first_chunk::<TAG_LEN>()?;
        let plain = self.hide(tag, sealed.try_into().ok()?);
        let genuine: bool = self.tag(&plain).ct_eq(tag).into();
        let (session, generation) = plain.split_first_chunk::<SESSION_LEN>()?;
        genuine.then_some(Ticket {
            session: u64::from_be_bytes(*session),
            generation: u32::from_be_bytes(generation.try_into().ok()?),
        })
    }

    fn tag(&self, plain: &[u8; PLAIN_LEN]) -> [u8; TAG_LEN] {
        self.prf(b't', plain)
    }

    /// Hides what is shown, and shows what is hidden.
    fn hide(&self, tag: &[u8; TAG_LEN], bytes: [u8; PLAIN_LEN]) -> [u8; PLAIN_LEN] {
        let stream: [u8; PLAIN_LEN] = self.prf(b's', tag);
        core::array::from_fn(|at| bytes[at] ^ stream[at])
    }

    fn prf<const LEN: usize>(&self, purpose: u8, bytes: &[u8]) -> [u8; LEN] {
        let mut mac = self.mac.clone();
        mac.update(&[purpose]);
        mac.update(bytes);
        let tag = mac.finalize().into_bytes();
        core::array::from_fn(|at| tag[at])
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TICKET: Ticket = Ticket { session: 0x0003_0000_0000_0007, generation: 9 };

    #[test]
    fn a_ticket_says_what_was_put_into_it() {
        let tickets = Tickets::new([7; 32]);
        for (session, generation) in [(0, 0), (7, 1), (u64::MAX, u32::MAX)] {
            let ticket = Ticket { session, generation };
            assert_eq!(tickets.open(&tickets.seal(ticket)), Some(ticket));
        }
    }

    #[test]
    fn coturns_client_can_keep_it() {
        let ticket = Tickets::new([7; 32]).seal(TICKET);
        assert!(ticket.len() < 33 && ticket.iter().all(u8::is_ascii_graphic));
    }

    #[test]
    fn another_process_reads_nothing_in_it() {
        assert_eq!(Tickets::new([8; 32]).open(&Tickets::new([7; 32]).seal(TICKET)), None);
    }

    #[test]
    fn no_changed_bit_passes() {
        //= rfc8016#section-5
        //= type=test
        //# The TURN server MUST always ensure that the ticket is authenticated and encrypted using strong
        //# cryptographic algorithms to prevent modification or eavesdropping by an attacker.
        let tickets = Tickets::new([7; 32]);
        let sealed = tickets.seal(TICKET);
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed;
                changed[at] ^= 1 << bit;
                assert_eq!(tickets.open(&changed), None, "byte {at}, bit {bit}");
            }
        }
        for len in 0..sealed.len() {
            assert_eq!(tickets.open(&sealed[..len]), None);
        }
        assert_eq!(tickets.open(&[sealed.as_slice(), b"AAAA"].concat()), None);
    }

    #[test]
    fn tickets_show_nothing_and_have_nothing_in_common() {
        //= rfc8016#section-5
        //= type=test
        //# The ticket MUST be constructed such that it has strong entropy to ensure that nothing can be
        //# gleaned by looking at the ticket alone.
        let tickets = Tickets::new([7; 32]);
        let sealed = |session| {
            let mut binary = [0; BINARY_LEN];
            let ticket = tickets.seal(Ticket { session, generation: 0 });
            STANDARD_NO_PAD.decode_slice_unchecked(ticket, &mut binary).unwrap();
            binary
        };
        for at in 0..BINARY_LEN {
            let values: BTreeSet<u8> = (0..256).map(|session| sealed(session)[at]).collect();
            assert!(values.len() > 120, "byte {at} has {} values", values.len());
        }
        assert_eq!(format!("{tickets:?}"), "Tickets { .. }");
    }
}
