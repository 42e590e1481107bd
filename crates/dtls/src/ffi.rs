//! What the `openssl` crate does not bind, and all `unsafe` code of this crate.
//!
//! [`Stream`] is OpenSSL's connection over a [`Wire`]: buffers that are lent for one call at a time,
//! so that a session owns no buffer of ours and no datagram is copied more often than OpenSSL does.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::ptr::{self, NonNull};
use std::time::Duration;

use foreign_types::ForeignTypeRef;
use libc::{c_int, c_long};
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContextBuilder, SslRef, SslStream};
use openssl::x509::X509Ref;

use crate::record;

/// Takes one outgoing datagram at a time.
pub(crate) type Outgoing<'a> = dyn FnMut(&[u8]) + 'a;

/// `DTLS_CTRL_GET_TIMEOUT` of OpenSSL's `ssl.h`.
const GET_TIMEOUT: c_int = 73;
/// `DTLS_CTRL_HANDLE_TIMEOUT` of OpenSSL's `ssl.h`.
const HANDLE_TIMEOUT: c_int = 74;
/// `SSL_CTRL_SET_MAX_CERT_LIST` of OpenSSL's `ssl.h`.
const SET_MAX_CERT_LIST: c_int = 51;

unsafe extern "C" {
    fn DTLSv1_listen(ssl: *mut openssl_sys::SSL, client: *mut openssl_sys::BIO_ADDR) -> c_int;
    fn SSL_has_pending(ssl: *const openssl_sys::SSL) -> c_int;
    fn BIO_ADDR_new() -> *mut openssl_sys::BIO_ADDR;
    fn BIO_ADDR_free(address: *mut openssl_sys::BIO_ADDR);
}

/// OpenSSL's connection, and the borrowed buffers it reads and writes.
pub(crate) struct Stream(SslStream<Wire>);

impl Stream {
    /// `sequence_shift` is added to the sequence number of every record that is sent in the clear.
    pub(crate) fn new(ssl: Ssl, sequence_shift: u64) -> Result<Self, ErrorStack> {
        let wire = Wire { incoming: None, outgoing: None, sequence_shift };
        SslStream::new(ssl, wire).map(Self)
    }

    pub(crate) fn ssl(&self) -> &SslRef {
        self.0.ssl()
    }

    /// Runs `work`, in which OpenSSL reads `datagram` (once; nothing when it is empty) and writes
    /// to `outgoing`.
    pub(crate) fn lend<R>(
        &mut self,
        datagram: &[u8],
        outgoing: &mut Outgoing<'_>,
        work: impl FnOnce(&mut SslStream<Wire>) -> R,
    ) -> R {
        // SAFETY: only the lifetime is changed. `Lent` takes the pointer back before this function
        // returns or unwinds, so nothing can follow it after the borrow has ended.
        let outgoing: NonNull<Outgoing<'static>> =
            unsafe { std::mem::transmute(NonNull::from(outgoing)) };
        let wire = self.0.get_mut();
        wire.incoming = (!datagram.is_empty()).then(|| NonNull::from(datagram));
        wire.outgoing = Some(outgoing);
        // SAFETY: empties this thread's queue of errors, and borrows nothing. What is left there
        // would be taken for an error of this call.
        unsafe { openssl_sys::ERR_clear_error() };
        let lent = Lent(&mut self.0);
        work(lent.0)
    }

    /// Puts a new connection into the state after the cookie exchange, with `hello`, whose cookie
    /// was verified, waiting to be processed. `false`: OpenSSL does not take this ClientHello.
    pub(crate) fn listen(&mut self, hello: &[u8]) -> bool {
        // SAFETY: takes nothing; null when out of memory.
        let address = unsafe { BIO_ADDR_new() };
        if address.is_null() {
            return false;
        }
        let listened = self.lend(hello, &mut |_| (), |stream| {
            // SAFETY: the connection is borrowed exclusively, `address` is ours: OpenSSL insists on
            // a place to write the client's address to, although our wire knows none.
            unsafe { DTLSv1_listen(stream.ssl().as_ptr(), address) }
        });
        // SAFETY: made above, freed once, and not used again.
        unsafe { BIO_ADDR_free(address) };
        listened == 1
    }

    /// Whether there is more of what was received: records, decrypted or not.
    pub(crate) fn has_pending(&self) -> bool {
        // SAFETY: only looks at the connection.
        unsafe { SSL_has_pending(self.ssl().as_ptr()) != 0 }
    }

