//! Clients that go on from another address (RFC 8016), where that is another shard's: this one's
//! part as the shard that they come to, and as the one they leave.
//!
//! A Refresh with a ticket is answered by the shard that has the session ([`Word::Resume`],
//! [`Word::Answer`]). What the client says next is held here while the session is fetched
//! ([`Word::Claim`], [`Word::Arrive`]); what its peers send meanwhile waits in the sockets.

use std::collections::HashMap;
use std::ops::Range;

use turnway_relay::{AllocationId, Client, Event, FiveTuple, IpFields, Record, RelayId, Transport};
use turnway_udp::{Interest, ReceiveBatch};

use super::{SECOND_NS, Shard, Token};
use crate::mailbox::{Command, shard_of};
use crate::mobility::{Arrival, Word};

/// Requests that other shards have not answered yet, at a time. More are dropped: their clients
/// send them again.
const ASKED_MAX: usize = 256;

/// What is held of one client until its session has come, and of all.
const HELD_PER_CLIENT: usize = 256 * 1024;
const HELD_MAX: usize = 8 * 1024 * 1024;

/// How long: a shard answers a claim within milliseconds, and always. Whoever was not answered
/// claims again.
const HELD_NS: u64 = 5 * SECOND_NS;

/// What a shard knows of sessions that are with others.
#[derive(Default)]
pub(super) struct Moving {
    /// Requests that wait for another shard's answer.
    asked: usize,
    held: HashMap<u64, Held>,
    held_bytes: usize,
    /// The reply to another shard's client, while its request is looked at.
    pub(super) elsewhere: Option<Reply>,
}

/// A reply that leaves from another shard.
#[derive(Default)]
pub(super) struct Reply(Option<Box<[u8]>>);

impl Reply {
    pub(super) fn keep(&mut self, message: &[u8]) {
        self.0 = Some(message.into());
    }
}

/// Messages of a client whose session has been claimed.
struct Held {
    client: Client,
    until_ns: u64,
    bytes: usize,
    messages: Vec<(Box<[u8]>, Option<IpFields>)>,
}

impl Shard {
    /// A message from where a client said that it would go on.
    pub(super) fn on_arriving(
        &mut self,
        client: &Client,
        slot: usize,
        range: Range<usize>,
        ip: Option<IpFields>,
        batch: &ReceiveBatch,
    ) {
        match self.parts.server.settle(client) {
            Some(session) if self.may_come(session) => {
                self.hold(session, client, &batch.data(slot)[range], ip);
            }
            no_more => {
                if let Some(session) = no_more {
                    self.parts.server.stop_expecting(session, &client.tuple);
                }
                self.carry_out(batch);
                self.on_message(client, slot, range, ip, batch);
            }
        }
    }

    /// Whether a session is with another shard, or on its way here.
    fn may_come(&self, session: u64) -> bool {
        let here = self.parts.index;
        self.parts.whereabouts.of(session) != usize::from(here)
            || self.parts.whereabouts.gone_to(session) == Some(here)
    }

    /// Keeps a message until the session has come, and asks for it.
    fn hold(&mut self, session: u64, client: &Client, message: &[u8], ip: Option<IpFields>) {
        let known = self.moving.held.contains_key(&session);
        let until_ns = self.now.mono_ns + HELD_NS;
        let none = || Held { client: *client, until_ns, bytes: 0, messages: Vec::new() };
        let held = self.moving.held.entry(session).or_insert_with(none);
        let bytes = message.len() + size_of::<Held>();
        let room = held.bytes + bytes <= HELD_PER_CLIENT
            && self.moving.held_bytes + bytes <= HELD_MAX
            && held.client == *client;
        if room {
            held.bytes += bytes;
            held.messages.push((message.into(), ip));
            self.moving.held_bytes += bytes;
        } else {
            self.stats.moving_drops += 1;
        }
        let (shard, tuple) = (self.parts.index, client.tuple);
        let owner = self.parts.whereabouts.of(session);
        if !known && owner != usize::from(shard) {
            self.tell(owner, Word::Claim { session, tuple, shard });
        }
    }

