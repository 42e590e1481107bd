//! TCP allocations (RFC 6062): Connect, ConnectionBind, connections that peers open, how all of
//! these end, and how their bytes are held to the limits.
//!
//! The shell makes, accepts, joins and closes sockets. A connection begins with
//! [`Effect::Connect`] or [`Server::accept_peer`], is joined to the client's data connection by
//! [`Effect::Splice`], and ends with [`Effect::Disconnect`] or [`Event::ConnectionClosed`], one of
//! them.
//!
//! [`Event::ConnectionClosed`]: crate::Event::ConnectionClosed

use core::net::SocketAddr;

use turnway_wire::{self as wire, Builder, Class, Method, XorPeerAddress};

use crate::address::{AllocationId, ConnectionId, Now, PeerAddr, Protocol, RelayId};
use crate::auth::Identity;
use crate::connections::{Connection, State};
use crate::effect::{ConnectFailure, Effect, Stream, Traffic};
use crate::ledger::Direction;
use crate::limits::{CONNECT_TIMEOUT_S, CONNECTION_BIND_TIMEOUT_S};
use crate::meter::Admission;
use crate::outcome::{ConnectionEnd, Outcome, Reason};
use crate::request::Call;
use crate::server::Server;

/// Bytes of a stream that are admitted at a time, so that what others send is not kept waiting for
/// long. Where a limit has a smaller burst, no more than that could ever pass.
const PIECE: usize = 16 * 1024;

/// How long a stream that is over a limit waits until it asks again.
const WAIT_NS: u64 = 10_000_000;

impl Server {
    /// Connect (RFC 6062 section 5.2), on the control connection.
    pub(crate) fn connect(&mut self, call: &Call<'_>, id: AllocationId, now: Now, out: &mut [u8]) {
        let peer = match self.wanted_peer(call, id) {
            Ok(peer) => peer,
            Err(outcome) => return self.error(&call.answer, outcome, out),
        };
        //= rfc6062#section-5.2
        //# Otherwise, the server MUST initiate an outgoing TCP connection.
        let connection = self.connections.insert(Connection {
            allocation: id,
            peer,
            state: State::Connecting {
                answer: Box::new(call.answer.clone()),
                //= rfc6062#section-5.2
                //# The timeout value MUST be at least 30 seconds.
                until_ns: now.after_s(CONNECT_TIMEOUT_S),
            },
        });
        self.stats.connections += 1;
        //= rfc6062#section-5.2
        //# The local endpoint is the relayed transport address associated with the allocation.
        let via = RelayId { allocation: id, family: peer.family() };
        self.effects.push_back(Effect::Connect { connection, via, to: peer.socket() });
    }

    fn wanted_peer(&self, call: &Call<'_>, id: AllocationId) -> Result<PeerAddr, Outcome> {
        let allocation = self.table.get(id).ok_or(Outcome::AllocationMismatch)?;
        match allocation.protocol() {
            // The RFC has no word for it; coturn's clients know this one.
            Protocol::Udp => return Err(Outcome::Forbidden),
            Protocol::Tcp => {}
        }
        //= rfc6062#section-5.2
        //# If the request does not contain an XOR-PEER-ADDRESS attribute, or if such attribute is
        //# invalid, the server MUST return a 400 (Bad Request) error.
        let peer = call.msg.get::<XorPeerAddress>().map_err(|_| Outcome::BadRequest)?;
        let XorPeerAddress(peer) = peer.ok_or(Outcome::BadRequest)?;
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let peer = policy.to_local(PeerAddr::new(peer));
        //= rfc6062#section-5.2
        //# If the server is currently processing a Connect request for this allocation with the same
        //# XOR-PEER-ADDRESS, it MUST return a 446 (Connection Already Exists) error.
        //= rfc6062#section-5.2
        //# If the server has already successfully processed a Connect request for this allocation
        //# with the same XOR-PEER-ADDRESS, and the resulting client and peer data connections are
        //# either pending or active, it MUST return a 446 (Connection Already Exists) error.
        if self.connections.find(id, peer).is_some() {
            return Err(Outcome::ConnectionExists);
        }
        //= rfc6062#section-5.2
        //# If the new connection is forbidden by local policy, the server MUST reject the request
        //# with a 403 (Forbidden) error.
        self.judge(id, peer)?;
        if !policy.check(Protocol::Tcp, peer, &self.shared.live) {
            return Err(Outcome::Forbidden);
        }
        if self.has_all_connections(id) {
            return Err(Outcome::InsufficientCapacity);
        }
        Ok(peer)
    }

    fn has_all_connections(&self, id: AllocationId) -> bool {
        self.connections.of(id).count() >= self.config.limits.connections_per_allocation
    }

