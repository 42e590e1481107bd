//! Many transactions at once, one for each client: windows, retransmissions, challenges.
//!
//! Time is an argument, and what is to be sent is a list for the caller: [`Transactions::outbox`].

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use turnway_wire::{Message, TransactionId};

use crate::LoadError;
use crate::histogram::Histogram;
use crate::tally::Latency;
use crate::turn::{Account, Answer, Ask, Credentials};

/// The retransmission timeout of the first request in nanoseconds (RFC 8489 section 6.2.1): it
/// doubles each time, the seventh request is the last.
const RTO_NS: u64 = 500_000_000;
const SENDS_MAX: u32 = 7;
/// How many RTOs the last request waits for its answer.
const LAST_WAIT: u64 = 16;
/// How long a request over a reliable transport waits: Ti.
const RELIABLE_NS: u64 = 39_500_000_000;

/// A nonce that is stale again and again is the server's fault, not the clock's.
const CHALLENGES_MAX: u32 = 4;

/// A client as far as transactions go.
#[derive(Default)]
struct Session {
    nonce: Vec<u8>,
    relayed: Option<SocketAddr>,
    /// An Allocate was given up whose answer may have been on its way.
    uncertain: bool,
    pending: Option<Pending>,
}

struct Pending {
    ask: Ask,
    id: TransactionId,
    bytes: Vec<u8>,
    begun_ns: u64,
    resend_ns: u64,
    sends: u32,
    challenges: u32,
}

/// All clients' transactions.
pub struct Transactions {
    server: SocketAddr,
    reliable: bool,
    account: Account,
    run: u32,
    count: u64,
    sessions: Vec<Session>,
    /// Clients with a transaction under way.
    in_flight: Vec<u32>,
    outbox: Vec<u32>,
    /// From the first request to the answer that ended it.
    latency: Histogram,
    done: u64,
    retransmitted: u64,
}

/// What so many transactions of one kind took.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseReport {
    /// Transactions; each includes the request that was answered with a challenge, if one was.
    pub count: u64,
    /// From the first to the last, in seconds.
    pub seconds: f64,
    /// Transactions a second.
    pub per_second: f64,
    /// Microseconds from the first request to the last answer.
    pub latency_us: Latency,
    /// Requests sent again because no answer came in time.
    pub retransmitted: u64,
    /// CPU time of the server for each, in microseconds.
    pub server_cpu_us: Option<f64>,
}

impl Transactions {
    /// No transaction of `clients` clients of `server`. A `reliable` transport needs no
    /// retransmissions.
    ///
    /// # Errors
    ///
    /// A name that no request has room for.
    pub fn new(
        server: SocketAddr,
        reliable: bool,
        credentials: Credentials,
        run: u32,
        clients: usize,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            server,
            reliable,
            account: Account::new(credentials)?,
            run,
            count: 0,
            sessions: (0..clients).map(|_| Session::default()).collect(),
            in_flight: Vec::new(),
            outbox: Vec::new(),
            latency: Histogram::default(),
            done: 0,
            retransmitted: 0,
        })
    }

    /// How many are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.in_flight.len()
    }

    /// How many have ended since the last [`Self::report`].
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The relayed transport address of a client that has one.
    #[must_use]
    pub fn relayed(&self, client: usize) -> Option<SocketAddr> {
        self.sessions[client].relayed
    }

    /// Gives up what is under way.
    pub fn forget(&mut self) {
        self.in_flight.clear();
        self.outbox.clear();
        for session in &mut self.sessions {
            let given_up = session.pending.take();
            session.uncertain |=
                given_up.is_some_and(|pending| matches!(pending.ask, Ask::Allocate(_)));
        }
    }

    /// Begins a client's transaction, unless it has one under way, or would end an allocation that
    /// it cannot have.
    pub fn begin(&mut self, client: usize, ask: Ask, now_ns: u64) {
        let id = self.next_id(client);
        let session = &mut self.sessions[client];
        let has_none = session.relayed.is_none() && !session.uncertain;
        if session.pending.is_some() || (ask == Ask::Delete && has_none) {
            return;
        }
        let bytes = self.account.request(ask, id, &session.nonce);
        let resend_ns = now_ns + if self.reliable { RELIABLE_NS } else { RTO_NS };
        let (sends, challenges) = (1, 0);
        session.pending =
            Some(Pending { ask, id, bytes, begun_ns: now_ns, resend_ns, sends, challenges });
        self.in_flight.push(client as u32);
        self.outbox.push(client as u32);
    }

    /// Takes in what a client received. What is no answer to its request is ignored.
    ///
    /// # Errors
    ///
    /// What the server refused.
    pub fn receive(&mut self, client: usize, bytes: &[u8], now_ns: u64) -> Result<(), LoadError> {
        let next_id = self.next_id(client);
        let session = &mut self.sessions[client];
        let Some(pending) = &mut session.pending else { return Ok(()) };
        let Ok(message) = Message::parse(bytes) else { return Ok(()) };
        if message.transaction_id() != pending.id {
            return Ok(());
        }
        let signed = !session.nonce.is_empty();
        match self.account.read(&message, pending.ask, signed) {
            Answer::Granted(relayed) => {
                session.uncertain = false;
                session.relayed = match pending.ask {
                    Ask::Delete => None,
                    Ask::Binding
                    | Ask::Allocate(_)
                    | Ask::Permit(_)
                    | Ask::Bind(_)
                    | Ask::Refresh(_) => relayed.or(session.relayed),
                };
                self.latency.add(now_ns.saturating_sub(pending.begun_ns));
                session.pending = None;
                self.in_flight.retain(|&other| other as usize != client);
                self.done += 1;
                Ok(())
            }
            Answer::Challenged(nonce) => {
                pending.challenges += 1;
                if pending.challenges > CHALLENGES_MAX {
                    return Err(LoadError::BadAnswer("a nonce that is stale at once"));
                }
                session.nonce = nonce;
                pending.id = next_id;
                pending.bytes = self.account.request(pending.ask, next_id, &session.nonce);
                pending.sends = 1;
                pending.resend_ns = now_ns + if self.reliable { RELIABLE_NS } else { RTO_NS };
                self.outbox.push(client as u32);
                Ok(())
            }
            Answer::Refused(error) => {
                if pending.ask == Ask::Delete {
                    // It is not asked again: as a rule there is nothing left to be ended.
                    (session.relayed, session.uncertain) = (None, false);
                }
                Err(error)
            }
        }
    }

    /// Sends again what was not answered in time.
    ///
    /// # Errors
    ///
    /// [`LoadError::NoAnswer`] where it has been sent often enough.
    pub fn expire(&mut self, now_ns: u64) -> Result<(), LoadError> {
        for &client in &self.in_flight {
            let pending = self.sessions[client as usize].pending.as_mut();
            let Some(pending) = pending.filter(|pending| pending.resend_ns <= now_ns) else {
                continue;
            };
            if self.reliable || pending.sends == SENDS_MAX {
                return Err(LoadError::NoAnswer(self.server));
            }
            pending.sends += 1;
            pending.resend_ns = now_ns
                + if pending.sends == SENDS_MAX {
                    LAST_WAIT * RTO_NS
                } else {
                    RTO_NS << (pending.sends - 1)
                };
            self.retransmitted += 1;
            self.outbox.push(client);
        }
        Ok(())
    }

    /// Hands over what is to be sent, client by client.
    ///
    /// # Errors
    ///
    /// The first one of `send`; the rest is not sent.
    pub fn outbox<E>(
        &mut self,
        mut send: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for client in self.outbox.drain(..) {
            if let Some(pending) = &self.sessions[client as usize].pending {
                send(client as usize, &pending.bytes)?;
            }
        }
        Ok(())
    }

    /// What has ended since the last report, which took so long. Counts from zero again.
    pub fn report(&mut self, took: Duration) -> PhaseReport {
        let (count, seconds) = (std::mem::take(&mut self.done), took.as_secs_f64());
        let latency = std::mem::take(&mut self.latency);
        PhaseReport {
            count,
            seconds,
            per_second: count as f64 / seconds.max(1e-9),
            latency_us: Latency::of(&latency),
            retransmitted: std::mem::take(&mut self.retransmitted),
            server_cpu_us: None,
        }
    }

    fn next_id(&mut self, client: usize) -> TransactionId {
        self.count += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.run.to_be_bytes());
        id[4..7].copy_from_slice(&(client as u32).to_be_bytes()[1..]);
        id[7..].copy_from_slice(&self.count.to_be_bytes()[3..]);
        TransactionId(id)
    }
}

