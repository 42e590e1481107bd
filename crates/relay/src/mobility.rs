//! Mobility (RFC 8016): a client goes on with its allocation from another five-tuple.
//!
//! 1. An Allocate with an empty MOBILITY-TICKET makes an allocation that is *mobile*, and its answer
//!    has a ticket (`ticket`).
//! 2. A Refresh with the ticket, from another five-tuple, has `Server::resume` remember where the
//!    client is about to go on (`resumes`). Until it does, everything stays where it is.
//! 3. The first message from there ([`Route::Arriving`]) moves the allocation. So does the end of
//!    the connection that it was used over: `Server::disconnected`.
//!
//! The new five-tuple may be another shard's than the allocation. That shard is told by the ticket
//! ([`Route::Elsewhere`]) and has the allocation's shard answer ([`Event::Resume`]); the first
//! message makes it claim the allocation ([`Server::claim`]), which then comes as one value
//! ([`Server::depart`], [`Server::arrive`]).
//!
//! A mobile allocation whose client's connection ended, and which is about to go on nowhere, is
//! *detached*: no five-tuple leads to it, until its client comes back with the ticket or its lifetime
//! is over.
//!
//! TCP allocations (RFC 6062) are never mobile: their peers' data goes over connections of the
//! client's own, which end with its address.
//!
//! [`Event::Resume`]: crate::Event::Resume

mod resumes;
mod shards;
mod ticket;

use turnway_wire::{AttributeType, Class, Lifetime, Message, Method, MobilityTicket};

use crate::address::{AllocationId, Client, FiveTuple, Now, Protocol, RelayId};
use crate::auth::Identity;
use crate::effect::{Effect, Moved, Record, Route};
use crate::limits::{RESUME_TIMEOUT_S, RESUMES_MAX, RESUMES_PER_SECOND, TICKET_RETAINED_S};
use crate::outcome::{EndReason, Outcome, Reason, Request};
use crate::request::Call;
use crate::server::Server;
use crate::table::{Allocation, Window};

pub use shards::Departure;
pub use ticket::{TICKET_LEN, Tickets};

pub(crate) use resumes::Resumes;
use resumes::{GoesOnWith, Resume};
use ticket::Ticket;

/// What a mobile allocation has beside.
#[derive(Debug, Default)]
pub(crate) struct Mobile {
    /// The generation of the ticket under which it is where it is.
    settled: u32,
    /// The generation of the ticket given last.
    newest: u32,
    next: Option<Next>,
    answered: Option<Answered>,
    rate: Window,
}

/// Where a client is about to go on.
#[derive(Clone, Copy, Debug)]
struct Next {
    client: Client,
    /// The shard that it is a client of; `None`: this one.
    shard: Option<u16>,
    until_ns: u64,
}

/// What the last resumption was answered with, for retransmissions.
#[derive(Clone, Copy, Debug)]
struct Answered {
    tuple: FiveTuple,
    transaction: turnway_wire::TransactionId,
    granted: Granted,
    until_ns: u64,
}

/// What a resumption is answered with.
#[derive(Clone, Copy, Debug)]
struct Granted {
    lifetime_s: u32,
    /// Of the new ticket; `None`: the client gave the allocation up.
    generation: Option<u32>,
}

/// Why a resumption is refused.
enum Refused {
    With(Outcome),
    /// There were too many: who sends over UDP asks again, later each time.
    Silently,
}

impl From<Outcome> for Refused {
    fn from(outcome: Outcome) -> Self {
        Self::With(outcome)
    }
}

impl Server {
    /// Whether an Allocate asks for a ticket, and may have one.
    pub(crate) fn wants_ticket(
        &self,
        call: &Call<'_>,
        protocol: Protocol,
    ) -> Result<bool, Outcome> {
        let allowed = self.config.limits.mobility && protocol == Protocol::Udp;
        match call.msg.raw(AttributeType::MOBILITY_TICKET) {
            None => Ok(false),
            Some([]) if allowed => Ok(true),
            //= rfc8016#section-3.1.2
            //# If the MOBILITY-TICKET attribute is included, and has a length of zero, but TURN session
            //# mobility is forbidden by local policy, the server will reject the request with the new
            //# error code 405 (Mobility Forbidden).
            Some([]) => Err(Outcome::MobilityForbidden),
            //= rfc8016#section-3.1.2
            //# If the MOBILITY-TICKET attribute is included and has a non-zero length, then the server
            //# will generate an error response with an error code of 400 (Bad Request).
            Some(_) => Err(Outcome::BadRequest),
        }
    }

