//! Every way an allocation can begin, fail and end, in random order on several servers, against
//! a list of all there are.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use turnway_relay::quota::{PrefixLimit, UserLimits};
use turnway_relay::{BindFailure, Effect, Event, Quotas, Record};
use turnway_wire::{Family, Method};

use crate::common::client::{Ask, TestClient};
use crate::common::{Settings, World};

const SERVERS: usize = 3;
const USERS: [(&str, &str); 2] = [("alice", "sesame"), ("bob", "hunter2")];

#[derive(Clone, Debug)]
enum Act {
    Allocate {
        user: usize,
        network: u8,
        server: usize,
        tcp: bool,
    },
    /// No socket can be bound.
    Broken {
        user: usize,
        network: u8,
        server: usize,
    },
    /// The shell never answers.
    Abandoned {
        user: usize,
        network: u8,
        server: usize,
    },
    Refresh(prop::sample::Index),
    Delete(prop::sample::Index),
    Disconnect(prop::sample::Index),
    Kill(prop::sample::Index),
    Reload([Option<u32>; 3]),
    Drain(usize),
    Pass(u64),
}

fn limits() -> impl Strategy<Value = [Option<u32>; 3]> {
    let limit = |most| prop::option::weighted(0.8, 1..most);
    [limit(6_u32), limit(5), limit(8)]
}

fn act() -> impl Strategy<Value = Act> {
    let who = || (0..USERS.len(), 0..3_u8, 0..SERVERS);
    let one = any::<prop::sample::Index>;
    prop_oneof![
        12 => (who(), any::<bool>()).prop_map(|((user, network, server), tcp)| {
            Act::Allocate { user, network, server, tcp }
        }),
        1 => who().prop_map(|(user, network, server)| Act::Broken { user, network, server }),
        1 => who().prop_map(|(user, network, server)| Act::Abandoned { user, network, server }),
        2 => one().prop_map(Act::Refresh),
        2 => one().prop_map(Act::Delete),
        2 => one().prop_map(Act::Disconnect),
        2 => one().prop_map(Act::Kill),
        1 => limits().prop_map(Act::Reload),
        1 => prop::bool::weighted(0.1).prop_flat_map(|drain| {
            (0..SERVERS).prop_map(move |server| if drain { Act::Drain(server) } else { Act::Pass(1) })
        }),
        2 => (0..400_u64).prop_map(Act::Pass),
    ]
}

fn settings([user, prefix, realm]: [Option<u32>; 3]) -> Settings {
    let quotas = Quotas {
        default: UserLimits { allocations: user, ..UserLimits::default() },
        prefix: PrefixLimit { allocations: prefix, ..PrefixLimit::default() },
        realm_allocations: realm,
        ..Quotas::default()
    };
    Settings { quotas, servers: SERVERS, ..Settings::default() }
}

struct Live {
    client: TestClient,
    user: usize,
    session: u64,
    expires_ns: u64,
}

struct Test {
    world: World,
    limits: [Option<u32>; 3],
    live: Vec<Live>,
    draining: [bool; SERVERS],
    port: u16,
}

impl Test {
    fn new(limits: [Option<u32>; 3]) -> Self {
        let world = World::new(&settings(limits));
        Self { world, limits, live: Vec::new(), draining: [false; SERVERS], port: 0 }
    }

    fn client(&mut self, user: usize, network: u8, server: usize) -> TestClient {
        self.port += 1;
        let (name, password) = USERS[user];
        let address = format!("192.0.2.{network}:{}", self.port);
        TestClient::new(&address).of(name, password).on(server)
    }

    /// What an Allocate is answered, by counting what there is.
    fn expected(&self, client: &TestClient, user: usize) -> u16 {
        if self.draining[client.shard] {
            return 508;
        }
        let ip = |live: &Live| -> IpAddr { live.client.at.tuple.client.ip() };
        let of_user = self.live.iter().filter(|live| live.user == user).count();
        let here = client.at.tuple.client.ip();
        let of_prefix = self.live.iter().filter(|live| ip(live) == here).count();
        let counts = [of_user, of_prefix, self.live.len()];
        let over = |(limit, count): (&Option<u32>, usize)| {
            limit.is_some_and(|most| count >= most as usize)
        };
        if self.limits.iter().zip(counts).any(over) { 486 } else { 0 }
    }

    fn allocate(&mut self, user: usize, network: u8, server: usize, tcp: bool) {
        let mut client = self.client(user, network, server);
        if tcp {
            client.at.tuple.transport = turnway_relay::Transport::Tcp;
        }
        let expected = self.expected(&client, user);
        assert_eq!(client.ask(&mut self.world, &Ask::allocate()).code(), expected);
        if expected == 0 {
            let session = match self.world.records.last() {
                Some(Record::Started(started)) => started.session,
                other => panic!("{other:?}"),
            };
            let expires_ns = self.world.now.after_s(600);
            self.live.push(Live { client, user, session, expires_ns });
        }
    }

