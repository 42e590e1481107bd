//! Datagrams made and sent in batches.
//!
//! The memory of a batch keeps its filling: of a payload only the stamp is written anew.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use turnway_udp::{Outgoing, Payload, Prefix, ReceiveBatch, SendBatch};
use turnway_wire::padding;

use crate::LoadError;
use crate::clients::Clients;
use crate::payload::{Digest, Direction, MIN_LEN, Stamp};
use crate::peers::{Addresses, Peers};
use crate::turn::HEAD_MAX;

use super::{Plan, Sink};

/// Datagrams of one batch: what one system call takes.
pub(super) const BATCH: usize = 64;

/// See the module.
pub(super) struct Source {
    run: u32,
    first: u32,
    server: SocketAddr,
    peer: RawFd,
    peers: Addresses,
    size: usize,
    flows: Vec<Flow>,
    memory: ReceiveBatch,
    fillings: Vec<Digest>,
    sends: SendBatch,
    /// Counts steps: allocation by allocation, each in both directions.
    step: usize,
}

#[derive(Clone)]
struct Flow {
    relayed: SocketAddr,
    /// What precedes payloads to the server.
    head: Vec<u8>,
    sequences: [u64; 2],
}

impl Source {
    pub(super) fn new(plan: &Plan, peers: &Peers) -> Self {
        let (memory, fillings) = filled(plan.size);
        Self {
            run: plan.run,
            first: plan.first,
            server: plan.server,
            peer: peers.fd(),
            peers: peers.addresses,
            size: plan.size,
            flows: vec![
                Flow { relayed: plan.server, head: Vec::new(), sequences: [0; 2] };
                plan.count
            ],
            memory,
            fillings,
            sends: SendBatch::new(),
            step: 0,
        }
    }

    pub(super) fn route(&mut self, relayed: &[SocketAddr]) {
        for (flow, relayed) in self.flows.iter_mut().zip(relayed) {
            flow.relayed = *relayed;
        }
    }

    pub(super) fn wrap(
        &mut self,
        head: impl Fn(usize) -> Result<Vec<u8>, LoadError>,
    ) -> Result<(), LoadError> {
        for (client, flow) in self.flows.iter_mut().enumerate() {
            flow.head = head(client)?;
        }
        Ok(())
    }

    /// Whose turn it is.
    pub(super) fn next_flow(&mut self, directions: &[Direction]) -> (usize, Direction) {
        let direction = directions[self.step % directions.len()];
        let client = self.step / directions.len() % self.flows.len();
        self.step += 1;
        (client, direction)
    }

    /// Makes a datagram, to be sent by [`Self::flush`] at the latest.
    pub(super) fn add(
        &mut self,
        clients: &mut Clients,
        sink: &mut Sink,
        client: usize,
        direction: Direction,
        now: u64,
    ) {
        if self.memory.free() == 0 {
            self.send(sink, now);
        }
        let flow = &mut self.flows[client];
        let sequence = flow.sequences[direction.index()];
        flow.sequences[direction.index()] += 1;
        let composed = self.memory.compose(HEAD_MAX + self.size);
        let (slot, space) = composed.expect("a slot is free and large enough");
        let (before, payload) = space.split_at_mut(HEAD_MAX);
        let allocation = self.first + client as u32;
        let stamp = Stamp { run: self.run, allocation, direction, sequence, sent_ns: now };
        stamp.write(payload, self.fillings[slot]);
        let tag = (client as u32) << 1 | direction.index() as u32;
        let outgoing = |socket, to, source, skip, pad| Outgoing {
            socket,
            to,
            source,
            ttl: None,
            tos: None,
            dont_fragment: false,
            prefix: Prefix::EMPTY,
            payload: Payload { slot, offset: skip, len: HEAD_MAX + self.size - skip },
            pad,
            tag,
        };
        match direction {
            Direction::ToClient => {
                self.sends.push(outgoing(
                    self.peer,
                    flow.relayed,
                    self.peers.source(client),
                    HEAD_MAX,
                    0,
                ));
            }
            Direction::ToPeer => match clients.datagram_link(client) {
                Some((socket, source)) => {
                    let skip = HEAD_MAX - flow.head.len();
                    before[skip..].copy_from_slice(&flow.head);
                    // A Send indication is padded; ChannelData in a datagram need not be.
                    let pad = if flow.head.len() > 4 { padding(self.size) as u8 } else { 0 };
                    self.sends.push(outgoing(socket, self.server, source, skip, pad));
                }
                None => {
                    let streams = clients.streams().expect("not datagrams, so streams");
                    if streams.queue(client, [&flow.head, payload]) {
                        sink.sent(direction, now);
                    } else {
                        sink.not_sent(now);
                    }
                }
            },
        }
    }

    /// Sends what was made.
    pub(super) fn flush(
        &mut self,
        clients: &mut Clients,
        sink: &mut Sink,
        now: u64,
    ) -> Result<(), LoadError> {
        self.send(sink, now);
        clients.streams().map_or(Ok(()), crate::streams::Streams::flush)
    }

    fn send(&mut self, sink: &mut Sink, now: u64) {
        self.sends.flush(&self.memory, &mut |tag, result| {
            let direction = if tag & 1 == 0 { Direction::ToPeer } else { Direction::ToClient };
            if result.is_ok() {
                sink.sent(direction, now);
            } else {
                sink.not_sent(now);
            }
        });
        self.memory.clear();
    }
}

/// Memory of a batch whose slots are filled, and the digests of the fillings.
fn filled(size: usize) -> (ReceiveBatch, Vec<Digest>) {
    let mut memory = ReceiveBatch::with_slot_size(BATCH, HEAD_MAX + size);
    let mut state = 1_u64;
    let mut fillings = Vec::with_capacity(BATCH);
    while let Some((_, space)) = memory.compose(HEAD_MAX + size) {
        for byte in &mut *space {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        fillings.push(Digest::of(&space[HEAD_MAX + MIN_LEN..]));
    }
    memory.clear();
    (memory, fillings)
}
