//! Writing: a message goes straight into the buffer it is sent from.

use crate::attribute::Encode;
use crate::channel::padding;
use crate::integrity::{FINGERPRINT_LEN, IntegrityKey, fingerprint};
use crate::message::{ATTRIBUTE_HEADER_LEN, HEADER_LEN, MAGIC_COOKIE, message_type};
use crate::{AttributeType, BufferFull, Class, Method, TransactionId};

/// Writes one message into the caller's buffer.
///
/// After every call the buffer holds a complete message with a right length field. Order is the
/// caller's: ordinary attributes, then [`integrity`](Self::integrity), then
/// [`fingerprint`](Self::fingerprint). What is added after integrity, receivers ignore.
pub struct Builder<'b> {
    out: &'b mut [u8],
    len: usize,
    tid: TransactionId,
}

impl<'b> Builder<'b> {
    /// Starts a message in `out` with its 20-byte header.
    ///
    /// # Errors
    ///
    /// [`BufferFull`] if `out` is shorter than the header.
    #[inline]
    pub fn new(
        out: &'b mut [u8],
        class: Class,
        method: Method,
        tid: TransactionId,
    ) -> Result<Self, BufferFull> {
        let header = out.first_chunk_mut::<HEADER_LEN>().ok_or(BufferFull)?;
        header[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
        header[2..4].copy_from_slice(&[0, 0]);
        header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        header[8..].copy_from_slice(&tid.0);
        Ok(Self { out, len: HEADER_LEN, tid })
    }

    /// Appends an attribute and zeroes its padding.
    ///
    /// # Errors
    ///
    /// [`BufferFull`] if it does not fit, into the buffer or into a 16-bit length; the message
    /// then stays as it was.
    #[inline]
    pub fn add<A: Encode>(&mut self, attribute: &A) -> Result<(), BufferFull> {
        let tid = self.tid;
        self.append(A::TYPE, attribute.encoded_len(), |value, _| {
            attribute.encode(value, tid);
        })
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256, whichever the key is for.
    ///
    /// # Errors
    ///
    /// [`BufferFull`] as for [`add`](Self::add).
    #[inline]
    pub fn integrity(&mut self, key: &IntegrityKey) -> Result<(), BufferFull> {
        let algorithm = key.algorithm();
        //= rfc8489#section-14.5
        //# The Length field of the STUN message header is adjusted to point to
        //# the end of the MESSAGE-INTEGRITY attribute.
        self.append(algorithm.attribute(), algorithm.len(), |value, before| {
            key.sign(before, value);
        })
    }

    /// Appends FINGERPRINT; nothing may follow it.
    ///
    /// # Errors
    ///
    /// [`BufferFull`] as for [`add`](Self::add).
    #[inline]
    pub fn fingerprint(&mut self) -> Result<(), BufferFull> {
        //= rfc8489#section-14.7
        //# Therefore, prior to computation of the CRC, this
        //# value must be correct and include the CRC attribute as part of the
        //# message length.
        self.append(AttributeType::FINGERPRINT, FINGERPRINT_LEN, |value, before| {
            value.copy_from_slice(&fingerprint(before));
        })
    }

    /// Bytes written so far, the header included.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a message always has its header")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Ends the message: the number of bytes to send from the start of the buffer.
    #[inline]
    #[must_use]
    pub fn finish(self) -> usize {
        self.len
    }

    /// Appends one attribute of `len` bytes. The message length is set first, then `fill` writes
    /// the value, given also all that precedes the attribute.
    #[inline]
    fn append(
        &mut self,
        ty: AttributeType,
        len: usize,
        fill: impl FnOnce(&mut [u8], &[u8]),
    ) -> Result<(), BufferFull> {
        let value_len = u16::try_from(len).map_err(|_| BufferFull)?;
        let end = self.len + ATTRIBUTE_HEADER_LEN + len + padding(len);
        let message_len = u16::try_from(end - HEADER_LEN).map_err(|_| BufferFull)?;
        if end > self.out.len() {
            return Err(BufferFull);
        }
        self.out[2..4].copy_from_slice(&message_len.to_be_bytes());
        let (before, rest) = self.out.split_at_mut(self.len);
        let (header, rest) = rest.split_at_mut(ATTRIBUTE_HEADER_LEN);
        header[..2].copy_from_slice(&ty.0.to_be_bytes());
        header[2..].copy_from_slice(&value_len.to_be_bytes());
        let (value, rest) = rest.split_at_mut(len);
        fill(value, before);
        //= rfc8489#section-14
        //# The
        //# padding bits MUST be set to zero on sending and MUST be ignored by
        //# the receiver.
        rest[..padding(len)].fill(0);
        self.len = end;
        Ok(())
    }
}
