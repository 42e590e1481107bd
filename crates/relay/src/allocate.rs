//! Allocate (RFC 8656 section 7.2), check by check in the RFC's order.
//!
//! A request that passes becomes [`Pending`] and an [`Effect::Bind`]; the shell's
//! [`Bound`] makes it an allocation. Nothing is in the table before that.

use std::sync::Arc;

use turnway_wire::{
    AdditionalAddressFamily, AddressErrorCode, AttributeType, BufferFull, Builder, EvenPort,
    Family, Lifetime, Malformed, Message, MobilityTicket, RequestedAddressFamily,
    RequestedTransport, ReservationToken, XorMappedAddress, XorRelayedAddress, code,
};

use crate::address::{AllocationId, Now, Protocol, RelayAddr, RelayId};
use crate::auth::Identity;
use crate::effect::{BindFailure, Bound, Effect, Record, Started, Want};
use crate::ledger::{Grant, Release};
use crate::limits::{DEFAULT_LIFETIME_S, RESERVATION_LIFETIME_S};
use crate::mobility::TICKET_LEN;
use crate::outcome::{Outcome, Quota};
use crate::request::{Answer, Call};
use crate::server::Server;
use crate::table::{AllocateAnswer, Allocation, NewAllocation, Relayed};

/// An Allocate that waits for the ledger's word and then for its sockets.
pub(crate) struct Pending {
    id: AllocationId,
    answer: Answer,
    identity: Identity,
    want: Want,
    protocol: Protocol,
    mobile: bool,
    lifetime_s: u32,
    grant: Option<Grant>,
}

/// IANA's numbers of the relayed transports.
const UDP: u8 = 17;
const TCP: u8 = 6;

/// The number that coturn and its clients give ADDITIONAL-ADDRESS-FAMILY, from before RFC 8656
/// had one. IANA has assigned it to nothing else.
const OLD_ADDITIONAL_ADDRESS_FAMILY: AttributeType = AttributeType(0x8032);

impl Server {
    pub(crate) fn allocate(
        &mut self,
        call: &Call<'_>,
        identity: Identity,
        now: Now,
        out: &mut [u8],
    ) {
        if self.config.alternates.is_always() && self.send_elsewhere(&call.answer, out) {
            return;
        }
        let wanted = self.wanted_protocol(call).and_then(|protocol| {
            let want = match protocol {
                Protocol::Udp => self.wanted(call)?,
                Protocol::Tcp => self.wanted_tcp(call)?,
            };
            Ok((protocol, want, self.wants_ticket(call, protocol)?))
        });
        let (protocol, want, mobile) = match wanted {
            Ok(wanted) => wanted,
            Err(outcome) => return self.error(&call.answer, outcome, out),
        };
        let Ok(lifetime) = call.msg.get::<Lifetime>() else {
            return self.error(&call.answer, Outcome::BadRequest, out);
        };
        if self.draining || !self.shared.allocations.try_take() {
            return self.busy(&call.answer, out);
        }
        self.effects.push_back(Effect::Reserve {
            account: Arc::clone(identity.account()),
            client: call.answer.client.tuple.client.ip(),
        });
        self.pending = Some(Box::new(Pending {
            id: self.table.reserve(),
            answer: call.answer.clone(),
            lifetime_s: self.granted_lifetime_s(lifetime, &identity, now),
            identity,
            want,
            protocol,
            mobile,
            grant: None,
        }));
    }

    /// What has to be said where there is no capacity: 300 if another server may have some.
    fn busy(&mut self, answer: &Answer, out: &mut [u8]) {
        if !self.send_elsewhere(answer, out) {
            self.error(answer, Outcome::InsufficientCapacity, out);
        }
    }

    /// Answers 300 (Try Alternate), if there is a server for this client. The client is
    /// authenticated, and so is the answer: nobody else can send it anywhere.
    //= rfc8656#section-7.2
    //# Also, at any point, the server MAY choose to reject the request
    //# with a 300 (Try Alternate) error if it wishes to redirect the
    //# client to a different server.
    fn send_elsewhere(&mut self, answer: &Answer, out: &mut [u8]) -> bool {
        let config = Arc::clone(&self.config);
        let tuple = &answer.client.tuple;
        let Some(alternate) = config.alternates.pick(tuple, self.next_alternate) else {
            return false;
        };
        self.next_alternate = self.next_alternate.wrapping_add(1);
        let client = tuple.client.ip();
        self.respond_error(answer, Outcome::TryAlternate, out, |builder| {
            alternate.describe(builder, client)
        });
        true
    }