    fn broken(&mut self, user: usize, network: u8, server: usize) {
        let mut client = self.client(user, network, server);
        let expected = match self.expected(&client, user) {
            0 => 508,
            refused => refused,
        };
        self.world.broken.insert(Family::V4, BindFailure::NoDescriptor);
        assert_eq!(client.ask(&mut self.world, &Ask::allocate()).code(), expected);
        self.world.broken.clear();
    }

    /// An Allocate is taken so far that its sockets are wanted, and then forgotten.
    fn abandon(&mut self, user: usize, network: u8, server: usize) {
        let mut client = self.client(user, network, server);
        let challenge = client.ask_once(&mut self.world, &Ask::allocate());
        client.learn(&challenge);
        let expected = self.expected(&client, user);
        let data = client.request(&Ask::allocate());
        let (world, mut out) = (&mut self.world, [0; 1500]);
        world.servers[server].handle(
            Event::Request { from: client.at, data: &data },
            world.now,
            &mut out,
        );
        let mut held = false;
        while let Some(effect) = world.servers[server].poll() {
            match effect {
                Effect::Reserve { account, client } => {
                    let reserved = world.ledger.reserve(&account, client, world.now.mono_ns);
                    held = reserved.is_ok();
                    world.servers[server].handle(Event::Reserved(reserved), world.now, &mut out);
                }
                Effect::Bind { .. } => {}
                Effect::Reply { .. } => assert_ne!(expected, 0),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(held, expected == 0);
        assert_eq!(world.ledger.allocations() as usize, self.live.len() + usize::from(held));
        let mut anybody = TestClient::new("192.0.2.200:1").on(server);
        assert_eq!(anybody.ask_once(world, &Ask::new(Method::BINDING)).code(), 0);
    }

    fn reload(&mut self, limits: [Option<u32>; 3]) {
        let settings = settings(limits);
        let quotas = Arc::clone(&settings.config().quotas);
        self.world.ledger.configure(quotas, self.world.now.mono_ns);
        self.world.configure(&settings);
        self.world.expire();
        self.limits = limits;
    }

    fn pick(&self, which: prop::sample::Index) -> Option<usize> {
        (!self.live.is_empty()).then(|| which.index(self.live.len()))
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Allocate { user, network, server, tcp } => {
                self.allocate(user, network, server, tcp);
            }
            Act::Broken { user, network, server } => self.broken(user, network, server),
            Act::Abandoned { user, network, server } => self.abandon(user, network, server),
            Act::Reload(limits) => self.reload(limits),
            Act::Drain(server) => {
                self.draining[server] = true;
                self.world.handle(server, Event::Drain);
            }
            Act::Pass(seconds) => {
                self.world.pass(seconds);
                let now_ns = self.world.now.mono_ns;
                self.live.retain(|live| live.expires_ns > now_ns);
            }
            Act::Refresh(which) => {
                let Some(place) = self.pick(which) else { return };
                let live = &mut self.live[place];
                live.expires_ns = self.world.now.after_s(600);
                assert_eq!(live.client.ask(&mut self.world, &Ask::refresh(600)).code(), 0);
            }
            Act::Delete(which) => {
                let Some(place) = self.pick(which) else { return };
                let mut gone = self.live.swap_remove(place);
                assert_eq!(gone.client.ask(&mut self.world, &Ask::refresh(0)).code(), 0);
            }
            Act::Disconnect(which) => {
                let Some(place) = self.pick(which) else { return };
                let gone = self.live.swap_remove(place).client;
                self.world.handle(gone.shard, Event::Disconnected { tuple: gone.at.tuple });
            }
            Act::Kill(which) => {
                let Some(place) = self.pick(which) else { return };
                let gone = self.live.swap_remove(place);
                self.world.handle(gone.client.shard, Event::Kill { session: gone.session });
            }
        }
    }

    fn compare(&self) {
        let live = self.live.len();
        assert_eq!(self.world.ledger.allocations() as usize, live);
        assert_eq!(self.world.shared.allocations.count() as usize, live);
        for (user, (name, _)) in USERS.iter().enumerate() {
            let count = self.live.iter().filter(|live| live.user == user).count();
            let report = self.world.ledger.user(name.as_bytes(), self.world.now.mono_ns);
            assert_eq!(report.map_or(0, |report| report.allocations) as usize, count);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_beginning_is_counted_and_every_end_gives_it_back(
        limits in limits(),
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut test = Test::new(limits);
        for act in &acts {
            test.act(act);
            test.compare();
        }
        test.world.pass(4_000);
        test.world.assert_empty();
    }
}
