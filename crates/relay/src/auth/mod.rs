//! Who a client is: the long-term credential mechanism of RFC 8489 section 9.2.
//!
//! [`Auth`] is built once from an [`AuthConfig`] and never changes; all shards share it.
//! [`Auth::check`] reads a request in the RFC's order and answers with an [`Identity`], which an
//! allocation keeps, or with a [`Refusal`]. Nothing is stored for a client that is refused.
//!
//! | Module | What is there |
//! |---|---|
//! | `config` | what an operator sets, and what can be wrong with it |
//! | `nonce` | stateless nonces and their security-feature cookie |
//! | `users` | static users by name and by USERHASH |
//! | `rest` | time-limited names, their secrets and passwords |
//! | `oauth` | access tokens of an authorization server (RFC 7635) |
//! | `identity` | who has proved to be whom |
//! | `opaque` | OpaqueString (RFC 8265) |

mod config;
mod identity;
mod nonce;
mod oauth;
mod opaque;
mod rest;
#[cfg(test)]
mod tests;
mod users;

use core::fmt;
use core::net::SocketAddr;
use std::borrow::Cow;
use std::sync::Arc;

use turnway_wire::{
    AccessToken, Attribute, AttributeType, BufferFull, Builder, HEADER_LEN, IntegrityAlgorithm,
    IntegrityKey, LongTermKey, Message, Nonce, PasswordAlgorithm, PasswordAlgorithmAttribute,
    PasswordAlgorithms, Realm, ThirdPartyAuthorization, UserHash, Username,
};
use zeroize::Zeroizing;

use crate::address::RealmId;
use crate::limits::SHORTEST_ALLOCATE_ANSWER_MAX;
use crate::outcome::AuthFailure;
use crate::quota;

pub use config::{
    AuthConfig, AuthConfigError, OAuthConfig, OAuthKey, OAuthSecret, StaticUser, UserCredential,
};
pub use identity::Identity;
pub use opaque::opaque_string;
pub use rest::rest_password;

use identity::Proof;
use nonce::{Features, Nonces};
use oauth::Tokens;
use rest::Rest;
use users::Users;

/// The value of ERROR-CODE without a reason phrase.
const ERROR_CODE_LEN: usize = 4;

/// The characters of a realm: RFC 8489 section 14.9, "fewer than 128 characters".
const REALM_MAX: usize = 127;

/// The users of one realm and how they prove themselves. Immutable; shared among shards.
///
/// Secrets and keys are overwritten when it is dropped, and never shown by `Debug`.
pub struct Auth {
    id: RealmId,
    realm: Arc<[u8]>,
    /// What PASSWORD-ALGORITHMS lists, best first; empty: it is not sent.
    offered: Vec<PasswordAlgorithm>,
    /// The value of PASSWORD-ALGORITHMS with that list.
    offered_value: Vec<u8>,
    nonces: Nonces,
    users: Users,
    rest: Rest,
    tokens: Option<Tokens>,
    enforce_expiry: bool,
}

/// Why a request is not processed, and how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400, without REALM, NONCE and integrity.
    BadRequest,
    /// 401 with a challenge. `None`: the client has shown no credentials yet, as every first
    /// request must.
    Challenge(Option<AuthFailure>),
    /// 420: an access token where none was asked for.
    UnexpectedToken,
    /// 438 with a challenge: the nonce is too old, forged, or another client's.
    StaleNonce,
}

