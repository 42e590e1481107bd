//! The generator and the sink: `bpf/flood.bpf.c`, as user space sees them.
//!
//! A run sends an exact number of frames. Everything is counted where it happens, and all counts
//! must agree: what was sent, what the server's interface received, what came back.

use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, RingBuf};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};

use super::frames::{self, Flow, Sent, Work};

static OBJECT: &[u8] = include_bytes_aligned!("bpf/flood.bpf.o");

/// Frames leave in bursts, at most every 100 us: like interrupts of a device, of which each wakes
/// whoever sleeps.
const BURSTS_PER_SECOND: f64 = 10_000.0;
/// A veth's ring holds 256 frames.
const BURST_MAX: u64 = 64;
/// One frame of so many is looked at by user space, of a short run more: primes, so that all flows
/// have their turn.
const EVERY: u64 = 997;
const EVERY_OF_FEW: u64 = 7;
const FEW: u64 = 50_000;
/// The bytes of a frame that the generator copies for each one.
const HEADER: usize = 56;
/// What is under way after the last frame was sent has arrived when nothing came for so long...
const QUIET: Duration = Duration::from_millis(30);
/// ...and is not waited for longer.
const SETTLED: Duration = Duration::from_secs(2);

/// `struct run`: numbers, in this order.
type Run = [u64; 18];
const MARK: usize = 0;
const FLOWS: usize = 1;
const BURST: usize = 2;
const INTERVAL_NS: usize = 3;
const AT_STAMP: usize = 4;
const AT_RELAYED: usize = 5;
const SHOWN: usize = 6;
const SENT: usize = 7;
const BEGUN_NS: usize = 8;
const ENDED_NS: usize = 9;
const IDLE_NS: usize = 10;
const RELAYED: usize = 11;
const UNSEEN: usize = 13;

/// Generator and sink at one interface.
pub(crate) struct Flood {
    ebpf: Ebpf,
    flows: Array<MapData, [u64; 8]>,
    runs: Array<MapData, Run>,
    samples: RingBuf<MapData>,
    interface: u32,
    mark: u32,
    load: Option<Load>,
}

