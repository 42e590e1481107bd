//! The database as a file: whose it is, who may read it, and who begins it.

use super::*;

#[test]
fn a_file_that_may_not_be_read_says_whom_to_let() {
    let Some(setpriv) = program("setpriv", "util-linux") else { return };
    if !Path::new("/proc/self").metadata().is_ok_and(|own| owner(&own) == 0) {
        common::skipped("becoming another user needs root");
        return;
    }
    let operator = Operator::new();
    operator.said(&["add", "alice", "--generate"]);
    let config = operator.folder.path().join("turnway.toml");
    fs::set_permissions(&config, permissions(0o644)).unwrap();
    // The program may be where the other user cannot go.
    let everywhere = tempfile::tempdir().unwrap();
    let copy = everywhere.path().join("turnway");
    // Not by this process: another test's child would inherit the file open for writing, and what
    // is being written cannot be run ("text file busy").
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_turnway")).arg(&copy).status();
    assert!(copied.unwrap().success());
    for folder in [everywhere.path(), operator.folder.path()] {
        fs::set_permissions(folder, permissions(0o755)).unwrap();
    }
    // Starting again would change nothing: systemd is not to try.
    for command in [&["user", "list"][..], &["serve", "-c", "turnway.toml"], &["check"]] {
        let output = Command::new(&setpriv)
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(command)
            .current_dir(operator.folder.path())
            .output()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {error}");
        assert!(error.contains("let the user Turnway runs as read and write users.db"), "{error}");
    }
}

fn owner(metadata: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(metadata)
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

#[test]
fn many_operators_may_begin_one_database_at_once() {
    let operator = Operator::new();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let name = format!("user{number}");
            let mut command = operator.command(&["add", &name, "--no-password"]);
            command.stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(operator.database().users(REALM).unwrap().len(), 8);
}