impl Auth {
    /// Checks the configuration and derives the keys of the static users.
    ///
    /// # Errors
    ///
    /// [`AuthConfigError`] says which user or setting is wrong, never what the secret was.
    pub fn new(config: AuthConfig) -> Result<Self, AuthConfigError> {
        let nonce_secret = Zeroizing::new(config.nonce_secret);
        if nonce_secret.is_empty() {
            return Err(AuthConfigError::EmptyNonceSecret);
        }
        if config.nonce_lifetime_s == 0 {
            return Err(AuthConfigError::ZeroNonceLifetime);
        }
        let realm = prepare_realm(&config.realm)?;
        let users = Users::new(config.users, &realm)?;
        let rest = Rest::new(config.rest_secrets, config.rest_separator)?;
        let anybody = !users.is_empty() || !rest.is_empty() || config.users_elsewhere;
        if !anybody && config.oauth.as_ref().is_none_or(|oauth| oauth.keys.is_empty()) {
            return Err(AuthConfigError::NobodyConfigured);
        }
        let tokens = config.oauth.map(Tokens::new).transpose()?;
        let offered = offered(&users, &realm, tokens.as_ref());
        let offered_value = value_of(&offered);
        let features = Features {
            password_algorithms: !offered.is_empty(),
            // Nobody can find the time-limited name that a hash was made of.
            username_anonymity: rest.is_empty(),
        };
        let nonces =
            Nonces::new(&nonce_secret, config.nonce_lifetime_s, &realm, features, &offered_value);
        let enforce_expiry = config.enforce_expiry;
        let (id, realm) = (config.id, Arc::from(realm));
        Ok(Self { id, realm, offered, offered_value, nonces, users, rest, tokens, enforce_expiry })
    }

    /// The realm, after OpaqueString.
    pub fn realm(&self) -> &Arc<[u8]> {
        &self.realm
    }

    /// The account of a name in this realm.
    fn account(&self, name: &[u8]) -> Arc<[u8]> {
        quota::account(name, (self.id != RealmId::FIRST).then_some(&*self.realm))
    }

    /// Adds what 401 and 438 carry: REALM, NONCE and, where they are offered, PASSWORD-ALGORITHMS
    /// and THIRD-PARTY-AUTHORIZATION.
    ///
    /// `client` is the address the response goes to; `unix_s` the Unix time in seconds.
    ///
    /// # Errors
    ///
    /// [`BufferFull`] if the attributes do not fit.
    pub fn add_challenge(
        &self,
        b: &mut Builder<'_>,
        client: SocketAddr,
        unix_s: u64,
    ) -> Result<(), BufferFull> {
        b.add(&Realm(&self.realm))?;
        b.add(&Nonce(&self.nonces.make(client, unix_s)))?;
        //= rfc8489#section-9.2.4
        //# If the server adds a
        //# PASSWORD-ALGORITHMS attribute, it MUST set the STUN Security
        //# Feature "Password algorithms" bit to 1.
        if !self.offered.is_empty() {
            b.add(&PasswordAlgorithms::new(&self.offered))?;
        }
        //= rfc7635#section-4
        //# The STUN server also
        //# includes the additional STUN attribute THIRD-PARTY-AUTHORIZATION,
        //# which signals the STUN client that the STUN server supports third-
        //# party authorization.
        if let Some(tokens) = &self.tokens {
            b.add(&ThirdPartyAuthorization(tokens.server_name()))?;
        }
        Ok(())
    }

    /// Whether there still is a user like one that was authenticated before, whatever his password
    /// is now. Of time-limited users no more is known than whether there are any, of bearers of
    /// tokens no more than whether the key of theirs is still in use.
    pub fn has(&self, identity: &Identity) -> bool {
        match (identity.proof, identity.expires_unix) {
            (Proof::Token { .. }, _) => {
                self.tokens.as_ref().is_some_and(|tokens| tokens.has(&identity.user))
            }
            (Proof::Password(_), Some(_)) => !self.rest.is_empty(),
            (Proof::Password(_), None) => self.users.get(&identity.user).is_some(),
        }
    }