    /// An allocation's first ticket, if it is mobile.
    pub(crate) fn first_ticket(&self, allocation: &Allocation) -> Option<[u8; TICKET_LEN]> {
        let session = allocation.session;
        allocation
            .mobile
            .as_ref()
            .map(|_| self.shared.tickets.seal(Ticket { session, generation: 0 }))
    }

    /// The allocation that a request is about: the one of a ticket, or else of the five-tuple.
    pub(crate) fn meant_by(
        &mut self,
        msg: &Message<'_>,
        request: Request,
        tuple: &FiveTuple,
        now: Now,
    ) -> Option<AllocationId> {
        if request != Request::Refresh || !msg.has(AttributeType::MOBILITY_TICKET) {
            return self.find_live(tuple, now);
        }
        //= rfc8016#section-3.2.2
        //# If the STUN MOBILITY-TICKET attribute is included in the Refresh request, then the server
        //# will not retrieve the 5-tuple from the packet to identify an associated allocation.
        let ticket = self.ticket_in(msg)?;
        let id = self.table.find_session(ticket.session)?;
        self.freshen(id, now);
        self.table.find_session(ticket.session)
    }

    fn ticket_in(&self, msg: &Message<'_>) -> Option<Ticket> {
        self.shared.tickets.open(msg.raw(AttributeType::MOBILITY_TICKET)?)
    }

    /// A Refresh with a ticket, authenticated.
    pub(crate) fn resume(
        &mut self,
        call: &Call<'_>,
        id: Option<AllocationId>,
        fresh: Option<Identity>,
        now: Now,
        out: &mut [u8],
    ) {
        let Granted { lifetime_s, generation } = match self.try_resume(call, id, fresh, now) {
            Ok(granted) => granted,
            Err(Refused::With(outcome)) => return self.error(&call.answer, outcome, out),
            Err(Refused::Silently) => {
                self.stats.client_drops[Reason::RateLimited.index()] += 1;
                return;
            }
        };
        let session = self.ticket_in(&call.msg).map(|ticket| ticket.session);
        let ticket = session
            .zip(generation)
            .map(|(session, generation)| self.shared.tickets.seal(Ticket { session, generation }));
        self.success(&call.answer, out, |builder| {
            builder.add(&Lifetime(lifetime_s))?;
            ticket.map_or(Ok(()), |ticket| builder.add(&MobilityTicket(&ticket)))
        });
    }

