//! Parse, verify and answer one authenticated ChannelBind: ours against the `stun` crate, in turns.
//!
//! Prints nanoseconds per request for each and the ratio. Fails if ours touches the heap, or if it
//! takes more than a fifth of the time of `stun`. Run with `cargo bench --bench wire`.

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stun::message::Setter as _;
use turnway_wire::{
    AttributeType, Builder, ChannelNumber, Class, IntegrityAlgorithm, IntegrityKey, LongTermKey,
    Message, Method, Nonce, PasswordAlgorithm, Realm, TransactionId, Username, XorPeerAddress,
};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Turns each takes; the medians are compared, so that a disturbed turn does not count.
const ROUNDS: usize = 41;
/// Requests per turn.
const REQUESTS: u32 = 10_000;
/// What the time of `stun` is to be divided by.
const TARGET: f64 = 5.0;

const USERNAME: &[u8] = b"alice";
const REALM: &[u8] = b"example.org";
const NONCE: &[u8] = b"obMatJos2AAAB0123456789abcdefghijklmnopq";
const TID: TransactionId = TransactionId(*b"transaction1");

fn main() {
    let key = LongTermKey::derive(PasswordAlgorithm::Md5, USERNAME, REALM, b"secret");
    let ours_key = IntegrityKey::new(IntegrityAlgorithm::Sha1, key.as_bytes());
    let stun_key = stun::integrity::MessageIntegrity(key.as_bytes().to_vec());
    let request = request(&ours_key);
    assert_eq!(request.len(), 144);

    let mut ours_reply = [0; 256];
    let mut stun_request = stun::message::Message::new();
    let mut stun_reply = stun::message::Message::new();
    let len = ours(&request, &ours_key, &mut ours_reply);
    stun(&request, &stun_key, &mut stun_request, &mut stun_reply);
    assert_eq!(ours_reply[..len], stun_reply.raw[..], "both give the same answer");

    let mut ours_ns = Vec::with_capacity(ROUNDS);
    let mut stun_ns = Vec::with_capacity(ROUNDS);
    let mut ours_allocations = 0;
    let mut stun_allocations = 0;
    for _ in 0..ROUNDS {
        let heap = Region::new(HEAP);
        ours_ns.push(time(|| {
            ours(black_box(&request), &ours_key, black_box(&mut ours_reply));
        }));
        let used = heap.change();
        ours_allocations += used.allocations + used.reallocations;

        let heap = Region::new(HEAP);
        stun_ns.push(time(|| {
            stun(black_box(&request), &stun_key, &mut stun_request, black_box(&mut stun_reply));
        }));
        let used = heap.change();
        stun_allocations += used.allocations + used.reallocations;
    }
    let (ours_ns, stun_ns) = (median(ours_ns), median(stun_ns));
    let faster = stun_ns / ours_ns;
    let requests = ROUNDS * REQUESTS as usize;
    println!("wire/channel-bind  parse, verify and answer one request of 144 bytes");
    println!("  turnway-wire  {ours_ns:7.0} ns  {ours_allocations} heap allocations");
    println!(
        "  stun          {stun_ns:7.0} ns  {} heap allocations each",
        stun_allocations / requests
    );
    println!("  stun / turnway-wire = {faster:.1} (target: at least {TARGET})");
    assert_eq!(ours_allocations, 0, "the codec touched the heap");
    assert!(faster >= TARGET, "more than a fifth of the time of stun");
}

/// The request as a client sends it.
fn request(key: &IntegrityKey) -> Vec<u8> {
    let mut out = [0; 256];
    let fits = "256 bytes are enough";
    let mut m = Builder::new(&mut out, Class::Request, Method::CHANNEL_BIND, TID).expect(fits);
    m.add(&ChannelNumber(0x4000)).expect(fits);
    let peer = "192.0.2.15:5000".parse().expect("an address");
    m.add(&XorPeerAddress(peer)).expect(fits);
    m.add(&Username(USERNAME)).expect(fits);
    m.add(&Realm(REALM)).expect(fits);
    m.add(&Nonce(NONCE)).expect(fits);
    m.integrity(key).expect(fits);
    m.fingerprint().expect(fits);
    let len = m.finish();
    out[..len].to_vec()
}

/// What a server does with it, by us: the length of the answer.
fn ours(request: &[u8], key: &IntegrityKey, reply: &mut [u8]) -> usize {
    let m = Message::parse(request).expect("a valid message");
    assert!(m.class() == Class::Request && m.method() == Method::CHANNEL_BIND);
    let username = m.get::<Username<'_>>().expect("well-formed").expect("present");
    let realm = m.get::<Realm<'_>>().expect("well-formed").expect("present");
    let nonce = m.get::<Nonce<'_>>().expect("well-formed").expect("present");
    assert!(username.0 == USERNAME && realm.0 == REALM && nonce.0 == NONCE);
    assert!(m.verify(key));
    assert!(m.unknown_required(|ty| ty.name().is_some()).next().is_none());
    let number = m.get::<ChannelNumber>().expect("well-formed").expect("present");
    let peer = m.get::<XorPeerAddress>().expect("well-formed").expect("present");
    black_box((number, peer));

    let fits = "the buffer holds any answer";
    let tid = m.transaction_id();
    let mut answer = Builder::new(reply, Class::Success, m.method(), tid).expect(fits);
    answer.integrity(key).expect(fits);
    if m.has(AttributeType::FINGERPRINT) {
        answer.fingerprint().expect(fits);
    }
    answer.finish()
}

/// The same by `stun`, which is lent both messages, so that their buffers are there already.
fn stun(
    request: &[u8],
    key: &stun::integrity::MessageIntegrity,
    m: &mut stun::message::Message,
    reply: &mut stun::message::Message,
) {
    use stun::attributes as a;
    use stun::fingerprint::FINGERPRINT;
    use stun::message as sm;
    use stun::textattrs::TextAttribute;
    m.unmarshal_binary(request).expect("a valid message");
    FINGERPRINT.check(m).expect("a right fingerprint");
    assert!(m.typ.class == sm::CLASS_REQUEST && m.typ.method == sm::METHOD_CHANNEL_BIND);
    let username = TextAttribute::get_from_as(m, a::ATTR_USERNAME).expect("present");
    let realm = TextAttribute::get_from_as(m, a::ATTR_REALM).expect("present");
    let nonce = TextAttribute::get_from_as(m, a::ATTR_NONCE).expect("present");
    let texts = [&username.text, &realm.text, &nonce.text].map(|text| text.as_bytes());
    assert!(texts == [USERNAME, REALM, NONCE]);
    key.check(m).expect("a valid integrity");
    let number = m.get(a::ATTR_CHANNEL_NUMBER).expect("present");
    let mut peer = stun::xoraddr::XorMappedAddress::default();
    peer.get_from_as(m, a::ATTR_XOR_PEER_ADDRESS).expect("present");
    black_box((number, peer));

    reply.reset();
    reply.typ = sm::MessageType::new(m.typ.method, sm::CLASS_SUCCESS_RESPONSE);
    reply.transaction_id = m.transaction_id;
    reply.write_header();
    key.add_to(reply).expect("no fingerprint yet");
    FINGERPRINT.add_to(reply).expect("it fits");
}

/// Nanoseconds per call, over [`REQUESTS`] of them.
fn time(mut request: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..REQUESTS {
        request();
    }
    start.elapsed().as_nanos() as f64 / f64::from(REQUESTS)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
