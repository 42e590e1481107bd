//! From a STUN message to the handler of its method: the checks that all requests share.
//!
//! The order is RFC 8489 section 6.3: the format, the authentication, unknown attributes, then
//! what the method asks. Each method has a file of its own.

use core::net::SocketAddr;
use std::sync::Arc;

use turnway_wire::{
    AttributeType, BufferFull, Builder, Class, ErrorCode, IntegrityKey, Lifetime, Message, Method,
    TransactionId, UnknownAttributes, code,
};

use crate::address::{AllocationId, Client, Now, RealmId};
use crate::auth::{Identity, Refusal};
use crate::effect::{AuthFailed, Effect, Record};
use crate::limits::{AMPLIFICATION_MAX, AUTH_RECORDS_PER_SECOND};
use crate::outcome::{AuthFailure, Outcome, Reason, Request};
use crate::realms::Asked;
use crate::server::Server;
use crate::stats::auth_failure_index;

/// An authenticated request on its way through its handler.
pub(crate) struct Call<'a> {
    pub(crate) msg: Message<'a>,
    pub(crate) answer: Answer,
}

/// Where and how a request is answered.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) request: Request,
    pub(crate) client: Client,
    pub(crate) method: Method,
    pub(crate) transaction: TransactionId,
    pub(crate) fingerprint: bool,
    /// Whose credentials an unauthenticated client is asked for.
    pub(crate) realm: RealmId,
    /// Signs the response; `None` while the client is unauthenticated.
    pub(crate) key: Option<IntegrityKey>,
}

impl Answer {
    fn new(request: Request, client: Client, msg: &Message<'_>) -> Self {
        Self {
            request,
            client,
            method: msg.method(),
            transaction: msg.transaction_id(),
            fingerprint: msg.has_fingerprint(),
            realm: client.realm,
            key: None,
        }
    }

    /// Writes a response and returns its length.
    //= rfc8489#section-6.3.1.1
    //= type=exception
    //= reason=It would tell an attacker which holes to try (section 16.1.2), and make answers to
    //= reason=strangers longer.
    //# In addition, the server SHOULD add a SOFTWARE attribute to the
    //# message.
    //= rfc8656#section-5
    //= type=exception
    //= reason=It would tell an attacker which holes to try (section 21.1.6), and make answers to
    //= reason=strangers longer.
    //# The server SHOULD include the SOFTWARE attribute in all Allocate and
    //# Refresh responses (either success or failure) and MAY include it in
    //# other responses or indications.
    pub(crate) fn write(
        &self,
        out: &mut [u8],
        class: Class,
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) -> Result<usize, BufferFull> {
        let mut builder = Builder::new(out, class, self.method, self.transaction)?;
        fill(&mut builder)?;
        if let Some(key) = &self.key {
            builder.integrity(key)?;
        }
        if self.fingerprint {
            builder.fingerprint()?;
        }
        Ok(builder.finish())
    }
}

impl Server {
    /// Answers a STUN request, or drops what is none.
    pub(crate) fn request(&mut self, from: Client, data: &[u8], now: Now, out: &mut [u8]) {
        self.abandon_pending();
        let Ok(msg) = Message::parse(data) else {
            //= rfc8489#section-6.3
            //# If any errors are detected, the message is silently discarded.
            self.stats.client_drops[Reason::Malformed.index()] += 1;
            return;
        };
        let request = match (msg.class(), msg.method()) {
            (Class::Request, Method::BINDING) => Request::Binding,
            (Class::Request, Method::ALLOCATE) => Request::Allocate,
            (Class::Request, Method::REFRESH) => Request::Refresh,
            (Class::Request, Method::CREATE_PERMISSION) => Request::CreatePermission,
            (Class::Request, Method::CHANNEL_BIND) => Request::ChannelBind,
            (Class::Request, Method::CONNECT) => Request::Connect,
            (Class::Request, Method::CONNECTION_BIND) => Request::ConnectionBind,
            (Class::Request | Class::Indication | Class::Success | Class::Error, _) => {
                self.stats.client_drops[Reason::Unexpected.index()] += 1;
                return;
            }
        };
        let answer = Answer::new(request, from, &msg);
        match request {
            Request::Binding => self.binding(&Call { msg, answer }, now, out),
            Request::Allocate
            | Request::Refresh
            | Request::CreatePermission
            | Request::ChannelBind
            | Request::Connect
            | Request::ConnectionBind => self.authenticate(msg, answer, now, out),
        }
    }