    fn try_resume(
        &mut self,
        call: &Call<'_>,
        id: Option<AllocationId>,
        fresh: Option<Identity>,
        now: Now,
    ) -> Result<Granted, Refused> {
        //= rfc8016#section-3.2.2
        //# If the STUN MOBILITY-TICKET attribute is included in the Refresh request, and the server
        //# configuration changed to forbid mobility or the server transparently fails over to another
        //# server instance that forbids mobility, then the server rejects the Refresh request with a
        //# 405 (Mobility Forbidden) error and the client starts afresh with a new allocation.
        if !self.config.limits.mobility {
            return Err(Outcome::MobilityForbidden.into());
        }
        //= rfc8016#section-3.2.2
        //# If the ticket is invalid, then the server MUST reject the request with a 400 (Bad Request)
        //# error.
        let ticket = self.ticket_in(&call.msg).ok_or(Outcome::BadRequest)?;
        if self.resumes.len() >= RESUMES_MAX {
            return Err(Outcome::InsufficientCapacity.into());
        }
        //= rfc8016#section-3.2.2
        //# If this 5-tuple obtained does not identify an existing allocation, then the server MUST
        //# reject the request with a 437 (Allocation Mismatch) error.
        let id = id.ok_or(Outcome::AllocationMismatch)?;
        let tuple = call.answer.client.tuple;
        let taken = self.table.find(&tuple).is_some_and(|other| other != id);
        let allocation = self.table.get_mut(id).ok_or(Outcome::AllocationMismatch)?;
        //= rfc8016#section-3.2.2
        //# If the above check is not successful, then the server MUST reject the request with a 441
        //# (Wrong Credentials) error.
        if let Some(fresh) = fresh {
            if !fresh.same_user(&allocation.identity) {
                return Err(Outcome::WrongCredentials.into());
            }
            allocation.identity = fresh.instead_of(&allocation.identity);
        }
        let here = allocation.attached && allocation.client.tuple == tuple;
        let mobile = allocation.mobile.as_mut().ok_or(Outcome::BadRequest)?;
        if let Some(granted) = mobile.answered_before(call, now) {
            return Ok(granted);
        }
        //= rfc8016#section-3.2.2
        //# If the source IP address and port of the Refresh request with the STUN MOBILITY-TICKET
        //# attribute is the same as the stored 5-tuple allocation, then the TURN server rejects the
        //# request with a 400 (Bad Request) error.
        if here || !mobile.honours(ticket) {
            return Err(Outcome::BadRequest.into());
        }
        if taken {
            return Err(Outcome::AllocationMismatch.into());
        }
        if !mobile.rate.allow(now, RESUMES_PER_SECOND) {
            return Err(Refused::Silently);
        }
        let lifetime_s = self.renew(call, id, now)?;
        Ok(self.go_on_from(call, id, lifetime_s, now))
    }

    /// Remembers where the client is about to go on.
    //= rfc8016#section-3.2.2
    //# The server then updates its state data with the new client IP address and port but does not
    //# discard the old 5-tuple from its state data.
    fn go_on_from(
        &mut self,
        call: &Call<'_>,
        id: AllocationId,
        lifetime_s: u32,
        now: Now,
    ) -> Granted {
        let (client, until_ns) = (call.answer.client, now.after_s(RESUME_TIMEOUT_S));
        let next = Next { client, shard: self.asking, until_ns };
        let mobile = self.table.get_mut(id).and_then(|allocation| allocation.mobile.as_mut());
        let Some(mobile) = mobile else {
            return Granted { lifetime_s, generation: None };
        };
        //= rfc8016#section-3.2.2
        //# The new ticket sent in the refresh response MUST be different from the old ticket.
        mobile.newest = mobile.newest.wrapping_add(1);
        let granted = Granted { lifetime_s, generation: Some(mobile.newest) };
        let before = mobile.next.replace(next);
        //= rfc8016#section-3.2.2
        //# To accommodate the potential loss of Refresh responses, a server must retain the old STUN
        //# MOBILITY-TICKET attribute for a period of at least 30 seconds to be able to recognize a
        //# retransmission of the Refresh request with the old STUN MOBILITY-TICKET attribute from the
        //# client.
        mobile.answered = Some(Answered {
            tuple: client.tuple,
            transaction: call.answer.transaction,
            granted,
            until_ns: now.after_s(TICKET_RETAINED_S),
        });
        self.forget_next(before);
        if next.shard.is_none() {
            let ours = GoesOnWith::Ours(id);
            self.goes_on_from(&client, ours, until_ns);
        }
        self.stats.resumes += 1;
        self.count_resumes();
        granted
    }

    /// Remembers who is about to go on from a five-tuple. Whoever was about to before is not any
    /// more: no five-tuple leads to two allocations.
    fn goes_on_from(&mut self, client: &Client, goes_on_with: GoesOnWith, until_ns: u64) {
        let displaced = self.resumes.insert(&client.tuple, client.link, goes_on_with, until_ns);
        if let Some(displaced) = displaced {
            self.not_from_there(&displaced);
        }
    }

    fn forget_next(&mut self, next: Option<Next>) {
        if let Some(Next { client, shard: None, .. }) = next {
            self.resumes.remove(&client.tuple);
        }
        self.count_resumes();
    }

