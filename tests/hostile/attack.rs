//! Messages that nobody would send in good faith.

use turnway_wire::{
    AdditionalAddressFamily, BufferFull, Builder, ChannelNumber, Class, Data, DontFragment,
    EvenPort, Family, Lifetime, Method, RequestedAddressFamily, RequestedTransport,
    ReservationToken, Software, XorPeerAddress,
};

use super::common::client::{Client, Random, UDP};

const HEADER: usize = 20;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const FINGERPRINT: u16 = 0x8028;

/// A source of hostile messages. Those that can be answered have each its own transaction id.
pub(crate) struct Attack {
    pub(crate) random: Random,
    bases: Vec<Vec<u8>>,
}

impl Attack {
    /// Half of the messages begin as ones of `insider`, with its nonce and a signature that does
    /// not fit any more.
    pub(crate) fn new(seed: u64, insider: &mut Client) -> Self {
        let mut bases = Vec::new();
        let peer = XorPeerAddress("127.0.0.1:9".parse().expect("an address"));
        let peer6 = XorPeerAddress("[::1]:9".parse().expect("an address"));
        let all = |b: &mut Builder<'_>| {
            b.add(&UDP)?;
            b.add(&Lifetime(u32::MAX))?;
            b.add(&EvenPort { reserve_next: true })?;
            b.add(&DontFragment)?;
            b.add(&RequestedAddressFamily { family: Some(Family::V6) })?;
            b.add(&AdditionalAddressFamily { family: Some(Family::V6) })?;
            b.add(&ReservationToken([7; 8]))?;
            b.add(&Software(b"%s%n\0\r\n"))
        };
        type Fill<'a> = &'a dyn Fn(&mut Builder<'_>) -> Result<(), BufferFull>;
        let fills: [(Class, Method, Fill<'_>); 12] = [
            (Class::Request, Method::BINDING, &|_| Ok(())),
            (Class::Request, Method::ALLOCATE, &|b| b.add(&UDP)),
            (Class::Request, Method::ALLOCATE, &all),
            (Class::Request, Method::ALLOCATE, &|b| b.add(&RequestedTransport(255))),
            (Class::Request, Method::REFRESH, &|b| b.add(&Lifetime(600))),
            (Class::Request, Method::CREATE_PERMISSION, &|b| {
                (0..20).try_for_each(|_| b.add(&peer)).and_then(|()| b.add(&peer6))
            }),
            (Class::Request, Method::CHANNEL_BIND, &|b| {
                b.add(&ChannelNumber(0x3FFF))?;
                b.add(&peer)
            }),
            (Class::Request, Method::CONNECT, &|b| b.add(&peer)),
            (Class::Request, Method(0x0FF), &|_| Ok(())),
            (Class::Indication, Method::SEND, &|b| {
                b.add(&peer)?;
                b.add(&Data(&[0xAA; 333]))
            }),
            (Class::Indication, Method::DATA, &|b| b.add(&Data(&[0xAA; 33]))),
            (Class::Error, Method::ALLOCATE, &|b| b.add(&UDP)),
        ];
        for (class, method, fill) in fills {
            bases.push(insider.build(class, method, fill));
        }
        let mut stranger = Client::udp(insider.server());
        for (class, method, fill) in fills {
            bases.push(stranger.build(class, method, fill));
        }
        Self { random: Random(seed), bases }
    }

    /// The next message for a datagram.
    pub(crate) fn datagram(&mut self, number: u32) -> Vec<u8> {
        match self.random.below(24) {
            0 => self.truncated(number),
            1 => self.overlong(number),
            2 => self.misaligned(number),
            3 => self.lying_length(number),
            4 => self.flipped_bits(number),
            5 => self.garbage(),
            6 => self.channel_data(),
            7 => self.wrong_cookie(number),
            // A few of the largest there can be are enough: they cost what a hundred others do.
            8 if self.random.below(64) == 0 => self.giant(number, 65_000),
            _ => self.framed(number),
        }
    }

    /// The next message whose length field is right, fit for a stream.
    pub(crate) fn framed(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        let mut attributes = split(&message);
        match self.random.below(8) {
            0 => {
                let times = 1 + self.random.below(8);
                attributes = vec![attributes; times].concat();
            }
            1 => self.shuffle(&mut attributes),
            2 => self.lying_attribute(&mut attributes),
            3 => attributes.push(attribute(FINGERPRINT, &self.random.bytes(4))),
            4 => {
                let first = 0x0030 + self.random.below(0x7000) as u16;
                let count = self.random.below(400) as u16;
                attributes.extend((0..count).map(|n| attribute(first + n, &[])));
            }
            5 => self.hostile_texts(&mut attributes),
            6 => {
                attributes.push(attribute(MESSAGE_INTEGRITY, &self.random.bytes(20)));
                attributes.push(attribute(0x0012, &self.random.bytes(8)));
                attributes.push(attribute(0x0006, b"admin"));
            }
            _ => {
                let len = self.random.below(40);
                let kind = self.random.below(0x10000) as u16;
                attributes.push(attribute(kind, &self.random.bytes(len)));
            }
        }
        message.truncate(HEADER);
        message.extend(attributes.concat());
        message.truncate(HEADER + 0xFFFC);
        set_length(&mut message);
        message
    }

    /// A message with a right signature and attributes at random, of somebody with an account.
    pub(crate) fn signed(&mut self, insider: &mut Client) -> Vec<u8> {
        const METHODS: [Method; 6] = [
            Method::ALLOCATE,
            Method::REFRESH,
            Method::CREATE_PERMISSION,
            Method::CHANNEL_BIND,
            Method::CHANNEL_BIND,
            Method::SEND,
        ];
        const PEERS: [&str; 6] =
            ["127.0.0.9:9", "127.0.0.10:0", "10.0.0.1:80", "[::1]:9", "[2002::1]:1", "0.0.0.0:9"];
        let method = METHODS[self.random.below(METHODS.len())];
        let class = if method == Method::SEND { Class::Indication } else { Class::Request };
        let peer = PEERS[self.random.below(PEERS.len())].parse().expect("an address");
        let number = self.random.below(0x10000) as u16;
        let picks: Vec<usize> = (0..self.random.below(6)).map(|_| self.random.below(10)).collect();
        insider.build(class, method, &|b| {
            picks.iter().try_for_each(|pick| match pick {
                0 => b.add(&UDP),
                1 => b.add(&RequestedTransport(number as u8)),
                2 => b.add(&Lifetime(u32::from(number / 100))),
                3 | 4 => b.add(&XorPeerAddress(peer)),
                5 => b.add(&ChannelNumber(0x4000 + number % 0x1001)),
                6 => b.add(&Data(&[0xAA; 100][..usize::from(number % 100)])),
                7 => b.add(&EvenPort { reserve_next: false }),
                8 => b.add(&ReservationToken(u64::from(number).to_be_bytes())),
                _ => b.add(&DontFragment),
            })
        })
    }

    /// A message of about `len` bytes.
    pub(crate) fn giant(&mut self, number: u32, len: usize) -> Vec<u8> {
        let mut message = self.base(number);
        message.truncate(HEADER);
        while message.len() + 1028 <= len {
            let kind = self.random.below(0x10000) as u16;
            message.extend(attribute(kind, &self.random.bytes(1024)));
        }
        set_length(&mut message);
        message
    }

    /// A valid message from which to depart.
    fn base(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.bases[self.random.below(self.bases.len())].clone();
        message[8..16].copy_from_slice(b"hostile ");
        message[16..HEADER].copy_from_slice(&number.to_be_bytes());
        message
    }

    fn truncated(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        message.truncate(self.random.below(message.len()));
        message
    }

    fn overlong(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        let more = 1 + self.random.below(64);
        message.extend(self.random.bytes(more));
        message
    }

    fn misaligned(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.overlong(number);
        set_length(&mut message);
        message
    }

    fn lying_length(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        let true_length = (message.len() - HEADER) as u16;
        let lies = [0, 4, 0xFFFC, 0xFFFF, true_length ^ 4, true_length + 1];
        let lie = lies[self.random.below(lies.len())];
        message[2..4].copy_from_slice(&lie.to_be_bytes());
        message
    }

    fn lying_attribute(&mut self, attributes: &mut [Vec<u8>]) {
        if attributes.is_empty() {
            return;
        }
        let chosen = self.random.below(attributes.len());
        let chosen = &mut attributes[chosen];
        let lies = [0, 1, 3, 0xFFFF, 0xFFFC, chosen.len() as u16, 0x8000];
        let lie = lies[self.random.below(lies.len())];
        chosen[2..4].copy_from_slice(&lie.to_be_bytes());
    }

    fn flipped_bits(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        for _ in 0..1 + self.random.below(8) {
            let at = self.random.below(message.len());
            // The transaction id tells us which message an answer is about.
            if !(8..HEADER).contains(&at) {
                message[at] ^= 1 << self.random.below(8);
            }
        }
        message
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = self.random.below(1400);
        self.random.bytes(len)
    }

    fn channel_data(&mut self) -> Vec<u8> {
        let len = self.random.below(100);
        let mut message = self.random.bytes(4 + len);
        message[0] = 0x40 | (message[0] & 0x3F);
        let claimed = [0, 0xFFFF, len as u16 + 1, len as u16];
        let claimed = claimed[self.random.below(claimed.len())];
        message[2..4].copy_from_slice(&claimed.to_be_bytes());
        message
    }

    fn wrong_cookie(&mut self, number: u32) -> Vec<u8> {
        let mut message = self.base(number);
        message[4 + self.random.below(4)] ^= 0x80;
        message
    }

    fn shuffle(&mut self, attributes: &mut [Vec<u8>]) {
        for at in (1..attributes.len()).rev() {
            attributes.swap(at, self.random.below(at + 1));
        }
    }

    fn hostile_texts(&mut self, attributes: &mut Vec<Vec<u8>>) {
        let texts = [
            b"%s%s%n\r\n\0".repeat(1 + self.random.below(200)),
            b"\xFF\xFE\xC0\x80".repeat(1 + self.random.below(30)),
            vec![b'x'; self.random.below(2000)],
            vec![],
        ];
        for kind in [0x0006, 0x0014, 0x0015, 0x001E] {
            if self.random.below(2) == 0 {
                attributes.insert(0, attribute(kind, &texts[self.random.below(texts.len())]));
            }
        }
        attributes.push(attribute(MESSAGE_INTEGRITY, &self.random.bytes(20)));
    }
}

fn split(message: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &message[HEADER..];
    let mut attributes = Vec::new();
    while rest.len() >= 4 {
        let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (first, others) = rest.split_at(4 + len.next_multiple_of(4));
        attributes.push(first.to_vec());
        rest = others;
    }
    attributes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes.resize(4 + value.len().next_multiple_of(4), 0);
    bytes
}

fn set_length(message: &mut [u8]) {
    let length = (message.len() - HEADER) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}
