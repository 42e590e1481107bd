//! Clients that go on from an address of another shard (RFC 8016): where their sessions are, and
//! what shards say to each other about them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use turnway_relay::{Client, Departure, FiveTuple};
use turnway_wire::Family;

use crate::io::udp::RelaySocket;
use crate::mailbox::shard_of;

/// What one shard says to another.
pub enum Word {
    /// A client of yours-to-be: it sent a Refresh with the ticket of a session of yours.
    Resume {
        /// The session's number.
        session: u64,
        /// The client as the asking shard knows it.
        from: Client,
        /// The request.
        message: Box<[u8]>,
        /// The asking shard.
        shard: u16,
    },
    /// The answer to that.
    Answer {
        /// The client.
        to: Client,
        /// What to send; `None`: nothing.
        message: Option<Box<[u8]>>,
        /// The session that the client may go on with.
        session: Option<u64>,
    },
    /// The client has gone on: let the session come.
    Claim {
        /// The session's number.
        session: u64,
        /// Where the client is.
        tuple: FiveTuple,
        /// The asking shard.
        shard: u16,
    },
    /// No session comes for this client.
    Refuse {
        /// The session's number.
        session: u64,
        /// Where the client is.
        tuple: FiveTuple,
    },
    /// A session comes.
    Arrive(Box<Arrival>),
}

/// An allocation with its sockets.
pub struct Arrival {
    /// The rules' part.
    pub departure: Departure,
    /// Its relay sockets, watched by nobody.
    pub sockets: Vec<(Family, RelaySocket)>,
}

/// Which sessions are not with the shard that their number names. Locked where one moves, ends, or
/// is asked for by its number; never for a datagram.
#[derive(Default)]
pub struct Whereabouts(Mutex<HashMap<u64, u16>>);

impl Whereabouts {
    /// The shard that has a session, or is about to.
    pub fn of(&self, session: u64) -> usize {
        self.gone_to(session).map_or_else(|| shard_of(session), usize::from)
    }

    /// The shard that a session has gone to, if it has left the one that its number names.
    pub fn gone_to(&self, session: u64) -> Option<u16> {
        self.lock().get(&session).copied()
    }

    /// A session moves. `send` it before anybody else can know of it: what others send there about
    /// it comes after it.
    pub fn moves(&self, session: u64, to: u16, send: impl FnOnce()) {
        let mut gone = self.lock();
        gone.insert(session, to);
        send();
    }

    /// A session is home again, or is no more.
    pub fn forget(&self, session: u64) {
        self.lock().remove(&session);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