    fn count_resumes(&mut self) {
        self.stats.resuming = self.resumes.len() as u64;
    }

    /// An allocation is no more, nor is what it was about to do.
    pub(crate) fn forget_mobile(&mut self, allocation: &Allocation) {
        self.forget_next(allocation.mobile.as_ref().and_then(|mobile| mobile.next));
    }

    /// What becomes of a STUN message that is no Send indication.
    pub(crate) fn route_request(&self, from: &Client, data: &[u8]) -> Route {
        const REFRESH: [u8; 2] = Method::REFRESH.0.to_be_bytes();
        let resumes = self.config.limits.mobility && data.starts_with(&REFRESH);
        if resumes || !self.resumes.is_empty() {
            self.route_mobile(from, data)
        } else {
            Route::Request
        }
    }

    #[cold]
    fn route_mobile(&self, from: &Client, data: &[u8]) -> Route {
        let Ok(msg) = Message::parse(data) else { return Route::Request };
        match (msg.class(), msg.method()) {
            (Class::Request, Method::REFRESH) if msg.has(AttributeType::MOBILITY_TICKET) => {
                match self.resumed_elsewhere(from, &msg) {
                    Some(session) => Route::Elsewhere { session },
                    None => Route::Request,
                }
            }
            // Anybody may ask where he is. All else shows that the client knows the answer to its
            // Refresh, as data does.
            (Class::Request, method) if method != Method::BINDING => match self.arrives(from) {
                true => Route::Arriving,
                false => Route::Request,
            },
            (Class::Request | Class::Indication | Class::Success | Class::Error, _) => {
                Route::Request
            }
        }
    }

    /// The session of a ticket that is not here, and may be with another shard.
    fn resumed_elsewhere(&self, from: &Client, msg: &Message<'_>) -> Option<u64> {
        let room = self.config.limits.mobility && self.resumes.len() < RESUMES_MAX;
        let session = self.ticket_in(msg).filter(|_| room)?.session;
        let here = self.table.find(&from.tuple).or_else(|| self.table.find_session(session));
        here.is_none().then_some(session)
    }

    /// Whether a client is about to go on from where a message came from.
    pub(crate) fn arrives(&self, from: &Client) -> bool {
        !self.resumes.is_empty() && self.resumes.get(&from.tuple).is_some()
    }

    /// The answer to [`Route::Arriving`]: moves the client's allocation to where the message came
    /// from. Gives the session's number if another shard has it: then claim it there, and keep the
    /// message until it has come. `None` also if it has come here already, from elsewhere: then the
    /// message is like any other.
    //= rfc8016#section-3.2.2
    //# After receiving any of those messages, a TURN server discards the old ticket and the old 5-tuple
    //# associated with the old ticket from its state data.
    pub fn settle(&mut self, from: &Client) -> Option<u64> {
        let Resume { goes_on_with, .. } = *self.resumes.get(&from.tuple)?;
        match goes_on_with {
            GoesOnWith::Others(session) if self.table.find_session(session).is_some() => {
                self.stop_expecting(session, &from.tuple);
                None
            }
            GoesOnWith::Others(session) => Some(session),
            GoesOnWith::Ours(id) => {
                self.resumes.remove(&from.tuple);
                self.move_to(id, *from);
                None
            }
        }
    }

    /// Moves an allocation of this shard to another five-tuple of this shard. If that one has led
    /// to another allocation since, this one waits for its client.
    fn move_to(&mut self, id: AllocationId, client: Client) {
        let taken = self.table.find(&client.tuple).is_some_and(|other| other != id);
        let Some(allocation) = self.table.get_mut(id) else { return };
        let (from, next) = (allocation.client.tuple, allocation.settled());
        self.forget_next(next);
        if taken {
            self.channels_down(id);
            return self.table.detach(id);
        }
        *self.stats.allocations_mut(from.transport) -= 1;
        *self.stats.allocations_mut(client.tuple.transport) += 1;
        self.channels_down(id);
        self.table.move_to(id, client);
        self.channels_changed(id);
        self.log_move(id, from);
    }

