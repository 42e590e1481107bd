//! Holds the structs against those of the built program, whose BTF tells their fields, and the
//! constants against the header.

use core::mem::offset_of;
use std::collections::HashMap;

use super::*;

const HEADER: &str = include_str!("../../bpf/abi.h");
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/turnway.bpf.o");

/// A struct of the program: its size, and its fields with their offsets.
#[derive(Debug, Default)]
struct Struct {
    size: usize,
    fields: Vec<(String, usize)>,
}

/// The structs in the program's BTF (its format: Documentation/bpf/btf.rst of the kernel).
fn structs() -> HashMap<String, Struct> {
    const HEADER_LEN: usize = 24;
    let btf = aya_obj::Object::parse(OBJECT).unwrap().btf.unwrap().to_bytes();
    let word = |at: usize| u32::from_ne_bytes(*btf[at..].first_chunk().unwrap()) as usize;
    let (types, types_len, strings) = (word(8), word(12), word(16));
    let text = |offset: usize| {
        let bytes = btf[HEADER_LEN + strings + offset..].split(|&byte| byte == 0).next();
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    };
    let mut structs = HashMap::new();
    let mut at = HEADER_LEN + types;
    while at < HEADER_LEN + types + types_len {
        let (name, info, size) = (text(word(at)), word(at + 4), word(at + 8));
        let (kind, count) = (info >> 24 & 0x1F, info & 0xFFFF);
        at += 12;
        if kind == 4 {
            let field = |i: usize| (text(word(at + 12 * i)), word(at + 12 * i + 8) / 8);
            structs.insert(name, Struct { size, fields: (0..count).map(field).collect() });
        }
        at += match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            _ => 0,
        };
    }
    structs
}

#[test]
fn structs_have_the_same_fields_at_the_same_places() {
    let structs = structs();
    macro_rules! same {
        ($rust:ident, $c:literal, $($field:ident),+) => {
            let there = &structs[$c];
            assert_eq!(there.size, size_of::<$rust>(), "size of {}", $c);
            let here = [$((stringify!($field).to_owned(), offset_of!($rust, $field))),+];
            assert_eq!(there.fields, here, "{}", $c);
        };
    }
    same!(Key4, "key4", from_port, to_port, channel, inside, from, to);
    same!(Key6, "key6", from_port, to_port, channel, inside, from, to);
    same!(
        Path, "path", check, hop, family, flags, account, to, from, from_port, to_port, channel,
        zero, generation, zero2
    );
    same!(
        Account,
        "account",
        deadline_ns,
        generation,
        flags,
        pocket,
        datagrams,
        bytes,
        dropped,
        dropped_bytes,
        passed_bytes
    );
    same!(Listener, "listener", address, port, family);
    same!(Settings, "settings", flags, zero, binding_interval_ns, binding_ahead_ns);
    same!(Probed, "probed", seen, failed);
}

/// Its small fields are written together, as words.
#[test]
fn a_hop_has_the_same_words_at_the_same_places() {
    let there = &structs()["hop"];
    assert_eq!(there.size, size_of::<Hop>());
    let here = [
        ("stamp", offset_of!(Hop, stamp)),
        ("device", offset_of!(Hop, device)),
        ("ifindex", offset_of!(Hop, ifindex)),
        ("route_ifindex", offset_of!(Hop, route_ifindex)),
        ("mtu", offset_of!(Hop, mtu_and_vlan)),
        ("vlan", offset_of!(Hop, mtu_and_vlan) + 2),
        ("to", offset_of!(Hop, macs)),
        ("from", offset_of!(Hop, macs) + 6),
    ];
    assert_eq!(there.fields, here.map(|(name, at)| (name.to_owned(), at)));
}

#[test]
fn constants_are_those_of_the_header() {
    let defined = |name: &str| {
        let line = HEADER.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
        let text = line.unwrap_or_else(|| panic!("no {name} in the header")).trim();
        let text = text.trim_end_matches("ULL");
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => text.parse().unwrap(),
        }
    };
    let constants = [
        ("INSIDE", INSIDE.into()),
        ("PATH_TO_CLIENT", PATH_TO_CLIENT.into()),
        ("HOP_LOCAL", HOP_LOCAL.into()),
        ("PATH_CHECK_KEY", PATH_CHECK_KEY),
        ("PATH_CHECK_VALUE", PATH_CHECK_VALUE),
        ("PATH_CHECK_STEP", PATH_CHECK_STEP),
        ("ACCOUNT_METERED", ACCOUNT_METERED.into()),
        ("ACCOUNT_SHUT", ACCOUNT_SHUT.into()),
        ("HOP_FRESH", HOP_FRESH.into()),
        ("HOP_ASK", HOP_ASK.into()),
        ("HOP_STATE", HOP_STATE.into()),
        ("SETTINGS_BINDING", SETTINGS_BINDING.into()),
        ("SETTINGS_REDIRECT", SETTINGS_REDIRECT.into()),
    ];
    for (name, value) in constants {
        assert_eq!(defined(name), value, "{name}");
    }
}

#[test]
fn outcomes_are_those_of_the_header_in_their_order() {
    let start = HEADER.find("enum outcome {").expect("the outcomes");
    let body = HEADER[start..].split(['{', '}']).nth(1).expect("their list");
    let name = |line: &str| line.split(',').next().map(|name| name.trim().to_owned());
    let listed = body.lines().filter(|line| line.starts_with('\t') && !line.contains("/* L"));
    let names: Vec<_> = listed.filter_map(name).filter(|n| !n.starts_with("/*")).collect();
    let ours = Outcome::ALL.map(|outcome| {
        format!("{outcome:?}").chars().fold(String::new(), |mut name, letter| {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
            name
        })
    });
    assert_eq!(names, [&ours[..], &["OUTCOMES".to_owned()]].concat());
}