/// What is sent.
struct Load {
    work: Work,
    size: usize,
    flows: Vec<Flow>,
    /// The first flow's frame.
    frame: Vec<u8>,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ran {
    /// Frames sent, and how long that took in seconds.
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    /// Frames that came back as they have to, by their mark.
    pub(crate) relayed: u64,
    /// Of these, how many user space looked at, and how many were not as they have to be.
    pub(crate) verified: u64,
    pub(crate) wrong: u64,
    /// The share of the time in which the generator did not wait: sending, and the sink beside it.
    pub(crate) busy: f64,
}

impl Ran {
    /// Frames sent a second.
    pub(crate) fn rate(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// The share of frames that did not come back.
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.relayed as f64 / self.sent.max(1) as f64
    }
}

impl Flood {
    /// Loads both and attaches the sink to an interface of the calling thread's namespace.
    pub(crate) fn attach(interface: u32) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).expect("the kernel takes our maps");
        let mut take = |name| ebpf.take_map(name).expect("the object has a map of this name");
        let flows = take("flows").try_into().expect("an array of frames");
        let runs = take("runs").try_into().expect("an array of one run");
        let samples = take("samples").try_into().expect("a ring buffer");
        for program in ["generate", "sink"] {
            xdp(&mut ebpf, program).load().expect("the kernel takes our programs");
        }
        let attached = xdp(&mut ebpf, "sink").attach_to_if_index(interface, XdpMode::Driver);
        attached.expect("veth has native XDP");
        Self { ebpf, flows, runs, samples, interface, mark: 0, load: None }
    }

    /// Sets what is to be sent from now on: a frame of each flow in turn.
    pub(crate) fn load(&mut self, work: Work, flows: &[Flow], size: usize) {
        for (number, flow) in flows.iter().enumerate() {
            let frame = frames::sent(work, flow, size);
            let mut entry = [0; 8];
            let (words, _) = frame[..HEADER].as_chunks::<8>();
            for (out, word) in entry.iter_mut().zip(words) {
                *out = u64::from_ne_bytes(*word);
            }
            // The sum is the first half of the last word.
            let mut last = [0; 8];
            last[..4].copy_from_slice(&frames::udp_sum(&frame).to_ne_bytes());
            entry[7] = u64::from_ne_bytes(last);
            self.flows.set(number as u32, entry, 0).expect("there is room for 65,536 flows");
        }
        let frame = frames::sent(work, &flows[0], size);
        self.load = Some(Load { work, size, flows: flows.to_vec(), frame });
    }

    /// Sends at a rate, for so long, and waits for what comes back. The calling thread's CPU is the
    /// generator's.
    pub(crate) fn run(&mut self, rate: f64, time: Duration) -> Ran {
        let load = self.load.as_ref().expect("loaded");
        let burst = ((rate / BURSTS_PER_SECOND) as u64).clamp(1, BURST_MAX);
        let bursts = (rate * time.as_secs_f64() / burst as f64).ceil().max(2.0) as u64;
        self.mark = mark(self.mark);
        let mut run = [0; 18];
        run[MARK] = self.mark.into();
        run[FLOWS] = load.flows.len() as u64;
        run[BURST] = burst;
        run[INTERVAL_NS] = (burst as f64 * 1e9 / rate) as u64;
        run[AT_STAMP] = load.work.at_stamp() as u64;
        run[AT_RELAYED] = load.work.at_relayed() as u64;
        let count = burst * bursts;
        run[SHOWN] = if count < FEW { EVERY_OF_FEW } else { EVERY };
        self.runs.set(0, run, 0).expect("our map");
        self.generate(count as u32, burst as u32);
        let run = self.settle();
        self.ran(&run, count)
    }

    fn generate(&mut self, count: u32, burst: u32) {
        let frame = &self.load.as_ref().expect("loaded").frame;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
        let context = [0, frame.len() as u32, 0, self.interface, 0, 0];
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(burst),
            ..TestRunOptions::new()
        };
        xdp(&mut self.ebpf, "generate").test_run(options).expect("live frames, Linux 5.18");
    }

    /// Waits until nothing comes back any more.
    fn settle(&self) -> Run {
        let begun = Instant::now();
        let mut last = self.runs.get(&0, 0).expect("our map");
        loop {
            thread::sleep(QUIET);
            let now = self.runs.get(&0, 0).expect("our map");
            if now[RELAYED] == last[RELAYED] || begun.elapsed() > SETTLED {
                return now;
            }
            last = now;
        }
    }

    fn ran(&mut self, run: &Run, count: u64) -> Ran {
        let load = self.load.as_ref().expect("loaded");
        let (work, size, mark) = (load.work, load.size, self.mark);
        let sent = Sent { work, size, mark, count, flows: &load.flows };
        let (mut verified, mut wrong) = (0, 0);
        while let Some(sample) = self.samples.next() {
            let (length, frame) = sample.split_first_chunk::<4>().expect("struct sample");
            let frame = &frame[..u32::from_ne_bytes(*length) as usize];
            verified += 1;
            if let Err(why) = sent.verify(frame) {
                wrong += 1;
                if wrong == 1 {
                    eprintln!("relayed wrongly ({}): {why}", work.title());
                }
            }
        }
        assert_eq!(run[SENT], count, "the generator was interrupted");
        // The last burst takes as long as each one.
        let took_ns = run[ENDED_NS] - run[BEGUN_NS] + run[INTERVAL_NS];
        if run[UNSEEN] > 0 {
            eprintln!("{} frames were not verified: no room for them", run[UNSEEN]);
        }
        Ran {
            sent: count,
            seconds: took_ns as f64 / 1e9,
            relayed: run[RELAYED],
            verified,
            wrong,
            busy: 1.0 - run[IDLE_NS] as f64 / took_ns as f64,
        }
    }
}

/// A number that tells a run's frames from those of the last one, and from other payloads. Begins as
/// RTP does: neither STUN nor ChannelData.
fn mark(last: u32) -> u32 {
    let [_, rest @ ..] = last.to_ne_bytes();
    let [a, b, c, _] =
        (u32::from_ne_bytes([rest[0], rest[1], rest[2], 0]).wrapping_add(0xD1_E5C3)).to_ne_bytes();
    u32::from_ne_bytes([0x80, a, b, c])
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program = ebpf.program_mut(name).expect("the object has a program of this name");
    program.try_into().expect("it is an XDP program")
}