    /// Nothing is held for ever, whatever went wrong.
    pub(super) fn let_go_of_old(&mut self) {
        let now_ns = self.now.mono_ns;
        let old = self.moving.held.extract_if(|_, held| held.until_ns <= now_ns);
        for (_, held) in old {
            self.moving.held_bytes -= held.bytes;
            self.stats.moving_drops += held.messages.len() as u64;
        }
    }

    fn let_go(&mut self, session: u64) -> Option<Held> {
        let held = self.moving.held.remove(&session)?;
        self.moving.held_bytes -= held.bytes;
        Some(held)
    }

    /// A Refresh with the ticket of a session that is not here.
    pub(super) fn on_elsewhere(
        &mut self,
        session: u64,
        client: &Client,
        data: &[u8],
        batch: &ReceiveBatch,
    ) {
        let shard = self.parts.index;
        let gone_to = self.parts.whereabouts.gone_to(session);
        let owner = self.parts.whereabouts.of(session);
        if gone_to == Some(shard) || self.moving.asked >= ASKED_MAX {
            // It is on its way here, or too much is asked already: whoever lost it asks again.
            self.stats.moving_drops += 1;
        } else if owner == usize::from(shard) || owner >= self.parts.mailboxes.len() {
            self.happen(Event::Request { from: *client, data }, batch);
        } else {
            self.moving.asked += 1;
            let (from, message) = (*client, data.into());
            self.tell(owner, Word::Resume { session, from, message, shard });
        }
    }

    /// What another shard says.
    pub(super) fn hear(&mut self, word: Word, batch: &mut ReceiveBatch) {
        match word {
            Word::Resume { session, from, message, shard } => {
                self.resume_for(shard, session, from, message, batch);
            }
            Word::Answer { to, message, session } => {
                self.moving.asked = self.moving.asked.saturating_sub(1);
                if let Some(session) = session
                    && self.is_there(&to)
                {
                    self.parts.server.expect(&to, session, self.now);
                }
                if let Some(message) = message {
                    self.reply[..message.len()].copy_from_slice(&message);
                    self.answer(&to, message.len(), batch);
                }
            }
            Word::Claim { session, tuple, shard } => self.claimed(session, tuple, shard, batch),
            Word::Refuse { session, tuple } => {
                self.parts.server.stop_expecting(session, &tuple);
                // Another client's claim for the same session will be answered by itself.
                let its = |held: &Held| held.client.tuple == tuple;
                if self.moving.held.get(&session).is_some_and(its) {
                    let held = self.let_go(session);
                    self.stats.moving_drops += held.map_or(0, |held| held.messages.len() as u64);
                }
            }
            Word::Arrive(arrival) => self.arrive(*arrival, batch),
        }
    }

    /// Answers another shard's client.
    fn resume_for(
        &mut self,
        shard: u16,
        session: u64,
        from: Client,
        message: Box<[u8]>,
        batch: &ReceiveBatch,
    ) {
        let here = self.parts.server.find_session(session, self.now).is_some();
        let owner = self.parts.whereabouts.of(session);
        if !here && owner != usize::from(self.parts.index) && shard != self.parts.index {
            return self.tell(owner, Word::Resume { session, from, message, shard });
        }
        if shard == self.parts.index {
            // It has come here while this was on its way.
            self.moving.asked = self.moving.asked.saturating_sub(1);
            return self.happen(Event::Request { from, data: &message }, batch);
        }
        self.moving.elsewhere = Some(Reply::default());
        self.happen(Event::Resume { from, data: &message, shard }, batch);
        let Reply(message) = self.moving.elsewhere.take().unwrap_or_default();
        let awaited = self.parts.server.awaits(session, &from.tuple);
        let session = awaited.then_some(session);
        self.tell(usize::from(shard), Word::Answer { to: from, message, session });
    }