    /// Finds out who sent a request (RFC 8489 section 9.2.4).
    ///
    /// `known` is the identity that the client's allocation keeps. `Ok(None)`: the request is
    /// that user's, checked with the cached key, without a look-up or an allocation of memory.
    /// `Ok(Some(_))`: authenticated by a look-up, because there is no `known`, or because the
    /// user or the algorithms are others than `known`'s.
    ///
    /// With `allow_expired`, `known` may go on after its end (a client may always give back what
    /// it holds). `unix_s` is the Unix time in seconds.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: how to answer instead of processing the request.
    pub fn check(
        &self,
        msg: &Message<'_>,
        client: SocketAddr,
        unix_s: u64,
        known: Option<&Identity>,
        allow_expired: bool,
    ) -> Result<Option<Identity>, Refusal> {
        //= rfc8489#section-9.2.4
        //# If the message does not contain a MESSAGE-INTEGRITY or MESSAGE-
        //# INTEGRITY-SHA256 attribute, the server MUST generate an error
        //# response with an error code of 401 (Unauthenticated).
        if msg.integrity().is_none() {
            return Err(Refusal::Challenge(None));
        }
        let token = read::<AccessToken<'_>>(msg)?;
        //= rfc7635#section-7
        //# If a STUN server receives an ACCESS-TOKEN attribute unexpectedly
        //# (because it had not previously sent out a THIRD-PARTY-AUTHORIZATION),
        //# it will respond with an error code of 420 (Unknown Attribute) as
        //# specified in Section 7.3.1 of [RFC5389].
        if token.is_some() && self.tokens.is_none() {
            return Err(Refusal::UnexpectedToken);
        }
        let claim = Claim::read(msg)?;
        // The RFC looks at the nonce last. Here it comes before anything that costs more than one
        // HMAC: a request with a dead nonce is answered without deriving a key or looking up a
        // user, and the feature bits that the next checks depend on are known to be our own. A
        // client with both a dead nonce and wrong credentials hears of the nonce first.
        //= rfc8489#section-9.2.4
        //# If the NONCE is no longer valid, the server MUST generate an error
        //# response with an error code of 438 (Stale Nonce).
        if !self.nonces.verify(claim.nonce, client, unix_s) {
            return Err(Refusal::StaleNonce);
        }
        let deadline = Deadline { unix_s, late_allowed: allow_expired };
        let checked = match token {
            Some(AccessToken(token)) => self.bearer(msg, &claim, token, deadline, known).map(Some),
            None => {
                let scheme = self.scheme(msg)?;
                self.authenticate(msg, &claim, scheme, deadline, known)
            }
        };
        checked.map_err(|cause| Refusal::Challenge(Some(cause)))
    }

    /// Who brought an access token (RFC 7635 section 7).
    fn bearer(
        &self,
        msg: &Message<'_>,
        claim: &Claim<'_>,
        token: &[u8],
        deadline: Deadline,
        known: Option<&Identity>,
    ) -> Result<Identity, AuthFailure> {
        let name = self.name(claim, known).filter(|_| claim.realm == &*self.realm);
        let (Some(kid), Some(tokens)) = (name, &self.tokens) else {
            return Err(AuthFailure::UnknownUser);
        };
        let late_allowed = deadline.late_allowed && known.is_some_and(Identity::is_bearer);
        let session = tokens.open(&kid, token, deadline.unix_s, late_allowed)?;
        //= rfc7635#section-7
        //# The STUN server uses the mac_key to compute the message integrity
        //# over the request, and if the resulting value does not match the
        //# contents of the MESSAGE-INTEGRITY attribute, then it rejects the
        //# request with an error response 401 (Unauthorized).
        let key = msg
            .integrity()
            .and_then(|algorithm| session.keys(algorithm).find(|key| msg.verify(key)))
            .ok_or(AuthFailure::WrongKey)?;
        Ok(Identity {
            realm: self.id,
            account: self.account(&kid),
            user: Arc::from(&*kid),
            expires_unix: Some(session.expires_unix),
            proof: Proof::Token { lifetime_s: session.lifetime_s },
            //= rfc7635#section-7
            //# Any response generated by the server MUST include the MESSAGE-
            //# INTEGRITY attribute, computed using the mac_key.
            key,
            current: true,
        })
    }

