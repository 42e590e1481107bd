//! `turnway user`: what an operator types, and what comes of it.

mod common;
#[path = "user/files.rs"]
mod files;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tempfile::TempDir;
use turnway::database::{Database, Keys, Override, Used, period_names};

use common::{PATIENCE, program};

const REALM: &str = "example.org";

/// Where it is mostly another day than in UTC, and where no day ends while a test runs. The same
/// for the whole run.
fn time_zone() -> &'static str {
    static ZONE: OnceLock<&str> = OnceLock::new();
    ZONE.get_or_init(|| {
        let there = "Pacific/Kiritimati";
        let hour = Timestamp::now().in_tz(there).unwrap().hour();
        if hour == 23 { "Pacific/Pago_Pago" } else { there }
    })
}

/// A configuration with a database, and a terminal in front of it.
struct Operator {
    folder: TempDir,
}

impl Operator {
    fn new() -> Self {
        Self::with(&format!("time_zone = \"{}\"", time_zone()))
    }

    fn with(quota: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "realm = \"{REALM}\"\n\
             listen = [{{ transport = \"udp\", address = \"127.0.0.1:3478\" }}]\n\
             [auth]\n\
             database = \"sqlite:users.db\"\n\
             [[auth.user]]\n\
             name = \"carol\"\n\
             password = \"a password in the file\"\n\
             [quota]\n\
             allocations_per_user = 10\n\
             bandwidth_per_user = \"10 Mbit/s\"\n\
             volume_per_user = \"50 GB/month\"\n\
             {quota}\n"
        );
        fs::write(folder.path().join("turnway.toml"), config).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnway"));
        command.arg("user").args(arguments).current_dir(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// With a password, or whatever it is, on standard input.
    fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let piped = Stdio::piped;
        let mut command = self.command(arguments);
        let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What a command that went well and had no warning said.
    #[track_caller]
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        text(&output.stdout).to_owned()
    }

    /// Why a command was refused as wrong.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        refusal(&self.run(arguments))
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.said(arguments)).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users.db")
    }

    fn database(&self) -> Database {
        Database::open(&self.path()).unwrap()
    }
}

#[track_caller]
fn refusal(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert_eq!(text(&output.stdout), "");
    error.to_owned()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn assert_password(operator: &Operator, name: &str, password: &str) {
    let user = operator.database().user(REALM, name).unwrap().unwrap();
    let keys = Keys::derive(REALM, name, password).unwrap();
    assert_eq!(user.md5, Some(keys.md5), "{name}");
    assert_eq!(user.sha256, Some(keys.sha256), "{name}");
}

/// The line that follows "password: ".
fn printed_password(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("password: ")).expect(said)
}

