//! Payloads through allocations, at a rate or as fast as they go.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;
use turnway_udp::system::{monotonic_ns, pin_thread};
use turnway_wire::{Method, TransactionId};

use crate::LoadError;
use crate::clients::{Transport, own_address};
use crate::histogram::Histogram;
use crate::payload::{Direction, MIN_LEN, run_number};
use crate::search::{Found, Probe, highest};
use crate::server::{Held, Usage};
use crate::tally::{Counts, Latency};
use crate::turn::{self, Ask, Credentials};
use crate::worker::{Asks, Drive, Plan, Spent, Traffic, Worker};

/// Above this share of its time a generator may be what limits the figures.
pub const BOUND: f64 = 0.9;

/// The longest payload that any way of wrapping leaves room for, over IPv4 and IPv6.
pub const MAX_LEN: usize = 65_000;

/// Transactions at a time while allocations are made.
const WINDOW: usize = 64;

/// How payloads are wrapped between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// ChannelData.
    Channel,
    /// Send and Data indications.
    Send,
}

/// Which way payloads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directions {
    /// From clients to peers.
    ToPeer,
    /// From peers to clients.
    ToClient,
    /// One each, in turn.
    Both,
}

impl Directions {
    fn list(self) -> Vec<Direction> {
        match self {
            Self::ToPeer => vec![Direction::ToPeer],
            Self::ToClient => vec![Direction::ToClient],
            Self::Both => vec![Direction::ToPeer, Direction::ToClient],
        }
    }
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pressure {
    /// So many datagrams a second, all allocations and directions together, evenly spaced in
    /// bursts, whatever becomes of them.
    Rate(f64),
    /// Whenever fewer than so many are under way: as fast as the server goes, without flooding its
    /// queues.
    Window(usize),
}

/// What to do to whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's address.
    pub server: SocketAddr,
    /// How clients reach it.
    pub transport: Transport,
    /// Allocations, each with a client of its own.
    pub allocations: usize,
    /// Payload bytes, [`MIN_LEN`] to [`MAX_LEN`].
    pub size: usize,
    /// Which way.
    pub directions: Directions,
    /// Datagrams of one allocation and direction that follow each other at once.
    pub burst: usize,
    /// How they are wrapped.
    pub mode: Mode,
    /// How long is measured.
    pub duration: Duration,
    /// How long traffic runs before that.
    pub warmup: Duration,
    /// Where all peers are; by default where the server is reached from, and over loopback IPv4 at
    /// an address each.
    pub peer: Option<IpAddr>,
    /// A thread for each of these CPUs; without any, one thread that runs where it likes.
    pub cpus: Vec<usize>,
    /// Processes of the server on this machine, to be watched.
    pub server_pids: Vec<u32>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The rate asked for, datagrams a second; none where it was as fast as possible.
    pub asked: Option<f64>,
    /// Measured time.
    pub seconds: f64,
    /// Datagrams sent a second.
    pub sent_rate: f64,
    /// Datagrams relayed a second.
    pub rate: f64,
    /// Payload bits relayed a second.
    pub payload_bits_per_second: f64,
    /// Of the datagrams sent, the share that was lost, 0 to 1.
    pub loss: f64,
    /// What became of those to the peers.
    pub to_peer: Counts,
    /// What became of those to the clients.
    pub to_client: Counts,
    /// That our own kernel or a slow connection did not take in the measured time.
    pub unsent: u64,
    /// From sender to receiver.
    pub latency_us: Latency,
    /// The share of its time in which the generator had something to do, of the busiest thread.
    pub generator_busy: f64,
    /// The generator was busy for more than [`BOUND`] of the time.
    pub generator_bound: bool,
    /// What it cost the server.
    pub server: Option<Cost>,
}

impl Report {
    /// Whether nothing arrived that should never arrive.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.to_peer.is_sound() && self.to_client.is_sound()
    }

    /// What a search makes of it. A connection takes no more where the server reads too slowly,
    /// which is as good as lost; a datagram that our own kernel did not take was never sent.
    fn probe(&self, transport: Transport) -> Probe {
        let refused = match transport {
            Transport::Udp => 0.0,
            Transport::Tcp | Transport::Tls => self.unsent as f64 / self.seconds.max(1e-9),
        };
        let sent = self.sent_rate + refused;
        Probe { sent, loss: (self.loss * self.sent_rate + refused) / sent.max(1e-9) }
    }
}