    /// Another shard's client has gone on there.
    fn claimed(&mut self, session: u64, tuple: FiveTuple, shard: u16, batch: &ReceiveBatch) {
        if self.parts.server.claim(session, &tuple, self.now) {
            self.carry_out(batch);
        }
        // Unless it is on its way there, since now or already.
        if self.parts.whereabouts.of(session) != usize::from(shard) {
            self.tell(usize::from(shard), Word::Refuse { session, tuple });
        }
    }

    /// Sends an allocation to another shard.
    pub(super) fn depart(&mut self, id: AllocationId, shard: u16, batch: &ReceiveBatch) {
        // Datagrams may be queued on its sockets.
        self.flush(batch);
        let Some(departure) = self.parts.server.depart(id) else { return };
        let mut sockets = Vec::with_capacity(2);
        for family in departure.families() {
            if let Some(socket) = self.relays.remove(RelayId { allocation: id, family }) {
                // It is watched, and the other shard will watch it again.
                let _ = self.poller.delete(socket.fd());
                sockets.push((family, socket));
            }
        }
        let (session, to) = (departure.session(), usize::from(shard));
        let arrival = Word::Arrive(Box::new(Arrival { departure, sockets }));
        self.parts.whereabouts.moves(session, shard, || self.tell(to, arrival));
    }

    /// Takes in an allocation of another shard, and what its client has said meanwhile.
    fn arrive(&mut self, arrival: Arrival, batch: &mut ReceiveBatch) {
        let Arrival { departure, sockets } = arrival;
        let session = departure.session();
        if shard_of(session) == usize::from(self.parts.index) {
            self.parts.whereabouts.forget(session);
        }
        let allocation = self.parts.server.arrive(departure, self.now);
        let mut watched = true;
        for (family, socket) in sockets {
            let token = Token::Relay(allocation.slot, family).pack();
            watched &= self.poller.add(socket.fd(), token, Interest::READ).is_ok();
            self.relays.put(RelayId { allocation, family }, socket);
        }
        self.unpublished = true;
        self.carry_out(batch);
        if !watched {
            // No memory to watch it with: the client has to begin anew.
            self.happen(Event::Kill { session }, batch);
        }
        let Some(held) = self.let_go(session) else { return };
        for (message, ip) in held.messages {
            if batch.free() == 0 {
                self.finish(batch);
            }
            let Some((slot, space)) = batch.compose(message.len()) else { continue };
            space.copy_from_slice(&message);
            self.on_message(&held.client, slot, 0..message.len(), ip, batch);
        }
    }

    /// Whether a client's connection is still the one it was.
    fn is_there(&mut self, client: &Client) -> bool {
        match client.tuple.transport {
            Transport::Udp => true,
            Transport::Tcp | Transport::Tls => self.connections.of(client).is_some(),
            Transport::Dtls => {
                self.dtls.as_mut().is_some_and(|dtls| dtls.sessions.of(client).is_some())
            }
        }
    }

    /// The shard that has a session which is asked for by its number, if it is not this one.
    pub(super) fn went_elsewhere(&self, session: u64) -> Option<usize> {
        let gone_to = usize::from(self.parts.whereabouts.gone_to(session)?);
        (gone_to != usize::from(self.parts.index)).then_some(gone_to)
    }

    /// Forgets where a session of another shard went once it has ended.
    pub(super) fn forget_whereabouts(&self, record: &Record) {
        if let Record::Ended(ended) = record
            && shard_of(ended.session) != usize::from(self.parts.index)
        {
            self.parts.whereabouts.forget(ended.session);
        }
    }

    fn tell(&self, shard: usize, word: Word) {
        self.parts.mailboxes[shard].send(Command::Hear(word));
    }
}