    /// How long until OpenSSL wants to retransmit by its own clock; `None` when nothing is pending.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        let mut left = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: this control writes one timeval where the last argument points, and nothing else.
        let running = unsafe {
            openssl_sys::SSL_ctrl(
                self.ssl().as_ptr(),
                GET_TIMEOUT,
                0,
                ptr::from_mut(&mut left).cast(),
            )
        };
        let left = Duration::from_secs(left.tv_sec.try_into().unwrap_or(0))
            + Duration::from_micros(left.tv_usec.try_into().unwrap_or(0));
        (running == 1).then_some(left)
    }

    /// Retransmits the last flight if it is time. `false`: OpenSSL has given up.
    pub(crate) fn handle_timeout(&mut self, outgoing: &mut Outgoing<'_>) -> bool {
        self.lend(&[], outgoing, |stream| {
            // SAFETY: this control takes no argument; the connection is borrowed exclusively.
            let done = unsafe {
                openssl_sys::SSL_ctrl(stream.ssl().as_ptr(), HANDLE_TIMEOUT, 0, ptr::null_mut())
            };
            done >= 0
        })
    }
}

/// The most bytes of certificates that a client may send.
pub(crate) fn limit_client_certificates(builder: &mut SslContextBuilder, bytes: u16) {
    // SAFETY: this control takes a number and no pointer; the builder is borrowed exclusively.
    unsafe {
        openssl_sys::SSL_CTX_ctrl(
            builder.as_ptr(),
            SET_MAX_CERT_LIST,
            c_long::from(bytes),
            ptr::null_mut(),
        );
    }
}

/// Adds a certificate to the chain of the certificate that was set last. (`add_extra_chain_cert` adds
/// it to the chains of all: an RSA and an ECDSA certificate would each show the other's issuers.)
pub(crate) fn add_chain_certificate(
    builder: &mut SslContextBuilder,
    certificate: &X509Ref,
) -> Result<(), ErrorStack> {
    // The 1 has OpenSSL take a reference of its own.
    // SAFETY: the builder is borrowed exclusively, the certificate stays valid through the
    // reference that is taken, and is not written to.
    let added = unsafe {
        openssl_sys::SSL_CTX_ctrl(
            builder.as_ptr(),
            openssl_sys::SSL_CTRL_CHAIN_CERT,
            1,
            certificate.as_ptr().cast(),
        )
    };
    match added {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// Has OpenSSL choose Diffie-Hellman parameters as strong as the certificate's key.
pub(crate) fn choose_dh_parameters(builder: &mut SslContextBuilder) {
    // SAFETY: sets a flag of the context; the builder is borrowed exclusively.
    unsafe { openssl_sys::SSL_CTX_set_dh_auto(builder.as_ptr(), 1) };
}

/// Takes the borrowed buffers back, however the call ends.
struct Lent<'a>(&'a mut SslStream<Wire>);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let wire = self.0.get_mut();
        wire.incoming = None;
        wire.outgoing = None;
    }
}

/// What OpenSSL takes for a datagram socket. Both pointers are set during [`Stream::lend`] only.
pub(crate) struct Wire {
    incoming: Option<NonNull<[u8]>>,
    outgoing: Option<NonNull<Outgoing<'static>>>,
    sequence_shift: u64,
}

// SAFETY: the pointers are there only within `Stream::lend`, which stays on one thread. Between its
// calls, when a session can move to another thread, both are `None`.
unsafe impl Send for Wire {}

impl Read for Wire {
    /// One datagram, like `recv`: what does not fit is lost.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(incoming) = self.incoming.take() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        // SAFETY: `lend` made it of a slice that is borrowed until `lend` returns.
        let datagram = unsafe { incoming.as_ref() };
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        let Some(mut outgoing) = self.outgoing else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        // SAFETY: `lend` made it of a closure that is borrowed exclusively until `lend` returns, and
        // OpenSSL, which calls this, does not call it from within itself.
        let outgoing = unsafe { outgoing.as_mut() };
        if self.sequence_shift == 0 {
            outgoing(datagram);
        } else {
            let mut shifted = datagram.to_vec();
            record::shift_plain(&mut shifted, self.sequence_shift);
            outgoing(&shifted);
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