/// What the server's processes used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// CPU time of all threads for each relayed datagram, in nanoseconds.
    pub cpu_ns_per_datagram: f64,
    /// CPUs in use, 1 being all of one.
    pub cpus: f64,
    /// Context switches for each relayed datagram.
    pub switches_per_datagram: f64,
    /// Resident memory in bytes, at the end.
    pub resident: u64,
}

/// Allocations that payloads can go through.
pub struct Flood {
    options: Options,
    workers: Vec<Worker>,
}

impl Flood {
    /// Makes the allocations, and permissions and channels as the mode wants.
    ///
    /// # Errors
    ///
    /// Wrong options; a server that does not answer or that refuses.
    pub fn open(options: Options, credentials: &Credentials) -> Result<Self, LoadError> {
        Usage::read(&options.server_pids)?;
        greet(options.server, options.transport, Method::ALLOCATE)?;
        let run = run_number()?;
        let mut flood = Self::unallocated(options, run)?;
        if let Err(error) = flood.allocate(credentials, run) {
            // What was made is not left behind, as far as the server still answers.
            let _ = flood.delete();
            return Err(error);
        }
        Ok(flood)
    }

    /// Opens the sockets only: for a server that is told who they are in another way.
    ///
    /// # Errors
    ///
    /// Wrong options, or no sockets.
    pub fn unallocated(options: Options, run: u32) -> Result<Self, LoadError> {
        check(&options)?;
        let threads = options.cpus.len().max(1);
        let own = own_address(options.server)?;
        let mut first = 0;
        let mut workers = Vec::with_capacity(threads);
        for thread in 0..threads {
            let count = (options.allocations + thread) / threads;
            let (server, transport, size) = (options.server, options.transport, options.size);
            let peer = options.peer;
            let plan = Plan { server, transport, own, peer, run, first, count, size };
            first += count as u32;
            workers.push(Worker::open(&plan)?);
        }
        Ok(Self { options, workers })
    }

    /// The port of all clients, which [`crate::clients::shared_address`] tells apart; `None` where
    /// each has a port of its own.
    #[must_use]
    pub fn client_port(&self) -> Option<u16> {
        self.workers[0].clients.shared_port()
    }

    /// The port of all peers; [`crate::peers::own_peer`] tells their addresses over loopback IPv4.
    #[must_use]
    pub fn peer_port(&self) -> u16 {
        self.workers[0].peers.addresses.port
    }

    /// Takes these as the relayed transport addresses of [`Self::unallocated`] clients, who send
    /// as on a channel.
    ///
    /// # Errors
    ///
    /// None where the payloads fit into messages.
    pub fn route(&mut self, relayed: &[SocketAddr]) -> Result<(), LoadError> {
        let mut rest = relayed;
        for worker in &mut self.workers {
            let (own, others) = rest.split_at(worker.clients.count().min(rest.len()));
            worker.route(own);
            worker.wrap(|_| Ok(channel_head(self.options.size)))?;
            rest = others;
        }
        Ok(())
    }

    /// Watches these processes of the server from now on.
    pub fn watch(&mut self, server_pids: Vec<u32>) {
        self.options.server_pids = server_pids;
    }

    /// Runs take so long from now on.
    pub fn time(&mut self, warmup: Duration, duration: Duration) {
        (self.options.warmup, self.options.duration) = (warmup, duration);
    }