    /// Which algorithms a request with a valid nonce is to be processed with.
    fn scheme(&self, msg: &Message<'_>) -> Result<Scheme, Refusal> {
        let chosen = read::<PasswordAlgorithmAttribute>(msg)?.map(|attribute| attribute.0);
        let echoed = msg.raw(AttributeType::PASSWORD_ALGORITHMS);
        //= rfc8489#section-9.2.4
        //# If the request contains neither the PASSWORD-ALGORITHMS nor the
        //# PASSWORD-ALGORITHM algorithm, then the request is processed as
        //# though PASSWORD-ALGORITHM were MD5.
        if chosen.is_none() && echoed.is_none() {
            let password = PasswordAlgorithm::Md5;
            return Ok(Scheme { password, response: IntegrityAlgorithm::Sha1 });
        }
        let response = IntegrityAlgorithm::Sha256;
        if self.offered.is_empty() {
            //= rfc8489#section-14.12
            //# It
            //# contains the algorithm that the server must use to derive a key from
            //# the long-term password.
            let password = chosen.unwrap_or(PasswordAlgorithm::Md5);
            return Ok(Scheme { password, response });
        }
        //= rfc8489#section-9.2.4
        //# Otherwise, unless (1) PASSWORD-ALGORITHM and PASSWORD-
        //# ALGORITHMS are both present, (2) PASSWORD-ALGORITHMS matches
        //# the value sent in the response that sent this NONCE, and (3)
        //# PASSWORD-ALGORITHM matches one of the entries in PASSWORD-
        //# ALGORITHMS, the server MUST generate an error response with an
        //# error code of 400 (Bad Request).
        match (chosen, echoed) {
            (Some(password), Some(list))
                if list == self.offered_value && self.offered.contains(&password) =>
            {
                Ok(Scheme { password, response })
            }
            _ => Err(Refusal::BadRequest),
        }
    }

    /// Everything after the nonce and the algorithms: who the client says it is, and the proof.
    fn authenticate(
        &self,
        msg: &Message<'_>,
        claim: &Claim<'_>,
        scheme: Scheme,
        deadline: Deadline,
        known: Option<&Identity>,
    ) -> Result<Option<Identity>, AuthFailure> {
        //= rfc8489#section-9.2.4
        //# If the value of the USERNAME or USERHASH attribute is not valid,
        //# the server MUST generate an error response with an error code of
        //# 401 (Unauthenticated).
        let name = self.name(claim, known).filter(|_| claim.realm == &*self.realm);
        let Some(name) = name else {
            spend_as_for_a_wrong_key(msg);
            return Err(AuthFailure::UnknownUser);
        };
        let known = known.filter(|known| *known.user == *name);
        // Who has no allocation of that name has nothing to go on with. A token ends what it began,
        // whatever holds for time-limited names.
        let late_allowed = known.is_some_and(|known| {
            deadline.late_allowed || !(self.enforce_expiry || known.is_bearer())
        });
        let deadline = Deadline { late_allowed, ..deadline };
        match known.filter(|known| known.was_verified_by(scheme, msg)) {
            Some(known) => {
                deadline.check(known.expires_unix)?;
                msg.verify(&known.key).then_some(None).ok_or(AuthFailure::WrongKey)
            }
            None => self.look_up(msg, &name, scheme, deadline).map(Some),
        }
    }

    /// Finds the user of a prepared name and checks the proof with a key made for it.
    fn look_up(
        &self,
        msg: &Message<'_>,
        name: &[u8],
        scheme: Scheme,
        deadline: Deadline,
    ) -> Result<Identity, AuthFailure> {
        let password = scheme.password;
        if let Some((user, keys)) = self.users.get(name) {
            let Some(key) = keys.get(password) else {
                spend_as_for_a_wrong_key(msg);
                return Err(AuthFailure::WrongKey);
            };
            let key = scheme.signed_by(msg, key).ok_or(AuthFailure::WrongKey)?;
            let account = match self.id {
                RealmId::FIRST => Arc::clone(user),
                RealmId(_) => self.account(user),
            };
            let user = Arc::clone(user);
            return Ok(Identity {
                realm: self.id,
                user,
                account,
                expires_unix: None,
                proof: Proof::Password(password),
                key,
                current: true,
            });
        }
        let Some(timed) = self.rest.read(name) else {
            spend_as_for_a_wrong_key(msg);
            return Err(match self.users.is_empty() {
                true => AuthFailure::NotTimeLimited,
                false => AuthFailure::UnknownUser,
            });
        };
        let expires_unix = Some(timed.expires_unix);
        deadline.check(expires_unix)?;
        let key = self.rest_key(msg, scheme, name).ok_or(AuthFailure::WrongKey)?;
        let (user, account) = (Arc::from(name), self.account(timed.account));
        let proof = Proof::Password(password);
        let realm = self.id;
        Ok(Identity { realm, user, account, expires_unix, proof, key, current: true })
    }