    /// Goes on with the pending Allocate if no quota is in its way.
    //= rfc8656#section-7.2
    //# At any point, the server MAY choose to reject the request with a 486 (Allocation Quota
    //# Reached) error if it feels the client is trying to exceed some locally defined allocation
    //# quota.
    pub(crate) fn reserved(&mut self, reserved: Result<Grant, Quota>, now: Now, out: &mut [u8]) {
        let Some(mut pending) = self.pending.take() else { return };
        match reserved {
            Err(quota) => {
                self.stats.quota_refusals[quota.index()] += 1;
                self.give_up(&pending);
                self.error(&pending.answer, Outcome::QuotaReached, out);
            }
            Ok(grant) => {
                pending.grant = Some(grant);
                self.effects.push_back(Effect::Bind {
                    allocation: pending.id,
                    want: pending.want.clone(),
                    protocol: pending.protocol,
                    near: pending.answer.client.tuple.server,
                    owner: pending.identity.owner(),
                    until_ns: now.after_s(RESERVATION_LIFETIME_S),
                });
                self.pending = Some(pending);
            }
        }
    }

    /// Gives back all that an Allocate held that becomes no allocation.
    fn give_up(&mut self, pending: &Pending) {
        self.table.unreserve(pending.id);
        self.shared.allocations.give_back();
        if let Some(grant) = pending.grant {
            self.effects.push_back(Effect::Release(Box::new(Release::of(grant))));
        }
    }

    /// Check 3 of section 7.2: how the peers are to be reached.
    fn wanted_protocol(&self, call: &Call<'_>) -> Result<Protocol, Outcome> {
        //= rfc8656#section-7.2
        //# If the REQUESTED-TRANSPORT attribute is not included or is malformed, the server rejects
        //# the request with a 400 (Bad Request) error.
        match call.msg.get::<RequestedTransport>().map_err(|_| Outcome::BadRequest)? {
            Some(RequestedTransport(UDP)) => Ok(Protocol::Udp),
            Some(RequestedTransport(TCP)) if self.config.limits.tcp_allocations => {
                Ok(Protocol::Tcp)
            }
            //= rfc6062#section-5.1
            //# If the REQUESTED-TRANSPORT attribute is included and specifies a protocol other than
            //# UDP or TCP, the server MUST reject the request with a 442 (Unsupported Transport
            //# Protocol) error.
            Some(RequestedTransport(_)) => Err(Outcome::UnsupportedTransport),
            None => Err(Outcome::BadRequest),
        }
    }

    /// What a TCP allocation asks for that a UDP one may ask for as well.
    fn wanted_tcp(&self, call: &Call<'_>) -> Result<Want, Outcome> {
        //= rfc6062#section-5.1
        //# If the client connection transport is not TCP or TLS, the server MUST reject the request
        //# with a 400 (Bad Request) error.
        if !call.answer.client.tuple.transport.is_stream() {
            return Err(Outcome::BadRequest);
        }
        //= rfc6062#section-5.1
        //# If the request contains the DONT-FRAGMENT, EVEN-PORT, or RESERVATION-TOKEN attribute, the
        //# server MUST reject the request with a 400 (Bad Request) error.
        let datagrams_only = [
            AttributeType::DONT_FRAGMENT,
            AttributeType::EVEN_PORT,
            AttributeType::RESERVATION_TOKEN,
        ];
        if datagrams_only.into_iter().any(|ty| call.msg.has(ty)) {
            return Err(Outcome::BadRequest);
        }
        self.wanted(call)
    }