    /// Sends for the warm-up and the duration, and waits for what is under way.
    ///
    /// # Errors
    ///
    /// A broken connection, a server that ended an allocation, a process that is gone.
    pub fn run(&mut self, pressure: Pressure) -> Result<Report, LoadError> {
        let threads = self.workers.len();
        let start_ns = monotonic_ns() + START_NS;
        let from_ns = start_ns + self.options.warmup.as_nanos() as u64;
        let traffic = Traffic {
            drive: match pressure {
                Pressure::Rate(rate) => Drive::Rate(rate / threads as f64),
                Pressure::Window(window) => Drive::Window(window.div_ceil(threads)),
            },
            directions: self.options.directions.list(),
            burst: self.options.burst,
            start_ns,
            from_ns,
            until_ns: from_ns + self.options.duration.as_nanos() as u64,
            server_pids: Vec::new(),
        };
        let options = &self.options;
        let spent = on_threads(&mut self.workers, &options.cpus, |number, worker| {
            let pids = if number == 0 { options.server_pids.clone() } else { Vec::new() };
            worker.traffic(&Traffic { server_pids: pids, ..traffic.clone() })
        })?;
        self.report(pressure, &spent)
    }

    /// Searches for the highest rate at which at most a share of `loss` is lost, each attempt as
    /// long as a run. It begins at `guess`, or at the rate of a closed loop.
    ///
    /// # Errors
    ///
    /// As [`Self::run`].
    pub fn search(&mut self, guess: Option<f64>, loss: f64) -> Result<Found, LoadError> {
        let guess = match guess {
            Some(guess) => guess,
            None => self.run(Pressure::Window(DEFAULT_WINDOW))?.rate,
        };
        highest(guess, loss, |rate| {
            let seen = self.run(Pressure::Rate(rate))?;
            Ok(seen.probe(self.options.transport))
        })
    }

    /// Ends the allocations.
    ///
    /// # Errors
    ///
    /// A server that does not answer any more.
    pub fn close(mut self) -> Result<(), LoadError> {
        self.delete()
    }

    fn allocate(&mut self, credentials: &Credentials, run: u32) -> Result<(), LoadError> {
        let (server, mode, size) = (self.options.server, self.options.mode, self.options.size);
        on_threads(&mut self.workers, &self.options.cpus, |_, worker| {
            worker.introduce(server, credentials.clone(), run)?;
            worker.phase(Ask::Allocate, WINDOW)?;
            let asks: Asks = match mode {
                Mode::Channel => Ask::Bind,
                Mode::Send => Ask::Permit,
            };
            worker.phase(asks, WINDOW)?;
            worker.keep_up(asks);
            worker.wrap(|peer| match mode {
                Mode::Channel => Ok(channel_head(size)),
                Mode::Send => turn::send_head(peer, size),
            })?;
            let transactions = worker.transactions.as_ref().expect("introduced above");
            let relayed = (0..worker.clients.count()).map(|client| transactions.relayed(client));
            let relayed: Option<Vec<_>> = relayed.collect();
            worker.route(&relayed.ok_or(LoadError::BadAnswer("no XOR-RELAYED-ADDRESS"))?);
            Ok(())
        })?;
        Ok(())
    }

    fn delete(&mut self) -> Result<(), LoadError> {
        on_threads(&mut self.workers, &self.options.cpus, |_, worker| worker.delete(WINDOW))?;
        Ok(())
    }

    fn report(&self, pressure: Pressure, spent: &[Spent]) -> Result<Report, LoadError> {
        let (mut counts, mut latency) = ([Counts::default(); 2], Histogram::default());
        let (mut within, mut unsent) = (0, 0);
        for worker in &self.workers {
            counts.iter_mut().zip(&worker.sink.counts).for_each(|(all, one)| all.merge(one));
            latency.merge(&worker.sink.latency);
            within += worker.sink.within;
            unsent += worker.sink.unsent;
        }
        let seconds = self.options.duration.as_secs_f64();
        let busiest = spent.iter().map(|spent| spent.busy_ns).max().unwrap_or(0);
        let generator_busy = busiest as f64 / 1e9 / seconds;
        let [sent, lost] = [counts[0].sent + counts[1].sent, counts[0].lost + counts[1].lost];
        let rate = within as f64 / seconds;
        let usage = spent.iter().find_map(|spent| spent.usage);
        let cost = usage.map(|usage| self.cost(usage, within, seconds)).transpose()?;
        Ok(Report {
            asked: match pressure {
                Pressure::Rate(rate) => Some(rate),
                Pressure::Window(_) => None,
            },
            seconds,
            sent_rate: sent as f64 / seconds,
            rate,
            payload_bits_per_second: rate * self.options.size as f64 * 8.0,
            loss: lost as f64 / (sent as f64).max(1.0),
            to_peer: counts[0],
            to_client: counts[1],
            unsent,
            latency_us: Latency::of(&latency),
            generator_busy,
            generator_bound: generator_busy > BOUND,
            server: cost,
        })
    }