    /// [`Effect::Connect`] came to an end: the Connect request is answered.
    pub(crate) fn connected(
        &mut self,
        id: ConnectionId,
        result: Result<(), ConnectFailure>,
        now: Now,
        out: &mut [u8],
    ) {
        if let Err(failure) = result {
            let end = match failure {
                ConnectFailure::Refused => ConnectionEnd::Failed,
                ConnectFailure::NoResources => ConnectionEnd::NoResources,
            };
            return self.fail(id, end, out);
        }
        let waiting = State::Waiting { until_ns: now.after_s(CONNECTION_BIND_TIMEOUT_S) };
        let Some(State::Connecting { answer, .. }) = self.connections.set_state(id, waiting) else {
            return;
        };
        self.stats.connections_made += 1;
        //= rfc6062#section-5.2
        //# The server MUST include the CONNECTION-ID attribute in the Connect success response.
        self.success(&answer, out, |builder| builder.add(&wire::ConnectionId(id.0)));
    }

    /// Answers the Connect request of a connection that could not be made.
    fn fail(&mut self, id: ConnectionId, end: ConnectionEnd, out: &mut [u8]) {
        let Some(connection) = self.connections.remove(id) else { return };
        self.count_end(end);
        if let State::Connecting { answer, .. } = connection.state {
            //= rfc6062#section-5.2
            //# If the connection attempt fails or times out, the server MUST return a 447
            //# (Connection Timeout or Failure) error.
            self.error(&answer, Outcome::ConnectionFailed, out);
        }
    }

    /// A peer has connected to a relayed transport address. Gives the connection its name and
    /// writes a ConnectionAttempt indication to `out` ([`Effect::Indicate`]).
    ///
    /// # Errors
    ///
    /// The connection must be closed at once; why is counted.
    pub fn accept_peer(
        &mut self,
        relay: RelayId,
        from: SocketAddr,
        now: Now,
        out: &mut [u8],
    ) -> Result<ConnectionId, Reason> {
        let accepted = self.accept(relay, PeerAddr::new(from), now, out);
        if let Err(reason) = accepted {
            self.stats.peer_drops[reason.index()] += 1;
        }
        accepted
    }

    fn accept(
        &mut self,
        relay: RelayId,
        peer: PeerAddr,
        now: Now,
        out: &mut [u8],
    ) -> Result<ConnectionId, Reason> {
        let id = relay.allocation;
        let allocation = self.table.get(id).ok_or(Reason::NoAllocation)?;
        let client = allocation.client;
        let bound = allocation.relay(relay.family).ok_or(Reason::NoAllocation)?;
        if bound.expires_ns <= now.mono_ns {
            return Err(Reason::Expired);
        }
        //= rfc6062#section-5.3
        //# If no permission for this peer has been installed for this allocation, the server MUST
        //# close the connection with the peer immediately after it has been accepted.
        let permission = allocation
            .permission(peer.ip())
            .filter(|permission| permission.expires_ns > now.mono_ns)
            .ok_or(Reason::NoPermission)?;
        let policy = &self.config.realms.get(allocation.identity.realm()).policy;
        let shown = policy.to_external(peer).socket();
        if permission.own && !policy.check(Protocol::Tcp, peer, &self.shared.live) {
            return Err(Reason::PeerDenied);
        }
        // The one there was has ended, if the kernel lets the same two addresses have another; the
        // shell has not heard of it yet.
        if self.connections.find(id, peer).is_some() || self.has_all_connections(id) {
            return Err(Reason::TooManyConnections);
        }
        let connection = self.connections.insert(Connection {
            allocation: id,
            peer,
            state: State::Waiting { until_ns: now.after_s(CONNECTION_BIND_TIMEOUT_S) },
        });
        self.stats.connections += 1;
        self.stats.connections_accepted += 1;
        //= rfc6062#section-5.3
        //# The indication MUST include an XOR-PEER-ADDRESS attribute containing the peer's transport
        //# address, as well as a CONNECTION-ID attribute uniquely identifying the peer data
        //# connection.
        let method = Method::CONNECTION_ATTEMPT;
        let transaction = self.new_transaction();
        let written =
            Builder::new(out, Class::Indication, method, transaction).and_then(|mut b| {
                b.add(&wire::ConnectionId(connection.0))?;
                b.add(&XorPeerAddress(shown))?;
                Ok(b.finish())
            });
        let len = written.expect("two attributes fit into the buffer that is asked for");
        self.effects.push_back(Effect::Indicate { to: client, len });
        Ok(connection)
    }

    /// ConnectionBind (RFC 6062 section 5.4), on a connection of its own.
    pub(crate) fn connection_bind(
        &mut self,
        call: &Call<'_>,
        identity: &Identity,
        now: Now,
        out: &mut [u8],
    ) {
        match self.wanted_connection(call, identity, now) {
            Err(outcome) => self.error(&call.answer, outcome, out),
            Ok(connection) => {
                self.connections.set_state(connection, State::Bound);
                self.success(&call.answer, out, |b| b.add(&wire::ConnectionId(connection.0)));
                //= rfc6062#section-5.4
                //# Otherwise, the client connection is now called a client data connection.
                let client = call.answer.client;
                self.effects.push_back(Effect::Splice { connection, client });
            }
        }
    }