#[cfg(test)]
mod tests {
    use turnway_wire::{Builder, Class, ErrorCode, XorRelayedAddress, code};
    use zeroize::Zeroizing;

    use super::*;

    fn asked(transactions: &mut Transactions) -> Option<TransactionId> {
        let mut id = None;
        let sent = transactions.outbox(|_, bytes| {
            id = Some(Message::parse(bytes).unwrap().transaction_id());
            Ok::<_, std::convert::Infallible>(())
        });
        sent.unwrap();
        id
    }

    #[test]
    fn what_the_server_does_not_end_is_not_asked_for_again() {
        let server = "192.0.2.1:3478".parse().unwrap();
        let who = Credentials { user: "a".to_owned(), password: Zeroizing::new("b".to_owned()) };
        let mut transactions = Transactions::new(server, false, who, 1, 1).unwrap();
        let mut space = [0; 128];

        transactions.begin(0, Ask::Allocate(server), 0);
        let id = asked(&mut transactions).unwrap();
        let granted = Builder::new(&mut space, Class::Success, Ask::Allocate(server).method(), id);
        let mut granted = granted.unwrap();
        granted.add(&XorRelayedAddress(server)).unwrap();
        let len = granted.finish();
        transactions.receive(0, &space[..len], 1).unwrap();
        assert_eq!(transactions.relayed(0), Some(server));

        transactions.begin(0, Ask::Delete, 2);
        let id = asked(&mut transactions).unwrap();
        let refused = Builder::new(&mut space, Class::Error, Ask::Delete.method(), id);
        let mut refused = refused.unwrap();
        refused.add(&ErrorCode { code: code::ALLOCATION_MISMATCH, reason: b"" }).unwrap();
        let len = refused.finish();
        let error = transactions.receive(0, &space[..len], 3).unwrap_err();
        assert!(matches!(error, LoadError::Refused { code: 437, .. }), "{error}");

        transactions.forget();
        transactions.begin(0, Ask::Delete, 4);
        assert_eq!((transactions.under_way(), asked(&mut transactions)), (0, None));
    }

    #[test]
    fn an_allocate_that_was_given_up_may_have_left_something_to_be_ended() {
        let server = "192.0.2.1:3478".parse().unwrap();
        let who = Credentials { user: "a".to_owned(), password: Zeroizing::new("b".to_owned()) };
        let mut transactions = Transactions::new(server, false, who, 1, 2).unwrap();
        transactions.begin(0, Ask::Allocate(server), 0);
        transactions.forget();
        // The other client never asked for anything.
        transactions.begin(1, Ask::Delete, 1);
        assert_eq!(transactions.under_way(), 0);
        transactions.begin(0, Ask::Delete, 1);
        assert_eq!(transactions.under_way(), 1);
    }
}