    /// Checks 4 to 9 of section 7.2: what relayed transport address is asked for.
    fn wanted(&self, call: &Call<'_>) -> Result<Want, Outcome> {
        let msg = &call.msg;
        let bad = |_| Outcome::BadRequest;
        let token = msg.get::<ReservationToken>().map_err(bad)?;
        let even = msg.get::<EvenPort>().map_err(bad)?;
        let requested = msg.get::<RequestedAddressFamily>().map_err(bad)?;
        let additional = additional_family(msg).map_err(bad)?;
        if let Some(ReservationToken(token)) = token {
            //= rfc8656#section-7.2
            //# If yes, and the request also contains an EVEN-PORT or REQUESTED-ADDRESS-FAMILY or
            //# ADDITIONAL-ADDRESS-FAMILY attribute, the server rejects the request with a 400 (Bad
            //# Request) error.
            if even.is_some() || requested.is_some() || additional.is_some() {
                return Err(Outcome::BadRequest);
            }
            return Ok(Want::Reserved(token));
        }
        //= rfc8656#section-7.2
        //# The server checks if the request contains both REQUESTED-ADDRESS-FAMILY and
        //# ADDITIONAL-ADDRESS-FAMILY attributes.
        if requested.is_some() && additional.is_some() {
            return Err(Outcome::BadRequest);
        }
        let family = match requested {
            None => Family::V4,
            Some(requested) => requested.family.ok_or(Outcome::FamilyNotSupported)?,
        };
        if let Some(additional) = additional {
            //= rfc8656#section-7.2
            //# If yes, and the attribute value is 0x01 (IPv4 address family), then the server
            //# rejects the request with a 400 (Bad Request) error.
            let reserve = even.is_some_and(|even| even.reserve_next);
            if reserve || additional.family != Some(Family::V6) {
                return Err(Outcome::BadRequest);
            }
            return Ok(Want::Both { even: even.is_some() });
        }
        if !self.config.supports(family) {
            return Err(Outcome::FamilyNotSupported);
        }
        Ok(match even {
            None => Want::Any(family),
            Some(EvenPort { reserve_next: false }) => Want::Even(family),
            Some(EvenPort { reserve_next: true }) => Want::EvenAndReserve(family),
        })
    }

    /// The time-to-expiry granted for what was asked.
    //= rfc8656#section-7.2
    //# If this computed value is greater than the default lifetime, then the server uses the
    //# computed lifetime as the initial value of the time-to-expiry field.
    pub(crate) fn granted_lifetime_s(
        &self,
        asked: Option<Lifetime>,
        identity: &Identity,
        now: Now,
    ) -> u32 {
        let asked = asked.map_or(DEFAULT_LIFETIME_S, |Lifetime(seconds)| seconds);
        let granted = asked.min(self.config.limits.max_lifetime_s).max(DEFAULT_LIFETIME_S);
        granted.min(identity.lifetime_max_s(now.unix_s).unwrap_or(u32::MAX))
    }

    /// Makes the pending Allocate an allocation, or refuses it.
    pub(crate) fn bound(&mut self, bound: Bound, now: Now, out: &mut [u8]) {
        let is_it =
            |pending: &mut Box<Pending>| pending.id == bound.allocation && pending.grant.is_some();
        let pending = self.pending.take_if(is_it);
        let Some(pending) = pending else { return self.close_unwanted(&bound) };
        let address = |bound: Option<Result<RelayAddr, BindFailure>>| bound.and_then(Result::ok);
        let (v4, v6) = (address(bound.v4), address(bound.v6));
        if v4.is_none() && v6.is_none() {
            self.give_up(&pending);
            if !(self.config.v4 || self.config.v6) {
                return self.error(&pending.answer, Outcome::FamilyNotSupported, out);
            }
            return self.busy(&pending.answer, out);
        }
        let answer = AllocateAnswer {
            transaction: pending.answer.transaction,
            lifetime_s: pending.lifetime_s,
            protocol: pending.protocol,
            reservation: bound.reservation,
            failed: match pending.want {
                Want::Both { .. } => self.partial_failure(v4, v6),
                Want::Any(_) | Want::Even(_) | Want::EvenAndReserve(_) | Want::Reserved(_) => None,
            },
            relayed: Relayed::new(v4, v6),
        };
        self.start(*pending, answer, now, out);
    }

    fn start(&mut self, pending: Pending, answer: AllocateAnswer, now: Now, out: &mut [u8]) {
        let Some(grant) = pending.grant else { return };
        let client = pending.answer.client;
        let session = self.new_session();
        let meter = self.meters.join(pending.identity.account(), grant, now.mono_ns);
        self.effects.push_back(Effect::Log(Record::Started(Box::new(Started {
            session,
            user: Arc::clone(pending.identity.user()),
            tuple: client.tuple,
            v4: answer.relayed.of(Family::V4),
            v6: answer.relayed.of(Family::V6),
            lifetime_s: answer.lifetime_s,
        }))));
        let allocation = Allocation::new(NewAllocation {
            client,
            identity: pending.identity,
            session,
            meter,
            now,
            answer,
            mobile: pending.mobile,
        });
        let ticket = self.first_ticket(&allocation);
        self.table.insert(pending.id, allocation);
        self.channels_changed(pending.id);
        self.stats.allocations_started += 1;
        *self.stats.allocations_mut(client.tuple.transport) += 1;
        self.success(&pending.answer, out, |builder| {
            fill(builder, &answer, ticket.as_ref(), client.tuple.client)
        });
    }

