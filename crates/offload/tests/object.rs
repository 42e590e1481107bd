//! The committed object is what the source says: a rebuild gives the same program.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aya_obj::Object;
use aya_obj::maps::Map;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf");

/// What the kernel gets of an object: instructions with their relocations, and maps. What describes
/// the source to a debugger may differ.
#[derive(Debug, PartialEq)]
struct Loaded {
    programs: BTreeMap<String, String>,
    maps: BTreeMap<String, [u32; 5]>,
    license: String,
}

fn loaded(path: &Path) -> Loaded {
    let bytes = std::fs::read(path).unwrap();
    let mut object = Object::parse(&bytes).unwrap();
    let definition = |map: &Map| {
        [map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags()]
    };
    let maps = object.maps.iter().map(|(name, map)| (name.clone(), definition(map))).collect();
    let license = object.license.to_string_lossy().into_owned();
    // Relocated with made-up descriptors, so that a map's name is part of the instructions.
    let mut descriptors: Vec<_> = object.maps.iter().collect();
    descriptors.sort_by_key(|(name, _)| (*name).clone());
    let descriptors: Vec<_> = descriptors
        .into_iter()
        .enumerate()
        .map(|(index, (name, map))| (name.clone(), 100 + index as i32, map.clone()))
        .collect();
    let text = std::collections::HashSet::new();
    let relocations = descriptors.iter().map(|(name, fd, map)| (name.as_str(), *fd, map));
    object.relocate_maps(relocations, &text).unwrap();
    let programs = object
        .programs
        .iter()
        .map(|(name, program)| {
            let function = &object.functions[&program.function_key()];
            (name.clone(), format!("{:?}", function.instructions))
        })
        .collect();
    Loaded { programs, maps, license }
}

#[test]
fn a_rebuild_gives_the_same_program() {
    if Command::new("clang").arg("--version").output().is_err() {
        let why = "clang is not here to rebuild the program";
        assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "TURNWAY_NO_SKIP is set, but {why}");
        eprintln!("SKIPPED: {why}");
        return;
    }
    let out = std::env::temp_dir().join(format!("turnway-object-{}", std::process::id()));
    std::fs::create_dir_all(&out).unwrap();
    let built = Command::new(format!("{FOLDER}/build.sh")).arg(&out).status().unwrap();
    assert!(built.success());
    for name in ["turnway.bpf.o", "hairpin.bpf.o"] {
        let committed = loaded(&Path::new(FOLDER).join(name));
        assert!(committed.maps.contains_key("paths4"), "{name} has its maps");
        assert!(committed == loaded(&out.join(name)), "{name} is not what bpf/build.sh makes");
    }
    std::fs::remove_dir_all(out).unwrap();
}
