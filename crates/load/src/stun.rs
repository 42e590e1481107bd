//! Binding requests, at a rate or as fast as they are answered.
//!
//! What is measured is the server, not its patience with lost requests: nothing is sent twice.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use turnway_udp::system::monotonic_ns;
use turnway_udp::{Outgoing, Payload, Prefix, ReceiveBatch, SendBatch};
use turnway_wire::{Builder, Class, HEADER_LEN, Message, Method, TransactionId};

use crate::LoadError;
use crate::clients::{Clients, Transport};
use crate::flood::{BOUND, Pressure, greet, pin};
use crate::histogram::Histogram;
use crate::pace::Pace;
use crate::payload::run_number;
use crate::server::Usage;
use crate::tally::Latency;

/// Requests of one system call.
const BATCH: usize = 64;

/// In a closed loop, so long without an answer means that all requests under way are lost.
const SILENCE_NS: u64 = 50_000_000;

/// After the measured time answers are awaited for so long, and no longer.
const DRAIN_NS: u64 = 100_000_000;

/// What to ask, and whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's address.
    pub server: SocketAddr,
    /// Clients that take turns: addresses over loopback IPv4, ports elsewhere.
    pub clients: usize,
    /// Requests a second, or under way.
    pub pressure: Pressure,
    /// How long is measured.
    pub duration: Duration,
    /// How long requests are sent before that.
    pub warmup: Duration,
    /// Where the thread runs; without it, where it likes.
    pub cpu: Option<usize>,
    /// Processes of the server on this machine, to be watched.
    pub server_pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Measured time.
    pub seconds: f64,
    /// Requests sent in it.
    pub sent: u64,
    /// Of these, answered with a success.
    pub answered: u64,
    /// Of these, the share without an answer, 0 to 1.
    pub loss: f64,
    /// Answers a second.
    pub rate: f64,
    /// From request to answer.
    pub latency_us: Latency,
    /// The share of its time in which the generator had something to do.
    pub generator_busy: f64,
    /// The generator was busy for more than 90 % of the time.
    pub generator_bound: bool,
    /// CPU time of the server for each answer, in nanoseconds.
    pub server_cpu_ns: Option<f64>,
}

/// Asks for the warm-up and the duration.
///
/// # Errors
///
/// A server that does not answer at all, or cannot be reached.
pub fn run(options: &Options) -> Result<Report, LoadError> {
    Usage::read(&options.server_pids)?;
    greet(options.server, Transport::Udp, Method::BINDING)?;
    std::thread::scope(|scope| {
        let work = || {
            options.cpu.map_or(Ok(()), pin)?;
            Asker::open(options)?.run(options)
        };
        scope.spawn(work).join().expect("it does not panic")
    })
}

struct Asker {
    run: u32,
    clients: Clients,
    memory: ReceiveBatch,
    arrived: ReceiveBatch,
    sends: SendBatch,
    sequence: u64,
    answers: Answers,
}

#[derive(Default)]
struct Answers {
    from_ns: u64,
    until_ns: u64,
    sent: u64,
    answered: u64,
    within: u64,
    under_way: usize,
    last_ns: u64,
    latency: Histogram,
}

impl Asker {
    fn open(options: &Options) -> Result<Self, LoadError> {
        Ok(Self {
            run: run_number()?,
            clients: Clients::open(options.server, Transport::Udp, options.clients.max(1))?,
            memory: ReceiveBatch::with_slot_size(BATCH, HEADER_LEN),
            arrived: ReceiveBatch::new(64),
            sends: SendBatch::new(),
            sequence: 0,
            answers: Answers::default(),
        })
    }