    /// The name a request claims, after OpaqueString; `None` if it cannot be a user's.
    fn name<'m>(&'m self, claim: &Claim<'m>, known: Option<&Identity>) -> Option<Cow<'m, [u8]>> {
        match claim.user {
            // A prepared name is known again without preparing it, and so without allocating.
            Claimed::Name(name) if known.is_some_and(|known| *known.user == *name) => {
                Some(Cow::Borrowed(name))
            }
            Claimed::Name(name) => opaque_string(name).map(|prepared| match prepared {
                Cow::Borrowed(prepared) => Cow::Borrowed(prepared.as_bytes()),
                Cow::Owned(prepared) => Cow::Owned(prepared.into_bytes()),
            }),
            Claimed::Hash(hash) => self.users.name_of(&hash).map(|name| Cow::Borrowed(&**name)),
        }
    }

    /// The key of a time-limited name under the secret that signed the request. All secrets are
    /// tried whichever it is, so that the answer's delay does not tell.
    fn rest_key(&self, msg: &Message<'_>, scheme: Scheme, name: &[u8]) -> Option<IntegrityKey> {
        self.rest.passwords(name).fold(None, |found, password| {
            let password = password.as_bytes();
            let key = LongTermKey::derive(scheme.password, name, &self.realm, password);
            scheme.signed_by(msg, key.as_bytes()).or(found)
        })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("realm", &String::from_utf8_lossy(&self.realm))
            .field("users", &self.users.len())
            .field("offered", &self.offered)
            .finish_non_exhaustive()
    }
}

/// The algorithms of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scheme {
    /// How the key is made of the password.
    password: PasswordAlgorithm,
    /// What the response is signed with.
    //= rfc8489#section-9.2.4
    //# Any response generated by the server MUST include the MESSAGE-
    //# INTEGRITY-SHA256 attribute, computed using the username and password
    //# utilized to authenticate the request, unless the request was
    //# processed as though PASSWORD-ALGORITHM was MD5 (because the request
    //# contained neither PASSWORD-ALGORITHMS nor PASSWORD-ALGORITHM).
    response: IntegrityAlgorithm,
}

impl Scheme {
    /// If `key` signed the request, that key for signing the response.
    //= rfc8489#section-9.2.4
    //# If the MESSAGE-INTEGRITY-SHA256 attribute is present, compute the
    //# value for the message integrity as described in Section 14.6,
    //# using the password associated with the username.
    fn signed_by(self, msg: &Message<'_>, key: &[u8]) -> Option<IntegrityKey> {
        let verifying = IntegrityKey::new(msg.integrity()?, key);
        if !msg.verify(&verifying) {
            return None;
        }
        // The attribute of the response depends on the password algorithm, not on the attribute
        // of the request, though the two agree in every client we know.
        Some(match verifying.algorithm() == self.response {
            true => verifying,
            false => IntegrityKey::new(self.response, key),
        })
    }
}

/// When a request came, and what is asked of time-limited names.
#[derive(Clone, Copy)]
struct Deadline {
    unix_s: u64,
    late_allowed: bool,
}