    fn authenticate(&mut self, msg: Message<'_>, answer: Answer, now: Now, out: &mut [u8]) {
        let tuple = answer.client.tuple;
        let id = self.meant_by(&msg, answer.request, &tuple, now);
        let known = id.and_then(|id| self.table.get(id)).map(|allocation| &allocation.identity);
        // Whoever may no longer use the relay may still say that he is gone.
        let leaving =
            answer.request == Request::Refresh && msg.get::<Lifetime>() == Ok(Some(Lifetime(0)));
        let held = known.map(Identity::realm);
        let Asked { shown, wanted } = self.config.realms.asked(&msg, answer.client.realm, held);
        let answer = Answer { realm: wanted, ..answer };
        // What proved somebody in one realm proves nothing in another.
        let known = known.filter(|known| known.realm() == shown);
        let auth = &self.config.realms.get(shown).auth;
        let checked = auth.check(&msg, tuple.client, now.unix_s, known, leaving);
        let fresh = match checked {
            Ok(fresh) => fresh,
            Err(refusal) => return self.refuse(&msg, &answer, refusal, now, out),
        };
        let key = fresh.as_ref().or(known).map(|identity| identity.key().clone());
        let call = Call { msg, answer: Answer { key, ..answer } };
        if self.rejects_unknown(&call, &[], out) {
            return;
        }
        self.dispatch(&call, id, fresh, now, out);
    }

    fn dispatch(
        &mut self,
        call: &Call<'_>,
        id: Option<AllocationId>,
        fresh: Option<Identity>,
        now: Now,
        out: &mut [u8],
    ) {
        if call.answer.request == Request::Refresh && call.msg.has(AttributeType::MOBILITY_TICKET) {
            return self.resume(call, id, fresh, now, out);
        }
        let Some(id) = id else {
            return match (call.answer.request, fresh) {
                (Request::Allocate, Some(identity)) => self.allocate(call, identity, now, out),
                (Request::ConnectionBind, Some(identity)) => {
                    self.connection_bind(call, &identity, now, out);
                }
                //= rfc8656#section-5
                //# For all TURN messages (including ChannelData) EXCEPT an Allocate request, if the
                //# 5-tuple does not identify an existing allocation, then the message MUST either be
                //# rejected with a 437 Allocation Mismatch error (if it is a request) or be silently
                //# ignored (if it is an indication or a ChannelData message).
                (
                    Request::Allocate
                    | Request::Refresh
                    | Request::CreatePermission
                    | Request::ChannelBind
                    //= rfc6062#section-5.2
                    //# If the request is received on a TCP connection for which no allocation
                    //# exists, the server MUST return a 437 (Allocation Mismatch) error.
                    | Request::Connect
                    | Request::ConnectionBind
                    | Request::Binding,
                    _,
                ) => self.error(&call.answer, Outcome::AllocationMismatch, out),
            };
        };
        let allocation = self.table.get_mut(id).expect("found by this request's five-tuple");
        if let Some(fresh) = fresh {
            if !fresh.same_user(&allocation.identity) {
                let outcome = match call.answer.request {
                    Request::Allocate => Outcome::AllocationMismatch,
                    //= rfc8656#section-5
                    //# then the request MUST be rejected with a 441 (Wrong Credentials) error.
                    Request::Refresh
                    | Request::CreatePermission
                    | Request::ChannelBind
                    | Request::Connect
                    | Request::ConnectionBind
                    | Request::Binding => Outcome::WrongCredentials,
                };
                return self.error(&call.answer, outcome, out);
            }
            allocation.identity = fresh.instead_of(&allocation.identity);
        }
        match call.answer.request {
            Request::Allocate => self.allocate_again(call, id, out),
            Request::Refresh => self.refresh(call, id, now, out),
            Request::CreatePermission => self.create_permission(call, id, now, out),
            Request::ChannelBind => self.channel_bind(call, id, now, out),
            Request::Connect => self.connect(call, id, now, out),
            //= rfc6062#section-4.3
            //# This connection MUST be made using a different local transport address.
            Request::ConnectionBind => self.error(&call.answer, Outcome::BadRequest, out),
            Request::Binding => self.binding(call, now, out),
        }
    }

