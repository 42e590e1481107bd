//! Records as they are on the wire, before OpenSSL sees them and after it has written them.

/// A record's type, version, epoch, sequence number and length.
pub(crate) const HEADER_LEN: usize = 13;
/// All versions of DTLS begin with it.
pub(crate) const MAJOR_VERSION: u8 = 254;
/// DTLS 1.0: what the two sides write before they have agreed upon a version.
pub(crate) const ANY_VERSION: [u8; 2] = [MAJOR_VERSION, 255];
/// DTLS 1.2.
pub(crate) const VERSION: [u8; 2] = [MAJOR_VERSION, 253];

/// The longest contents of a record: plaintext, explicit nonce and tag.
const CONTENTS_MAX: usize = 16_384 + 8 + 16;
/// Record sequence numbers have 48 bits.
const SEQUENCE_MASK: u64 = (1 << 48) - 1;

/// The number of encrypted records (those of an epoch after the first) in a datagram, or `None`
/// when the datagram is not a sequence of whole records of `versions`, or has an encrypted one with
/// less than `sealed_min` bytes. No peer sends that, so nothing is lost with it.
///
/// OpenSSL must not see such a datagram. It takes an encrypted record with no room for nonce and tag
/// for an error of its own and ends the association, whoever sent it (openssl/openssl#25290). And
/// after a record of another version it looks for the next in the middle of this one, where we
/// would not find it.
pub(crate) fn sealed(datagram: &[u8], versions: &[[u8; 2]], sealed_min: usize) -> Option<usize> {
    let mut rest = datagram;
    let mut sealed = 0;
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(HEADER_LEN)?;
        let (contents, after) = after.split_at_checked(number(&header[11..13]))?;
        let is_sealed = header[3..5] != [0, 0];
        let known = versions.iter().any(|version| header[1..3] == version[..]);
        if !known || contents.len() > CONTENTS_MAX || is_sealed && contents.len() < sealed_min {
            return None;
        }
        sealed += usize::from(is_sealed);
        rest = after;
    }
    Some(sealed)
}

/// Adds `by` to the sequence number of each record of epoch 0.
///
/// RFC 6347 section 4.2.1 has the server continue with the number of the ClientHello it accepted.
/// OpenSSL always continues with 1, which a client that had to repeat its first ClientHello has
/// already seen in a HelloVerifyRequest: it would drop the ServerHello as a replay. Nothing
/// protects these numbers before the keys are there, so they can be set right on the way out.
pub(crate) fn shift_plain(datagram: &mut [u8], by: u64) {
    let mut rest = datagram;
    while let Some((header, after)) = rest.split_at_mut_checked(HEADER_LEN) {
        if header[3..5] == [0, 0] {
            let shifted = sequence(header).wrapping_add(by) & SEQUENCE_MASK;
            header[5..11].copy_from_slice(&shifted.to_be_bytes()[2..]);
        }
        let len = number(&header[11..13]).min(after.len());
        rest = &mut after[len..];
    }
}

/// A record's 48-bit sequence number.
pub(crate) fn sequence(header: &[u8]) -> u64 {
    header[5..11].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// A big-endian number of up to three bytes.
pub(crate) fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: [u8; 14] = [20, 254, 253, 0, 0, 0, 0, 0, 0, 0, 255, 0, 1, 1];
    const SEALED: [u8; 15] = [22, 254, 253, 0, 1, 0, 0, 0, 0, 0, 255, 0, 2, 8, 9];

    #[test]
    fn only_records_in_the_clear_are_shifted() {
        let mut datagram = [&PLAIN[..], &SEALED, &PLAIN].concat();
        shift_plain(&mut datagram, 2);
        assert_eq!(datagram[5..11], [0, 0, 0, 0, 1, 1]);
        assert_eq!(datagram[14..29], SEALED);
        assert_eq!(datagram[29 + 5..29 + 11], [0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn sealed_records_are_counted_if_all_are_whole_and_long_enough() {
        let datagram = [&PLAIN[..], &SEALED, &PLAIN, &SEALED].concat();
        assert_eq!(sealed(&datagram, &[VERSION], 2), Some(2));
        assert_eq!(sealed(&datagram, &[VERSION], 3), None);
        assert_eq!(sealed(&datagram, &[ANY_VERSION], 2), None);
        assert_eq!(sealed(&datagram, &[ANY_VERSION, VERSION], 2), Some(2));
        assert_eq!(sealed(&datagram[..57], &[VERSION], 2), None);
        assert_eq!(sealed(&[&datagram[..], &[0]].concat(), &[VERSION], 2), None);
        assert_eq!(sealed(b"", &[VERSION], 2), Some(0));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut datagram in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = sealed(&datagram, &[VERSION], 24);
            shift_plain(&mut datagram, u64::MAX);
        }
    }
}