    /// Which family of a dual allocation could not be had, and why.
    //= rfc8656#section-7.2
    //# If the server can partially meet the request, i.e., if it can only allocate one relayed
    //# transport address of a specific address type, then it includes ADDRESS-ERROR-CODE attribute
    //# in the success response to inform the client the reason for partial failure of the request.
    fn partial_failure(
        &self,
        v4: Option<RelayAddr>,
        v6: Option<RelayAddr>,
    ) -> Option<(Family, u16)> {
        let family = match (v4, v6) {
            (Some(_), Some(_)) => return None,
            (None, _) => Family::V4,
            (Some(_), None) => Family::V6,
        };
        let code = if self.config.supports(family) {
            code::INSUFFICIENT_CAPACITY
        } else {
            code::ADDRESS_FAMILY_NOT_SUPPORTED
        };
        Some((family, code))
    }

    /// An Allocate on a five-tuple that has an allocation: a retransmission gets the same answer.
    //= rfc8656#section-7.2
    //# The server checks if the 5-tuple is currently in use by an existing allocation.
    pub(crate) fn allocate_again(&mut self, call: &Call<'_>, id: AllocationId, out: &mut [u8]) {
        let Some(allocation) = self.table.get(id) else {
            return;
        };
        let (answer, ticket) = (allocation.answer, self.first_ticket(allocation));
        if answer.transaction != call.answer.transaction {
            return self.error(&call.answer, Outcome::AllocationMismatch, out);
        }
        let mapped = call.answer.client.tuple.client;
        self.success(&call.answer, out, |builder| fill(builder, &answer, ticket.as_ref(), mapped));
    }

    /// Has sockets closed that came too late for their Allocate.
    fn close_unwanted(&mut self, bound: &Bound) {
        for (family, address) in [(Family::V4, &bound.v4), (Family::V6, &bound.v6)] {
            if let Some(Ok(_)) = address {
                let relay = RelayId { allocation: bound.allocation, family };
                self.effects.push_back(Effect::Close { relay });
            }
        }
    }

    /// Gives up an Allocate whose [`Effect::Bind`] was never answered: the shell broke its
    /// promise, and no slot or count may be lost for it.
    pub(crate) fn abandon_pending(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.give_up(&pending);
        }
    }
}

/// ADDITIONAL-ADDRESS-FAMILY under either of its numbers.
fn additional_family(msg: &Message<'_>) -> Result<Option<AdditionalAddressFamily>, Malformed> {
    let old = msg.raw(OLD_ADDITIONAL_ADDRESS_FAMILY);
    let old = old.is_some_and(|value| value == [Family::V6.number(), 0, 0, 0]);
    let family = Some(Family::V6);
    Ok(msg.get()?.or_else(|| old.then_some(AdditionalAddressFamily { family })))
}

/// The attributes of an Allocate success response.
fn fill(
    builder: &mut Builder<'_>,
    answer: &AllocateAnswer,
    ticket: Option<&[u8; TICKET_LEN]>,
    mapped: core::net::SocketAddr,
) -> Result<(), BufferFull> {
    for addr in [Family::V4, Family::V6].into_iter().filter_map(|f| answer.relayed.of(f)) {
        builder.add(&XorRelayedAddress(addr))?;
    }
    builder.add(&Lifetime(answer.lifetime_s))?;
    if let Some(token) = answer.reservation {
        builder.add(&ReservationToken(token))?;
    }
    if let Some((family, code)) = answer.failed {
        builder.add(&AddressErrorCode { family, code, reason: code::reason(code).as_bytes() })?;
    }
    //= rfc8016#section-3.1.2
    //# If the server can successfully process the request and create an allocation, the server replies
    //# with a success response that includes a STUN MOBILITY-TICKET attribute.
    if let Some(ticket) = ticket {
        builder.add(&MobilityTicket(ticket))?;
    }
    builder.add(&XorMappedAddress(mapped))
}
