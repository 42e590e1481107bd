//! What a package installs under `systemd/`, put before systemd's own checkers: the unit is
//! verified with the binary of this build, its sandbox rated, and user and directories created
//! in an empty root. Where a checker is absent (`tests/install-deps.sh` installs them) or root
//! is needed and we are not, the test says so and proves nothing.

#![forbid(unsafe_code)]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::skipped;

/// The exposure `systemd-analyze security` may find, in tenths: 1.5 of 10 with systemd 252.
/// What remains is what a relay is for (Internet sockets, a list of its own addresses, a port below
/// 1024) and `PrivateUsers=`,
/// which would take the right to that port away.
const EXPOSURE_MAX_TENTHS: &str = "15";

/// The same with `offload.conf`, whose capabilities are a part of what is rated.
const OFFLOAD_EXPOSURE_MAX_TENTHS: &str = "17";

#[test]
fn the_unit_has_nothing_systemd_objects_to() {
    let dir = tempfile::tempdir().unwrap();
    let unit = unit_with_built_binary(dir.path());

    let Some(complaints) = run(Command::new("systemd-analyze").arg("verify").arg(unit)) else {
        return;
    };

    assert_eq!(complaints, Ok(String::new()), "systemd-analyze verify complains");
}

#[test]
fn the_drop_in_for_the_kernels_data_path_adds_what_it_needs_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let unit = unit_with_built_binary(dir.path());
    install("offload.conf", &dir.path().join("turnway.service.d/offload.conf"));

    let verify = run(Command::new("systemd-analyze").arg("verify").arg(&unit));
    let Some(complaints) = verify else { return };
    assert_eq!(complaints, Ok(String::new()), "systemd-analyze verify complains");

    // The right to bpf(2) and to attach to interfaces is what it is for; nothing else is given up.
    let rating = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={OFFLOAD_EXPOSURE_MAX_TENTHS}"))
        .arg(&unit));
    if let Some(Err(rating)) = rating {
        panic!("the exposure is above {OFFLOAD_EXPOSURE_MAX_TENTHS} tenths:\n{rating}");
    }
}

#[test]
fn a_unit_with_a_misspelt_setting_is_objected_to() {
    let dir = tempfile::tempdir().unwrap();
    let unit = unit_with_built_binary(dir.path());
    let misspelt = fs::read_to_string(&unit).unwrap().replace("WatchdogSec", "WatchdogSecs");
    fs::write(&unit, misspelt).unwrap();

    let Some(complaints) = run(Command::new("systemd-analyze").arg("verify").arg(unit)) else {
        return;
    };

    assert_ne!(complaints, Ok(String::new()), "verify would pass any unit");
}

#[test]
fn the_sandbox_is_as_tight_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let unit = unit_with_built_binary(dir.path());

    let Some(rating) = run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true"])
        .arg(format!("--threshold={EXPOSURE_MAX_TENTHS}"))
        .arg(unit))
    else {
        return;
    };

    if let Err(rating) = rating {
        panic!("the unit's exposure is above {EXPOSURE_MAX_TENTHS} tenths:\n{rating}");
    }
}

#[test]
fn only_root_and_the_relay_can_read_its_secrets() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        skipped("creating users and owners in a root directory takes root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let config = root.join("etc/turnway/turnway.toml");
    install("turnway.sysusers", &root.join("usr/lib/sysusers.d/turnway.conf"));
    install("turnway.tmpfiles", &root.join("usr/lib/tmpfiles.d/turnway.conf"));
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let in_root = format!("--root={}", root.display());

    for tool in ["systemd-sysusers", "systemd-tmpfiles"] {
        let mut command = Command::new(tool);
        command.arg(&in_root);
        if tool == "systemd-tmpfiles" {
            command.arg("--create");
        }
        match run(command.arg("turnway.conf")) {
            None => return,
            Some(outcome) => assert!(outcome.is_ok(), "{tool}: {outcome:?}"),
        }
    }

    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.contains("turnway:x:") && passwd.contains("nologin"), "{passwd}");
    for (path, mode) in [(config.parent().unwrap(), 0o750), (config.as_path(), 0o640)] {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.mode() & 0o777, mode, "{}", path.display());
        assert_eq!(found.uid(), 0, "{}", path.display());
        assert_ne!(found.gid(), 0, "{}", path.display());
    }
    let state = fs::metadata(root.join("var/lib/turnway")).unwrap();
    assert_eq!(state.mode() & 0o777, 0o750);
    assert!(state.uid() != 0 && state.gid() != 0, "the database is the relay's own");
}

/// The shipped unit with its one path that exists only after an installation replaced by the
/// binary of this build.
fn unit_with_built_binary(dir: &Path) -> PathBuf {
    let shipped = fs::read_to_string(shipped("turnway.service")).unwrap();
    assert_eq!(shipped.matches("/usr/bin/turnway").count(), 1, "one ExecStart is expected");
    let unit = dir.join("turnway.service");
    let built = shipped.replace("/usr/bin/turnway", env!("CARGO_BIN_EXE_turnway"));
    fs::write(&unit, built).unwrap();
    unit
}

fn install(name: &str, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(shipped(name), to).unwrap();
}

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// Runs a checker. `Ok` is what it wrote to stderr while succeeding, `Err` all it wrote while
/// failing; `None` is a checker that is not installed, said aloud.
fn run(command: &mut Command) -> Option<Result<String, String>> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skipped(&format!("{} is not installed", command.get_program().display()));
            return None;
        }
        Err(error) => panic!("{command:?}: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Some(Ok(errors));
    }
    Some(Err(String::from_utf8_lossy(&output.stdout).into_owned() + &errors))
}