    /// Answers 420 if the request has attributes that must be understood and are not. Those of
    /// `also` are understood here beside the usual.
    pub(crate) fn rejects_unknown(
        &mut self,
        call: &Call<'_>,
        also: &[AttributeType],
        out: &mut [u8],
    ) -> bool {
        let understood = |ty| understood(ty) || also.contains(&ty);
        let mut unknown = [AttributeType(0); UNKNOWN_MAX];
        let mut count = 0;
        // What authenticated a request was understood.
        let token = call.answer.key.is_some().then_some(AttributeType::ACCESS_TOKEN);
        let known = |ty| understood(ty) || token == Some(ty);
        for ty in call.msg.unknown_required(known).take(UNKNOWN_MAX) {
            unknown[count] = ty;
            count += 1;
        }
        if count > 0 {
            self.refuse_attributes(&call.answer, &unknown[..count], out);
        }
        count > 0
    }

    /// Answers 420.
    //= rfc8489#section-6.3.1
    //# If the request contains one or more unknown comprehension-required attributes, the
    //# server replies with an error response with an error code of 420 (Unknown Attribute)
    //# and includes an UNKNOWN-ATTRIBUTES attribute in the response that lists the unknown
    //# comprehension-required attributes.
    fn refuse_attributes(&mut self, answer: &Answer, unknown: &[AttributeType], out: &mut [u8]) {
        self.respond_error(answer, Outcome::UnknownAttribute, out, |builder| {
            builder.add(&UnknownAttributes::new(unknown))
        });
    }

    /// Answers a request whose credentials are missing or wrong, if the source's rate allows.
    fn refuse(
        &mut self,
        msg: &Message<'_>,
        answer: &Answer,
        refusal: Refusal,
        now: Now,
        out: &mut [u8],
    ) {
        if let Refusal::Challenge(Some(failure)) = refusal {
            self.record_auth_failure(msg, answer, failure, now);
        }
        if !self.may_answer(answer.client.tuple.client, now) {
            return;
        }
        let outcome = match refusal {
            Refusal::BadRequest => Outcome::BadRequest,
            Refusal::Challenge(_) => Outcome::Unauthenticated,
            Refusal::UnexpectedToken => {
                return self.refuse_attributes(answer, &[AttributeType::ACCESS_TOKEN], out);
            }
            Refusal::StaleNonce => Outcome::StaleNonce,
        };
        let challenged = match refusal {
            Refusal::BadRequest | Refusal::UnexpectedToken => false,
            Refusal::Challenge(_) | Refusal::StaleNonce => true,
        };
        let (config, client) = (Arc::clone(&self.config), answer.client.tuple.client);
        let request_len = msg.as_bytes().len();
        let written = answer.write(out, Class::Error, |builder| {
            builder.add(&ErrorCode { code: code_of(outcome), reason: b"" })?;
            if challenged {
                config.realms.get(answer.realm).auth.add_challenge(builder, client, now.unix_s)?;
            }
            Ok(())
        });
        match written {
            Ok(len) if !amplifies(client, request_len, len) => {
                self.stats.answered(answer.request, outcome);
                self.effects.push_back(Effect::Reply { to: answer.client, len });
            }
            // A request too short to be an honest client's, and a realm long enough to matter.
            Ok(_) | Err(BufferFull) => self.error(answer, Outcome::BadRequest, out),
        }
    }

    /// Whether an unauthenticated source may have one more answer. Counts the drop if not.
    pub(crate) fn may_answer(&mut self, source: SocketAddr, now: Now) -> bool {
        let allowed = self.shared.sources.allow(source.ip(), now.mono_ns);
        if !allowed {
            self.stats.client_drops[Reason::RateLimited.index()] += 1;
        }
        allowed
    }

    fn record_auth_failure(
        &mut self,
        msg: &Message<'_>,
        answer: &Answer,
        cause: AuthFailure,
        now: Now,
    ) {
        self.stats.auth_failures[auth_failure_index(cause)] += 1;
        if !self.auth_records.allow(now, AUTH_RECORDS_PER_SECOND) {
            self.auth_suppressed += 1;
            return;
        }
        let user = msg.raw(AttributeType::USERNAME).unwrap_or_default();
        self.effects.push_back(Effect::Log(Record::AuthFailed(Box::new(AuthFailed {
            user: user.into(),
            tuple: answer.client.tuple,
            cause,
            suppressed: core::mem::take(&mut self.auth_suppressed),
        }))));
    }

    /// Answers success.
    pub(crate) fn success(
        &mut self,
        answer: &Answer,
        out: &mut [u8],
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) {
        let written = answer.write(out, Class::Success, fill);
        self.reply(answer, Outcome::Success, written);
    }