#[test]
fn a_password_is_read_from_standard_input() {
    let operator = Operator::new();
    let output = operator.run_with_input(&["add", "alice", "--password-stdin"], "sesame öffne\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "Added \"alice\" to the realm \"example.org\".\n");
    assert_password(&operator, "alice", "sesame öffne");
    let output = operator.run_with_input(&["passwd", "alice", "--password-stdin"], "simsim\r\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_password(&operator, "alice", "simsim");
    for (input, reason) in [
        ("", "standard input is empty"),
        ("\n", "standard input is empty"),
        ("one\ntwo\n", "one line"),
        (&"x".repeat(5_000), "4096 bytes"),
        ("bell\u{7}", "password must be text"),
    ] {
        let refused =
            refusal(&operator.run_with_input(&["passwd", "alice", "--password-stdin"], input));
        assert!(refused.contains(reason), "{refused}");
        assert!(!refused.contains("bell"), "{refused}");
    }
    assert_password(&operator, "alice", "simsim");
}

#[test]
fn a_password_can_be_made_up_and_is_shown_once() {
    let operator = Operator::new();
    let passwords = [["add", "alice"], ["add", "bob"], ["passwd", "bob"]].map(|arguments| {
        let said = operator.said(&[&arguments[..], &["--generate"]].concat());
        assert!(said.contains("cannot be shown again"), "{said}");
        let password = printed_password(&said).to_owned();
        assert_eq!(password.len(), 24);
        assert_password(&operator, arguments[1], &password);
        password
    });
    assert!(passwords[0] != passwords[1] && passwords[1] != passwords[2]);
    let shown = operator.said(&["list"]) + &operator.said(&["list", "--json"]);
    let file = fs::read(operator.path()).unwrap();
    for password in passwords {
        assert!(!shown.contains(&password));
        assert!(!file.windows(password.len()).any(|window| window == password.as_bytes()));
    }
}

#[test]
fn a_password_is_asked_for_twice_at_the_terminal() {
    let Some(script) = program("script", "bsdutils") else { return };
    let operator = Operator::new();
    let type_in = |command: &str, answers: [&str; 2]| {
        let command = format!("{} user {command}", env!("CARGO_BIN_EXE_turnway"));
        let mut child = Command::new(&script)
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .current_dir(operator.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keyboard = child.stdin.take().unwrap();
        let mut screen = child.stdout.take().unwrap();
        let mut shown = String::new();
        for (prompt, answer) in ["Password for \"alice\": ", "The same again: "].iter().zip(answers)
        {
            let mut byte = [0];
            while !shown.ends_with(prompt) {
                assert_eq!(screen.read(&mut byte).unwrap(), 1, "it ended after: {shown}");
                shown.push(char::from(byte[0]));
            }
            keyboard.write_all(answer.as_bytes()).unwrap();
        }
        screen.read_to_string(&mut shown).unwrap();
        (child.wait().unwrap().code(), shown)
    };
    let (code, shown) = type_in("add alice", ["sesame\n", "simsim\n"]);
    assert_eq!(code, Some(2), "{shown}");
    assert!(shown.contains("the two are not the same"), "{shown}");
    assert!(operator.database().user(REALM, "alice").unwrap().is_none());
    let (code, shown) = type_in("add alice", ["sesame\n", "sesame\n"]);
    assert_eq!(code, Some(0), "{shown}");
    assert_password(&operator, "alice", "sesame");

    // Not this process: it has a terminal where a person runs the tests.
    let mut detached = Command::new("setsid");
    detached.args(["--wait", env!("CARGO_BIN_EXE_turnway"), "user", "add", "bob"]);
    let nobody = detached.current_dir(operator.folder.path()).stdin(Stdio::null()).output();
    let refused = refusal(&nobody.unwrap());
    assert!(refused.contains("no terminal") && refused.contains("--password-stdin"), "{refused}");
}

#[test]
fn an_interrupted_question_leaves_the_terminal_as_it_was() {
    let Some(script) = program("script", "bsdutils") else { return };
    let operator = Operator::new();
    // The shell lives on, and shows the terminal when it is told to.
    let turnway = env!("CARGO_BIN_EXE_turnway");
    let command = format!("trap : INT; {turnway} user add alice; echo code=$?.; read go; stty -a");
    let mut child = Command::new(script)
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(operator.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let (sender, bytes) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut byte = [0];
        while screen.read(&mut byte).unwrap() == 1 && sender.send(byte[0]).is_ok() {}
    });
    let (mut shown, started) = (String::new(), Instant::now());
    while !shown.ends_with("Password for \"alice\": ") {
        shown.push(char::from(bytes.recv_timeout(PATIENCE).expect(&shown)));
    }
    // The question may be shown a little before ^C is read as an answer to it.
    while !shown.contains("code=") && started.elapsed() < PATIENCE {
        keyboard.write_all(b"\x03").unwrap();
        while let Ok(byte) = bytes.recv_timeout(Duration::from_millis(200)) {
            shown.push(char::from(byte));
        }
    }
    if shown.contains("code=") {
        keyboard.write_all(b"\n").unwrap();
    } else {
        child.kill().unwrap();
    }
    drop(keyboard);
    shown.extend(bytes.iter().map(char::from));
    assert!(shown.contains("code=1."), "{shown}");
    assert!(shown.contains("no password was given; nothing was changed"), "{shown}");
    let settings: Vec<_> = shown.split_whitespace().collect();
    assert!(settings.contains(&"echo") && settings.contains(&"icanon"), "{shown}");
    child.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn a_password_among_the_arguments_is_refused_and_not_repeated() {
    let operator = Operator::new();
    for arguments in [
        &["add", "alice", "--password", "hunter2"][..],
        &["add", "alice", "--password=hunter2"],
        &["add", "alice", "--password"],
        &["passwd", "alice", "--password", "hunter2"],
    ] {
        let refused = operator.refused(arguments);
        assert!(refused.contains("everybody on this machine"), "{refused}");
        assert!(refused.contains("--password-stdin"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    assert!(!operator.path().exists());
}

#[test]
fn users_are_added_once_listed_and_removed() {
    let operator = Operator::new();
    let missing = operator.refused(&["list"]);
    assert!(missing.contains("users.db: there is no database yet"), "{missing}");
    let limits = ["--allocations", "3", "--bandwidth", "unlimited", "--burst", "default"];
    operator.said(&[&["add", "bob", "--no-password"], &limits[..]].concat());
    operator.said(&["add", "alice", "--generate"]);
    assert_eq!(
        operator.said(&["list"]),
        "NAME   PASSWORD  LIMITS OF THEIR OWN\n\
         alice  yes       -\n\
         bob    no        allocations 3; bandwidth unlimited\n"
    );
    let json = operator.json(&["list", "--json"]);
    assert_eq!(json["realm"], REALM);
    assert_eq!(json["users"][0]["name"], "alice");
    assert_eq!(json["users"][0]["keys"], true);
    assert_eq!(json["users"][1]["limits"]["allocations"], 3);
    assert_eq!(json["users"][1]["limits"]["bandwidth"], "unlimited");
    assert!(json["users"][1]["limits"]["volume_per_day"].is_null());

    let again = operator.refused(&["add", "alice", "--generate"]);
    assert!(again.contains("\"alice\" is there already"), "{again}");
    assert!(again.contains("turnway user passwd"), "{again}");
    let removed = operator.said(&["remove", "alice"]);
    assert_eq!(removed, "Removed \"alice\" from the realm \"example.org\".\n");
    for command in ["remove", "passwd", "limit"] {
        let gone = operator.refused(&[command, "alice"]);
        assert!(gone.contains("there is no user \"alice\""), "{gone}");
        assert!(gone.contains("turnway user add --no-password"), "{gone}");
    }
    let removed = operator.said(&["remove", "bob"]);
    assert!(removed.starts_with("Removed \"bob\" from the realm \"example.org\". "), "{removed}");
    assert!(removed.contains("go on") && removed.contains("the application"), "{removed}");
    assert!(operator.said(&["list"]).contains("No users in the realm"));
}

#[test]
fn a_user_of_the_configuration_gets_limits_only() {
    let operator = Operator::new();
    let refused = operator.refused(&["add", "carol", "--generate"]);
    assert!(refused.contains("[[auth.user]]"), "{refused}");
    operator.said(&["add", "carol", "--no-password", "--allocations", "2"]);
    let refused = operator.refused(&["passwd", "carol", "--generate"]);
    assert!(refused.contains("[[auth.user]]"), "{refused}");
    assert!(!operator.database().user(REALM, "carol").unwrap().unwrap().has_keys());
    let listed = lines(&operator.said(&["list"]));
    assert_eq!(listed[1], "carol in configuration allocations 2");
    let removed = operator.said(&["remove", "carol"]);
    assert!(removed.contains("go on") && removed.contains("in the configuration"), "{removed}");
}

#[test]
fn a_bandwidth_above_that_of_all_together_is_warned_of() {
    let operator = Operator::with(
        "bandwidth_per_realm = \"100 Mbit/s\"\n[limits]\nbandwidth = \"200 Mbit/s\"",
    );
    let warned = |arguments: &[&str], bandwidth: &str| {
        let output = operator.run(&[arguments, &["--bandwidth", bandwidth]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    };
    let realm = warned(&["add", "alice", "--no-password"], "150 Mbit/s");
    assert!(realm.starts_with("warning: the 150 Mbit/s of \"alice\" are above"), "{realm}");
    assert!(realm.contains("100 Mbit/s of the whole realm"), "{realm}");
    assert!(realm.contains("raise bandwidth_per_realm in [quota]"), "{realm}");
    assert_eq!(realm.lines().count(), 1);
    let both = warned(&["limit", "alice"], "250 Mbit/s");
    assert_eq!(both.lines().count(), 2);
    assert!(both.contains("raise bandwidth in [limits]"), "{both}");
    for fits in ["100 Mbit/s", "unlimited", "default"] {
        assert_eq!(warned(&["limit", "alice"], fits), "");
    }
}

#[test]
fn names_are_prepared_checked_and_shown_harmlessly() {
    let operator = Operator::new();
    for name in ["", "a\nb", "\u{1b}[2J", &"x".repeat(509)] {
        let refused = operator.refused(&["add", name, "--no-password"]);
        assert!(refused.contains("is not a user name"), "{refused}");
        assert!(!refused.contains('\u{1b}'), "{refused}");
    }
    operator.said(&["add", "Rene\u{301}", "--no-password"]);
    let again = operator.refused(&["add", "Ren\u{e9}", "--no-password"]);
    assert!(again.contains("is there already"), "{again}");
    let timed = operator.run(&["add", "1700000000:eve", "--no-password"]);
    assert!(timed.status.success());
    let warning = text(&timed.stderr);
    assert!(warning.starts_with("warning: ") && warning.contains("\"eve\""), "{warning}");

    // What the file holds need not have come through this program.
    let hostile: Arc<[u8]> = b"\x1b[2Jmallory\xFF"[..].into();
    let (day, month) = today();
    let used = Used { to_peer: 1, to_client: 1 };
    operator.database().add_usage(REALM, &day, &month, &[(hostile, used)]).unwrap();
    let shown = operator.said(&["usage"]);
    assert!(shown.contains("\\u{1b}[2Jmallory") && !shown.contains('\u{1b}'), "{shown}");
}

/// Without the spaces that make columns.
fn lines(shown: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    shown.lines().map(words).collect()
}

fn today() -> (String, String) {
    period_names(Timestamp::now().in_tz(time_zone()).unwrap().date())
}

#[test]
fn limits_are_changed_one_by_one_and_shown_as_they_are_in_force() {
    let operator = Operator::new();
    operator.said(&["add", "alice", "--generate"]);
    assert_eq!(
        lines(&operator.said(&["limit", "alice"])),
        [
            "Limits of \"alice\":",
            "allocations 10 as configured",
            "bandwidth 10 Mbit/s, burst 625 kB as configured",
            "bandwidth per allocation unlimited as configured",
            "volume per day unlimited as configured",
            "volume per month 50 GB as configured",
        ]
    );
    let before = operator.database().users_version().unwrap();
    let change = |arguments: &[&str]| operator.said(&[&["limit", "alice"], arguments].concat());
    change(&["--bandwidth", "2.5 MB/s", "--burst", "2 MB"]);
    change(&["--allocation-bandwidth", "1 Mbit/s", "--allocation-burst", "100 kB"]);
    change(&["--volume-per-day", "2 GB", "--volume-per-month", "unlimited"]);
    change(&["--allocations", "7"]);
    let shown = change(&["--burst", "default"]);
    assert_eq!(
        lines(&shown),
        [
            "Limits of \"alice\":",
            "allocations 7 own",
            "bandwidth 20 Mbit/s, burst 1250 kB own",
            "bandwidth per allocation 1 Mbit/s, burst 100 kB own",
            "volume per day 2 GB own",
            "volume per month unlimited own",
        ]
    );
    let database = operator.database();
    assert!(database.users_version().unwrap() >= before + 5, "the daemon sees each");
    let alice = database.user(REALM, "alice").unwrap().unwrap().overrides;
    assert_eq!(alice.bandwidth, Override::Limit(2_500_000));
    assert_eq!(alice.allocation_burst, Some(100_000));
    assert_eq!(alice.volume_day, Override::Limit(2_000_000_000));
    let back = change(&["--allocations", "default", "--volume-per-day", "3 GB/day"]);
    assert_eq!(lines(&back)[1], "allocations 10 as configured");
}

#[test]
fn limits_that_nobody_can_mean_are_refused_with_advice() {
    let operator = Operator::new();
    operator.said(&["add", "alice", "--generate"]);
    let unchanged = operator.said(&["limit", "alice"]);
    for (option, value, reason) in [
        ("--bandwidth", "5", "5 has no unit"),
        ("--bandwidth", "5 Mb", "bits or bytes"),
        ("--burst", "1000000", "no unit"),
        ("--burst", "unlimited", "a bandwidth without a limit"),
        ("--burst", "1 kB", "at least \"1500 B\""),
        ("--allocations", "many", "not a whole number"),
        ("--allocations", "0", "write at least 1"),
        ("--allocation-bandwidth", "20 Mbit/s", "raise --bandwidth"),
        ("--allocation-burst", "9 kB", "add --allocation-bandwidth"),
        ("--volume-per-day", "5", "write for example \"5 GB\""),
        ("--volume-per-day", "60 GB", "raise --volume-per-month"),
        ("--volume-per-day", "5 GB/month", "use --volume-per-month"),
        ("--volume-per-month", "5 GB/week", "unknown period"),
    ] {
        let refused = operator.refused(&["limit", "alice", option, value]);
        assert!(refused.contains(reason), "{option} {value}: {refused}");
        let refused = operator.refused(&["add", "bob", "--no-password", option, value]);
        assert!(refused.contains(reason), "{option} {value}: {refused}");
    }
    assert_eq!(operator.said(&["limit", "alice"]), unchanged);
    assert!(operator.database().user(REALM, "bob").unwrap().is_none());
}

#[test]
fn usage_is_of_today_and_this_month_where_the_operator_lives() {
    let operator = Operator::new();
    operator.said(&["add", "alice", "--generate", "--volume-per-day", "2 GB"]);
    let (day, month) = today();
    let mut database = operator.database();
    let used = |account: &str, bytes| {
        (account.as_bytes().into(), Used { to_peer: bytes, to_client: bytes / 2 })
    };
    database.add_usage(REALM, &day, &month, &[used("alice", 1_000_000_000)]).unwrap();
    let others = [used("bob", 30_000_000_000), used("eve", 2)];
    database.add_usage(REALM, "1999-12-31", &month, &others).unwrap();
    let shown = operator.said(&["usage"]);
    let mut lines = shown.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()));
    let mut row = || lines.next().unwrap().map(str::trim).collect::<Vec<_>>();
    assert_eq!(row(), ["NAME", &day, &month]);
    assert_eq!(row(), ["bob", "0 B", "45.0 GB of 50 GB (90 %)"]);
    assert_eq!(row(), ["alice", "1.50 GB of 2 GB (75 %)", "1.50 GB of 50 GB (3 %)"]);
    assert_eq!(row(), ["eve", "0 B", "3 B of 50 GB (0 %)"]);

    let top = operator.said(&["usage", "--top", "1"]);
    assert!(top.contains("bob") && !top.contains("alice"), "{top}");
    assert!(top.ends_with("and 2 more; --top 3 shows all\n"), "{top}");
    let alice = operator.said(&["usage", "alice"]);
    assert!(alice.contains("1.50 GB of 2 GB (75 %)") && !alice.contains("bob"), "{alice}");
    let json = operator.json(&["usage", "--json", "--top", "2"]);
    assert_eq!((&json["day"], &json["more"]), (&day.into(), &1.into()));
    assert_eq!(json["accounts"][1]["account"], "alice");
    assert_eq!(json["accounts"][1]["day"]["to_client"], 500_000_000);
    assert_eq!(json["accounts"][1]["day"]["limit"], 2_000_000_000);
    assert!(json["accounts"][0]["day"]["limit"].is_null());
}

#[test]
fn without_a_configuration_the_file_and_the_realm_are_named() {
    let operator = Operator::new();
    let database = ["--database", "other.db", "--realm", "example.com"];
    let run = |arguments: &[&str]| operator.said(&[arguments, &database].concat());
    run(&["add", "alice", "--generate"]);
    let shown = run(&["limit", "alice", "--burst", "9 kB", "--bandwidth", "1 Mbit/s"]);
    assert!(shown.contains("1 Mbit/s, burst 9 kB") && shown.contains("as configured"), "{shown}");
    assert!(run(&["list"]).contains("alice"));
    assert!(run(&["usage"]).contains("Nobody has used anything"));
    run(&["remove", "alice"]);
    assert!(!operator.path().exists(), "the configured one is not touched");

    let alone = operator.refused(&["list", "--database", "other.db"]);
    assert!(alone.contains("--realm"), "{alone}");
    let both = operator.refused(&[&["list", "-c", "turnway.toml"], &database[..]].concat());
    assert!(both.contains("cannot be used with"), "{both}");
    let quoted = ["add", "a", "--no-password", "--database", "other.db", "--realm", "a\"b"];
    let realm = operator.refused(&quoted);
    assert!(realm.contains("realm must be text"), "{realm}");
}

#[test]
fn what_cannot_be_used_is_named_with_advice() {
    let operator = Operator::new();
    let config = operator.folder.path().join("turnway.toml");
    let written = fs::read_to_string(&config).unwrap();
    let usual = written.replace("volume_per_user", "#volume_per_user");
    fs::write(&config, usual.replace("database = ", "#database = ")).unwrap();
    let none = operator.refused(&["add", "alice", "--generate"]);
    assert!(none.contains("turnway.toml: names no database"), "{none}");
    assert!(none.contains("database = \"sqlite:turnway.db\""), "{none}");
    fs::write(&config, written.replace("sqlite:users.db", "sqlite:none/users.db")).unwrap();
    let folder = operator.refused(&["add", "alice", "--generate"]);
    assert!(folder.contains("none is not there; make it first"), "{folder}");
    let absent = operator.refused(&["list", "-c", "absent.toml"]);
    assert!(absent.contains("absent.toml: cannot read"), "{absent}");
    fs::write(&config, &written).unwrap();
    fs::write(operator.path(), "not a database ".repeat(100)).unwrap();
    let foreign = operator.refused(&["list"]);
    assert!(foreign.contains("users.db: is not a database of Turnway"), "{foreign}");
}