    fn log_move(&mut self, id: AllocationId, from: FiveTuple) {
        let Some(allocation) = self.table.get(id) else { return };
        self.stats.moves += 1;
        self.effects.push_back(Effect::Log(Record::Moved(Box::new(Moved {
            session: allocation.session,
            user: allocation.identity.user().clone(),
            from,
            to: allocation.client.tuple,
        }))));
    }

    /// Says that no channel may be relayed any more. [`Self::channels_changed`] says again which
    /// may.
    fn channels_down(&mut self, id: AllocationId) {
        let Some(allocation) = self.table.get_mut(id) else { return };
        for channel in &mut *allocation.channels {
            channel.deadline_ns = 0;
            let (number, peer) = (channel.number, channel.peer);
            let relay = RelayId { allocation: id, family: peer.family() };
            self.effects.push_back(Effect::ChannelDown { relay, number, peer });
        }
    }

    /// A client's connection has ended.
    pub(crate) fn disconnected(&mut self, tuple: &FiveTuple, now: Now) {
        if let Some(resume) = self.resumes.remove(tuple) {
            self.count_resumes();
            self.not_from_there(&resume);
        }
        let Some(id) = self.table.find(tuple) else { return };
        let Some(mobile) = self.table.get(id).and_then(|allocation| allocation.mobile.as_ref())
        else {
            return self.end(id, EndReason::Disconnected, now);
        };
        //= rfc8016#section-3.2.2
        //# The TURN server MUST continue receiving and processing data on the old 5-tuple and MUST
        //# continue transmitting data on the old-5 tuple until it receives a Send Indication or
        //# ChannelData message from the client on the new 5-tuple or a message from the client to close
        //# the old connection (e.g., a TLS fatal alert or TCP RST).
        match mobile.next.filter(|next| next.until_ns > now.mono_ns) {
            Some(Next { client, shard: None, .. }) => self.move_to(id, client),
            Some(Next { shard: Some(shard), .. }) => self.leave_for(id, shard),
            None => self.table.detach(id),
        }
    }

    fn not_from_there(&mut self, resume: &Resume) {
        if let GoesOnWith::Ours(id) = resume.goes_on_with
            && let Some(allocation) = self.table.get_mut(id)
            && let Some(mobile) = &mut allocation.mobile
        {
            mobile.next = None;
        }
    }

    /// Forgets some of the resumptions that were never finished. True if there are more.
    pub(crate) fn expire_resumes(&mut self, now: Now) -> bool {
        for _ in 0..EXPIRIES_PER_CALL {
            let Some((_, resume)) = self.resumes.expire(now.mono_ns) else { break };
            self.not_from_there(&resume);
        }
        self.count_resumes();
        self.resumes.due_ns().is_some_and(|due_ns| due_ns <= now.mono_ns)
    }
}

impl Mobile {
    /// The answer to a request that was answered before.
    fn answered_before(&self, call: &Call<'_>, now: Now) -> Option<Granted> {
        let answered = self.answered.filter(|answered| {
            answered.until_ns > now.mono_ns
                && answered.transaction == call.answer.transaction
                && answered.tuple == call.answer.client.tuple
        });
        answered.map(|answered| answered.granted)
    }

    /// Whether a ticket is good: the last one, or the one before until the client has gone on, since
    /// it may never have heard of the last.
    //= rfc8016#section-3.2.2
    //# The old ticket can only be used for the purposes of retransmission.
    fn honours(&self, ticket: Ticket) -> bool {
        ticket.generation == self.newest || ticket.generation == self.settled
    }
}

impl Allocation {
    /// The client has gone on: tickets from before are void. Gives where it was about to.
    fn settled(&mut self) -> Option<Next> {
        let mobile = self.mobile.as_mut()?;
        mobile.settled = mobile.newest;
        mobile.next.take()
    }
}

/// Unfinished resumptions forgotten at a time.
const EXPIRIES_PER_CALL: usize = 64;