    /// Answers an error.
    pub(crate) fn error(&mut self, answer: &Answer, outcome: Outcome, out: &mut [u8]) {
        self.respond_error(answer, outcome, out, |_| Ok(()));
    }

    pub(crate) fn respond_error(
        &mut self,
        answer: &Answer,
        outcome: Outcome,
        out: &mut [u8],
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), BufferFull>,
    ) {
        let code = code_of(outcome);
        // Words help whoever debugs a client; an unauthenticated source gets none to amplify.
        let reason = answer.key.as_ref().map_or("", |_| code::reason(code)).as_bytes();
        let written = answer.write(out, Class::Error, |builder| {
            builder.add(&ErrorCode { code, reason })?;
            fill(builder)
        });
        self.reply(answer, outcome, written);
    }

    /// Sends an answer that is written to whoever asked.
    pub(crate) fn reply(
        &mut self,
        answer: &Answer,
        outcome: Outcome,
        written: Result<usize, BufferFull>,
    ) {
        let len = written.expect("no response is longer than the buffer `handle` asks for");
        self.stats.answered(answer.request, outcome);
        self.effects.push_back(Effect::Reply { to: answer.client, len });
    }
}

/// The STUN error code of an outcome; `Success` has none and gives 0.
pub(crate) fn code_of(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Success => 0,
        Outcome::TryAlternate => code::TRY_ALTERNATE,
        Outcome::BadRequest => code::BAD_REQUEST,
        Outcome::Unauthenticated => code::UNAUTHENTICATED,
        Outcome::Forbidden => code::FORBIDDEN,
        Outcome::MobilityForbidden => code::MOBILITY_FORBIDDEN,
        Outcome::UnknownAttribute => code::UNKNOWN_ATTRIBUTE,
        Outcome::AllocationMismatch => code::ALLOCATION_MISMATCH,
        Outcome::StaleNonce => code::STALE_NONCE,
        Outcome::FamilyNotSupported => code::ADDRESS_FAMILY_NOT_SUPPORTED,
        Outcome::WrongCredentials => code::WRONG_CREDENTIALS,
        Outcome::UnsupportedTransport => code::UNSUPPORTED_TRANSPORT,
        Outcome::FamilyMismatch => code::PEER_ADDRESS_FAMILY_MISMATCH,
        Outcome::ConnectionExists => code::CONNECTION_ALREADY_EXISTS,
        Outcome::ConnectionFailed => code::CONNECTION_TIMEOUT,
        Outcome::QuotaReached => code::ALLOCATION_QUOTA_REACHED,
        Outcome::InsufficientCapacity => code::INSUFFICIENT_CAPACITY,
    }
}

/// Whether an answer is too much larger than what provoked it, headers included.
fn amplifies(client: SocketAddr, request_len: usize, answer_len: usize) -> bool {
    let headers = if client.is_ipv4() { 20 + 8 } else { 40 + 8 };
    answer_len + headers > AMPLIFICATION_MAX * (request_len + headers)
}

/// The comprehension-required attributes a STUN and TURN server acts on, or may ignore knowingly.
pub(crate) fn understood(ty: AttributeType) -> bool {
    matches!(
        ty,
        AttributeType::MAPPED_ADDRESS
            | AttributeType::USERNAME
            | AttributeType::MESSAGE_INTEGRITY
            | AttributeType::MESSAGE_INTEGRITY_SHA256
            | AttributeType::ERROR_CODE
            | AttributeType::UNKNOWN_ATTRIBUTES
            | AttributeType::REALM
            | AttributeType::NONCE
            | AttributeType::USERHASH
            | AttributeType::PASSWORD_ALGORITHM
            | AttributeType::XOR_MAPPED_ADDRESS
            | AttributeType::CHANNEL_NUMBER
            | AttributeType::LIFETIME
            | AttributeType::CONNECTION_ID
            | AttributeType::XOR_PEER_ADDRESS
            | AttributeType::DATA
            | AttributeType::XOR_RELAYED_ADDRESS
            | AttributeType::REQUESTED_ADDRESS_FAMILY
            | AttributeType::EVEN_PORT
            | AttributeType::REQUESTED_TRANSPORT
            | AttributeType::DONT_FRAGMENT
            | AttributeType::RESERVATION_TOKEN
    )
}

/// Unknown attributes listed in a 420; more would only make the answer longer.
const UNKNOWN_MAX: usize = 16;