    fn run(mut self, options: &Options) -> Result<Report, LoadError> {
        let start_ns = monotonic_ns();
        let from_ns = start_ns + options.warmup.as_nanos() as u64;
        let until_ns = from_ns + options.duration.as_nanos() as u64;
        self.answers = Answers { from_ns, until_ns, last_ns: from_ns, ..Answers::default() };
        let rate = match options.pressure {
            Pressure::Rate(rate) => rate,
            Pressure::Window(_) => 0.0,
        };
        let (mut pace, mut busy_ns, mut begun) = (Pace::new(rate, start_ns), 0, None);
        let mut now = start_ns;
        while now < until_ns {
            if now >= from_ns && begun.is_none() {
                begun = Some(Usage::read(&options.server_pids)?);
            }
            let due = self.due(options.pressure, &mut pace, now);
            self.send(options.server, due, now);
            let came = self.receive()?;
            let then = std::mem::replace(&mut now, monotonic_ns());
            if due + came == 0 {
                std::thread::yield_now();
            } else if begun.is_some() {
                busy_ns += now - then;
            }
        }
        let usage = Usage::read(&options.server_pids)?.since(&begun.unwrap_or_default());
        while self.answers.answered < self.answers.sent && monotonic_ns() < until_ns + DRAIN_NS {
            self.receive()?;
            std::thread::yield_now();
        }
        let watched = !options.server_pids.is_empty();
        let cpu = usage.cpu_ns as f64 / self.answers.within.max(1) as f64;
        let busy = busy_ns as f64 / (until_ns - from_ns).max(1) as f64;
        Ok(self.answers.report(busy, watched.then_some(cpu)))
    }

    fn due(&mut self, pressure: Pressure, pace: &mut Pace, now: u64) -> usize {
        let answers = &mut self.answers;
        match pressure {
            Pressure::Rate(_) => {
                let due = pace.due(now).min(BATCH as u64);
                pace.take(due);
                due as usize
            }
            Pressure::Window(window) => {
                if answers.under_way >= window && now > answers.last_ns + SILENCE_NS {
                    (answers.under_way, answers.last_ns) = (0, now);
                }
                window.saturating_sub(answers.under_way).min(BATCH)
            }
        }
    }

    /// The identifier of a request says when it was sent.
    fn send(&mut self, server: SocketAddr, count: usize, now: u64) {
        for _ in 0..count {
            let client = (self.sequence % self.clients.count() as u64) as usize;
            self.sequence += 1;
            let (slot, space) = self.memory.compose(HEADER_LEN).expect("as many slots as requests");
            let mut id = [0; 12];
            id[..4].copy_from_slice(&self.run.to_be_bytes());
            id[4..].copy_from_slice(&now.to_be_bytes());
            let message = Builder::new(space, Class::Request, Method::BINDING, TransactionId(id));
            let len = message.expect("a header fits").finish();
            let link = self.clients.datagram_link(client);
            let (socket, source) = link.expect("clients over UDP");
            self.sends.push(Outgoing {
                socket,
                to: server,
                source,
                ttl: None,
                tos: None,
                dont_fragment: false,
                prefix: Prefix::EMPTY,
                payload: Payload { slot, offset: 0, len },
                pad: 0,
                tag: 0,
            });
        }
        let answers = &mut self.answers;
        let measured = (answers.from_ns..answers.until_ns).contains(&now);
        self.sends.flush(&self.memory, &mut |_, result| {
            if result.is_ok() {
                answers.under_way += 1;
                answers.sent += u64::from(measured);
            }
        });
        self.memory.clear();
    }

    fn receive(&mut self) -> Result<usize, LoadError> {
        let (answers, run) = (&mut self.answers, self.run);
        self.clients.receive(&mut self.arrived, |_, bytes| {
            let Ok(message) = Message::parse(bytes) else { return };
            let TransactionId(id) = message.transaction_id();
            let (theirs, sent) = id.split_at(4);
            if message.class() == Class::Success && theirs == run.to_be_bytes() {
                let sent = sent.first_chunk().map_or(0, |sent| u64::from_be_bytes(*sent));
                answers.add(sent, monotonic_ns());
            }
        })
    }
}

impl Answers {
    fn add(&mut self, sent_ns: u64, now: u64) {
        let measured = self.from_ns..self.until_ns;
        if measured.contains(&sent_ns) {
            self.answered += 1;
            self.latency.add(now.saturating_sub(sent_ns));
        }
        self.within += u64::from(measured.contains(&now));
        self.under_way = self.under_way.saturating_sub(1);
        self.last_ns = now;
    }

    fn report(&self, generator_busy: f64, server_cpu_ns: Option<f64>) -> Report {
        let seconds = (self.until_ns - self.from_ns) as f64 / 1e9;
        Report {
            seconds,
            sent: self.sent,
            answered: self.answered,
            loss: self.sent.saturating_sub(self.answered) as f64 / self.sent.max(1) as f64,
            rate: self.within as f64 / seconds,
            latency_us: Latency::of(&self.latency),
            generator_busy,
            generator_bound: generator_busy > BOUND,
            server_cpu_ns,
        }
    }
}
