//! What becomes of `[offload] mode` on a machine, and what the log says of it.

use std::thread;

use turnway_wire::Family;

use crate::common::{Setup, program};
use crate::net::{Net, World, run_inside};

/// The line of the log about it.
fn line(world: &mut World) -> String {
    world.relay.await_line("the offload", |line| line.contains("relaying in "))
}

/// Runs a program of the relay's machine that must succeed.
#[track_caller]
fn on_server(net: &Net, program: &str, arguments: &str) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = run_inside(&net.server, program, &arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

#[test]
fn auto_is_native_where_nothing_would_be_bypassed() {
    let Some(net) = Net::new() else { return };
    let mut world = World::start(net, "auto", World::setup());
    let line = line(&mut world);
    assert!(line.ends_with("relaying in the kernel: clients native; peers native"), "{line}");
    let _ = world.talk((Family::V4, Family::V4), 0x4000);
}

#[test]
fn auto_keeps_off_where_rules_would_be_bypassed_and_an_explicit_mode_does_not() {
    let Some(net) = Net::new() else { return };
    if program("nft", "nftables").is_none() || program("tc", "iproute2").is_none() {
        return;
    }
    on_server(&net, "nft", "add table inet filter");
    on_server(&net, "nft", "add chain inet filter input { type filter hook input priority 0 ; }");
    on_server(&net, "nft", "add rule inet filter input tcp dport 22 accept");
    let mut world = World::start(net, "auto", World::setup());
    let said = line(&mut world);
    assert!(said.contains("relaying in user space only: "), "{said}");
    for part in ["clients off", "peers off", "nftables inet filter input", "overrides"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let talk = world.talk_anywhere(world.near(Family::V4), world.far(Family::V4), 0x4000);
    talk.round_trip();
    drop(talk);
    for mode in ["native", "generic"] {
        world = again(world, mode);
        let said = line(&mut world);
        let expected = format!("clients {mode} (bypasses nftables inet filter input)");
        assert!(said.contains("relaying in the kernel: ") && said.contains(&expected), "{said}");
        let _ = world.talk((Family::V4, Family::V4), 0x4000);
    }
    on_server(&world.net, "nft", "flush ruleset");
    on_server(&world.net, "tc", "qdisc add dev peers root handle 1: htb");
    world = again(world, "auto");
    let said = line(&mut world);
    assert!(said.contains("clients native; peers off ("), "{said}");
    assert!(said.contains("qdisc htb on peers"), "{said}");
    // What would leave by the other one stays in user space.
    let talk = world.talk_anywhere(world.near(Family::V4), world.far(Family::V4), 0x4000);
    talk.round_trip();
    let refused = "turnway_offload_paths_refused_total{reason=\"not_attached\"}";
    world.relay.await_samples("the refusal", |samples| samples[refused] == 1.0);
}

/// A new daemon on the same machine.
fn again(world: World, mode: &str) -> World {
    let World { mut relay, net, .. } = world;
    relay.signal("INT");
    assert!(relay.wait().success());
    World::start(net, mode, World::setup())
}

/// A daemon that has exactly these capabilities, as another user than root.
fn with_capabilities(capabilities: &[&str]) -> Setup {
    let list = |prefix: &str| {
        let each = capabilities.iter().map(|name| format!("{prefix}{name}"));
        std::iter::once("-all".to_owned()).chain(each).collect::<Vec<_>>().join(",")
    };
    // The configuration is in a folder that is root's alone.
    let open = "chmod -R a+rwX \"$(dirname \"$4\")\"";
    let run = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
         --inh-caps={all} --ambient-caps={all} --bounding-set={all}",
        all = list("+"),
    );
    let runner = ["sh", "-c", &format!("{open}; exec {run} -- \"$@\""), "sh"];
    Setup { runner: runner.map(str::to_owned).to_vec(), ..World::setup() }
}

#[test]
fn the_capabilities_of_the_drop_in_suffice_and_missing_ones_are_named() {
    const ALL: [&str; 3] = ["bpf", "perfmon", "net_admin"];
    let cases: [(&[&str], &str); 4] = [
        (&ALL, "relaying in the kernel: clients native; peers native"),
        (&ALL[1..], "relaying in user space only: CAP_BPF is missing; "),
        (&["bpf", "net_admin"], "relaying in user space only: CAP_PERFMON is missing; "),
        (&[], "relaying in user space only: CAP_NET_ADMIN and CAP_PERFMON and CAP_BPF are missing"),
    ];
    if program("setpriv", "util-linux").is_none() {
        return;
    }
    thread::scope(|scope| {
        for (capabilities, expected) in cases {
            let Some(net) = Net::new() else { return };
            scope.spawn(move || {
                let mut world = World::start(net, "auto", with_capabilities(capabilities));
                let said = line(&mut world);
                assert!(said.contains(expected), "{capabilities:?}: {said}");
                if capabilities.len() == ALL.len() {
                    let _ = world.talk((Family::V4, Family::V6), 0x4000);
                } else {
                    let (near, far) = (world.near(Family::V4), world.far(Family::V6));
                    world.talk_anywhere(near, far, 0x4000).round_trip();
                }
            });
        }
    });
}