impl Deadline {
    /// A name is valid while its timestamp lies in the future.
    fn check(self, expires_unix: Option<u64>) -> Result<(), AuthFailure> {
        match expires_unix {
            Some(end) if end <= self.unix_s && !self.late_allowed => {
                Err(AuthFailure::Expired { by_s: self.unix_s - end })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What a signed request says about its sender.
struct Claim<'m> {
    user: Claimed<'m>,
    realm: &'m [u8],
    nonce: &'m [u8],
}

enum Claimed<'m> {
    Name(&'m [u8]),
    Hash([u8; 32]),
}

impl<'m> Claim<'m> {
    fn read(msg: &Message<'m>) -> Result<Self, Refusal> {
        //= rfc8489#section-9.2.4
        //# If the message contains a MESSAGE-INTEGRITY or a MESSAGE-
        //# INTEGRITY-SHA256 attribute, but is missing either the USERNAME or
        //# USERHASH, REALM, or NONCE attribute, the server MUST generate an
        //# error response with an error code of 400 (Bad Request).
        let user = match (read::<Username<'m>>(msg)?, read::<UserHash>(msg)?) {
            (Some(Username(name)), _) => Claimed::Name(without_trailing_nulls(name)),
            (None, Some(UserHash(hash))) => Claimed::Hash(hash),
            (None, None) => return Err(Refusal::BadRequest),
        };
        let Realm(realm) = read(msg)?.ok_or(Refusal::BadRequest)?;
        let Nonce(nonce) = read(msg)?.ok_or(Refusal::BadRequest)?;
        Ok(Self { user, realm: without_trailing_nulls(realm), nonce })
    }
}

/// An attribute that is there but malformed makes a bad request.
fn read<'m, A: Attribute<'m>>(msg: &Message<'m>) -> Result<Option<A>, Refusal> {
    msg.get().map_err(|_| Refusal::BadRequest)
}

/// RFC 8489 section 9.2.2 takes name and realm "with any quotes and trailing nulls removed".
/// Our realm has no quotes ([`prepare_realm`]); a quote in a name is part of it, as everywhere.
fn without_trailing_nulls(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &text[..end]
}

/// A name that is not there must cost what a wrong password costs, or the answer's delay would
/// tell which names are.
fn spend_as_for_a_wrong_key(msg: &Message<'_>) {
    if let Some(algorithm) = msg.integrity() {
        core::hint::black_box(msg.verify(&IntegrityKey::new(algorithm, &[0; 32])));
    }
}

fn prepare_realm(realm: &str) -> Result<Box<[u8]>, AuthConfigError> {
    opaque_string(realm.as_bytes())
        .filter(|realm| realm.chars().count() <= REALM_MAX && !realm.contains(['"', '\\']))
        .map(|realm| realm.as_bytes().into())
        .ok_or(AuthConfigError::BadRealm)
}

/// The challenge goes out before the user is known, so only what every user can be served with is
/// offered. Without SHA-256 there is nothing to choose, and nothing is offered; nor where a long
/// realm leaves no room, for a challenge that is not sent keeps everybody out.
fn offered(users: &Users, realm: &[u8], tokens: Option<&Tokens>) -> Vec<PasswordAlgorithm> {
    if !users.all_serve(PasswordAlgorithm::Sha256) {
        return Vec::new();
    }
    let offered: Vec<_> = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]
        .into_iter()
        .filter(|algorithm| users.all_serve(*algorithm))
        .collect();
    let attribute = |len: usize| 4 + len.next_multiple_of(4);
    let challenge = HEADER_LEN
        + attribute(ERROR_CODE_LEN)
        + attribute(realm.len())
        + attribute(nonce::NONCE_LEN)
        + tokens.map_or(0, |tokens| attribute(tokens.server_name().len()))
        + attribute(4 * offered.len());
    let fits = challenge <= SHORTEST_ALLOCATE_ANSWER_MAX;
    if fits { offered } else { Vec::new() }
}

/// PASSWORD-ALGORITHMS as it goes over the wire: our algorithms have no parameters.
fn value_of(algorithms: &[PasswordAlgorithm]) -> Vec<u8> {
    algorithms
        .iter()
        .flat_map(|algorithm| {
            let [high, low] = algorithm.number().to_be_bytes();
            [high, low, 0, 0]
        })
        .collect()
}