    fn wanted_connection(
        &mut self,
        call: &Call<'_>,
        identity: &Identity,
        now: Now,
    ) -> Result<ConnectionId, Outcome> {
        //= rfc6062#section-5.4
        //# If the client connection transport is not TCP or TLS, the server MUST return a 400 (Bad
        //# Request) error.
        if !call.answer.client.tuple.transport.is_stream() {
            return Err(Outcome::BadRequest);
        }
        //= rfc6062#section-5.4
        //# If the request does not contain the CONNECTION-ID attribute, or if this attribute does
        //# not refer to an existing pending connection, the server MUST return a 400 (Bad Request)
        //# error.
        let id = call.msg.get::<wire::ConnectionId>().map_err(|_| Outcome::BadRequest)?;
        let id = id.map(|id| ConnectionId(id.0)).ok_or(Outcome::BadRequest)?;
        let allocation = self.connections.get(id).map(|connection| connection.allocation);
        let owner = allocation.and_then(|id| self.table.get(id)).ok_or(Outcome::BadRequest)?;
        let tuple = owner.client.tuple;
        // What has run out is ended first.
        self.find_live(&tuple, now);
        let connection = self.connections.get(id).ok_or(Outcome::BadRequest)?;
        let owner = self.table.get(connection.allocation).ok_or(Outcome::BadRequest)?;
        match &connection.state {
            State::Waiting { until_ns } if *until_ns > now.mono_ns => {}
            State::Waiting { .. } | State::Connecting { .. } | State::Bound => {
                return Err(Outcome::BadRequest);
            }
        }
        //= rfc6062#section-4.3
        //# Authentication of the client by the server MUST use the same method and credentials as
        //# for the control connection.
        if !identity.same_user(&owner.identity) {
            return Err(Outcome::WrongCredentials);
        }
        Ok(id)
    }

    /// Either side of a connection has ended, and the shell has closed the other.
    pub(crate) fn connection_closed(&mut self, id: ConnectionId) {
        if self.connections.remove(id).is_some() {
            self.count_end(ConnectionEnd::Closed);
        }
    }

    /// Ends a connection that has waited for too long, if there is one, and says so. It may write
    /// a reply to `out`: drain [`Self::poll`], and call again until it says false.
    pub fn expire_connection(&mut self, now: Now, out: &mut [u8]) -> bool {
        let Some((until_ns, id)) = self.connections.next_deadline() else { return false };
        if until_ns > now.mono_ns {
            return false;
        }
        self.effects.push_back(Effect::Disconnect { connection: id });
        match self.connections.get(id).map(|connection| &connection.state) {
            Some(State::Connecting { .. }) => self.fail(id, ConnectionEnd::TimedOut, out),
            //= rfc6062#section-5.2
            //# If no ConnectionBind request associated with this peer data connection is received
            //# after 30 seconds, the peer data connection MUST be closed.
            //= rfc6062#section-5.3
            //# If no ConnectionBind request associated with this peer data connection is received
            //# after 30 seconds, the peer data connection MUST be closed.
            Some(State::Waiting { .. } | State::Bound) | None => {
                self.connections.remove(id);
                self.count_end(ConnectionEnd::Unbound);
            }
        }
        true
    }

    /// Has those connections of an allocation closed to whose peers `doomed` says so.
    //= rfc6062#section-5.5
    //# If the allocation associated with a data connection expires, the data connection MUST be
    //# closed.
    pub(crate) fn drop_connections(
        &mut self,
        id: AllocationId,
        end: ConnectionEnd,
        doomed: impl Fn(PeerAddr) -> bool,
    ) {
        let connections = self.connections.of(id).filter(|(peer, _)| doomed(*peer));
        let doomed: Vec<ConnectionId> = connections.map(|(_, connection)| connection).collect();
        for connection in doomed {
            self.connections.remove(connection);
            self.count_end(end);
            self.effects.push_back(Effect::Disconnect { connection });
        }
    }

    fn count_end(&mut self, end: ConnectionEnd) {
        self.stats.connections -= 1;
        self.stats.connections_ended[end.index()] += 1;
    }

    /// How many of `available` bytes of a bound connection's stream may go on now. What may is
    /// charged and counted: write all of it.
    pub fn admit_stream(
        &mut self,
        connection: ConnectionId,
        direction: Direction,
        available: usize,
        now: Now,
    ) -> Stream {
        let id = self.connections.get(connection).map(|connection| connection.allocation);
        let Some(allocation) = id.and_then(|id| self.table.get_mut(id)) else {
            return Stream::Close;
        };
        let len = available.min(PIECE).min(self.meters.smallest_burst(&allocation.meter));
        match self.meters.admit_piece(&mut allocation.meter, direction, len, now) {
            Admission::Pass => {}
            Admission::Lease => return Stream::Lease,
            // Nothing is lost of a stream, and a day is too long to wait.
            Admission::Drop(Reason::VolumeSpent) => {
                self.connections.remove(connection);
                self.count_end(ConnectionEnd::VolumeSpent);
                return Stream::Close;
            }
            Admission::Drop(_) => return Stream::Wait(now.mono_ns + WAIT_NS),
        }
        let relayed = Traffic::of(direction, 1, len as u64);
        allocation.traffic.add(relayed);
        self.stats.traffic_mut(allocation.client.tuple.transport).add(relayed);
        self.stats.streams.add(relayed);
        Stream::Bytes(len)
    }
}