    fn cost(&self, usage: Usage, relayed: u64, seconds: f64) -> Result<Cost, LoadError> {
        let each = |amount: u64| amount as f64 / (relayed as f64).max(1.0);
        Ok(Cost {
            cpu_ns_per_datagram: each(usage.cpu_ns),
            cpus: usage.cpu_ns as f64 / 1e9 / seconds,
            switches_per_datagram: each(usage.switches),
            resident: Held::read(&self.options.server_pids)?.resident,
        })
    }
}

/// Datagrams under way where no other number is named: enough that the server always has some,
/// few enough that they fit into the buffer of any socket.
pub const DEFAULT_WINDOW: usize = 64;

/// Threads have so long to begin at the same time.
const START_NS: u64 = 2_000_000;

/// Does something with each worker, each on its CPU, all at the same time.
pub(crate) fn on_threads<T: Send>(
    workers: &mut [Worker],
    cpus: &[usize],
    work: impl Fn(usize, &mut Worker) -> Result<T, LoadError> + Sync,
) -> Result<Vec<T>, LoadError> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(number, worker)| {
                let cpu = cpus.get(number).copied();
                scope.spawn(move || {
                    cpu.map_or(Ok(()), pin)?;
                    work(number, worker)
                })
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        joined.collect()
    })
}

/// Lets this thread run on one CPU only.
pub(crate) fn pin(cpu: usize) -> Result<(), LoadError> {
    pin_thread(cpu).map_err(LoadError::io(format!("cannot run on CPU {cpu} (--cpu)")))
}

/// Makes sure that somebody answers, before anything long is begun.
///
/// # Errors
///
/// Nobody listens there, or says nothing for four seconds.
pub fn greet(server: SocketAddr, transport: Transport, method: Method) -> Result<(), LoadError> {
    if transport.is_stream() {
        let connected = TcpStream::connect_timeout(&server, GREETINGS);
        return connected.map(drop).map_err(LoadError::io(format!("cannot reach {server}")));
    }
    let cannot = || LoadError::io(format!("cannot reach {server}"));
    let socket = UdpSocket::bind((own_address(server)?, 0)).map_err(cannot())?;
    socket.connect(server).map_err(cannot())?;
    socket.set_read_timeout(Some(GREETING)).map_err(cannot())?;
    let mut request = [0; 64];
    let id = TransactionId(*b"anybody here");
    let class = turnway_wire::Class::Request;
    let message = turnway_wire::Builder::new(&mut request, class, method, id);
    let len = message.expect("a header fits").finish();
    let until = Instant::now() + GREETINGS;
    while Instant::now() < until {
        socket.send(&request[..len]).map_err(cannot())?;
        match socket.recv(&mut [0; 2048]) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(cannot()(error)),
        }
    }
    Err(LoadError::NoAnswer(server))
}

/// How long the first answer may take, and how often it is asked for anew.
const GREETINGS: Duration = Duration::from_secs(4);
const GREETING: Duration = Duration::from_millis(500);

fn channel_head(size: usize) -> Vec<u8> {
    turnway_wire::channel_header(turn::CHANNEL, size as u16).to_vec()
}

fn check(options: &Options) -> Result<(), LoadError> {
    let wrong = |text: String| Err(LoadError::Input(text));
    if !(MIN_LEN..=MAX_LEN).contains(&options.size) {
        return wrong(format!(
            "--size {} cannot be sent: a payload has {MIN_LEN} bytes to say what it is, and at \
             most {MAX_LEN}",
            options.size
        ));
    }
    if options.allocations < options.cpus.len().max(1) {
        return wrong("--allocations must be at least 1, and 1 for each --cpu".to_owned());
    }
    if options.burst == 0 || options.burst > 64 {
        return wrong("--burst must be 1 to 64".to_owned());
    }
    Ok(())
}
