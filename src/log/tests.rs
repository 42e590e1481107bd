use std::io::{self, Write};
use std::sync::Mutex;

use serde_json::Value;
use turnway_relay::{EndReason, FiveTuple, Traffic, Transport};

use super::*;

/// What a log wrote.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }
}

/// The lines that `written` become.
fn lines_of(format: LogFormat, written: Vec<Record>) -> Vec<String> {
    let page = Page::default();
    let made = page.clone();
    let (log, _level) = new_log(LogLevel::Info, format, false, move || made.clone());
    let (records, writer) = records();
    for record in written {
        records.send(record);
    }
    drop(records);
    dispatcher::with_default(&log, || writer.run());
    page.lines()
}

fn text_of(record: Record) -> String {
    let lines = lines_of(LogFormat::Text, vec![record]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

fn json_of(record: Record) -> Value {
    let lines = lines_of(LogFormat::Json, vec![record]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    serde_json::from_str(&lines[0]).unwrap()
}

fn tuple() -> FiveTuple {
    FiveTuple {
        transport: Transport::Tcp,
        client: "198.51.100.9:40000".parse().unwrap(),
        server: "203.0.113.7:3478".parse().unwrap(),
    }
}

fn started(user: &[u8]) -> Record {
    Record::Started(Box::new(Started {
        session: 7,
        user: user.into(),
        tuple: tuple(),
        v4: Some("203.0.113.7:50000".parse().unwrap()),
        v6: None,
        lifetime_s: 600,
    }))
}

fn ended() -> Record {
    Record::Ended(Box::new(Ended {
        session: 7,
        user: b"alice".as_slice().into(),
        tuple: tuple(),
        v4: Some("203.0.113.7:50000".parse().unwrap()),
        v6: Some("[2001:db8::7]:50001".parse().unwrap()),
        seconds: 61,
        traffic: Traffic { to_peer: 1, to_peer_bytes: 20, to_client: 300, to_client_bytes: 4000 },
        reason: EndReason::Deleted,
    }))
}

fn failed(user: &[u8], cause: AuthFailure) -> Record {
    Record::AuthFailed(Box::new(AuthFailed {
        user: user.into(),
        tuple: tuple(),
        cause,
        suppressed: 12,
    }))
}

/// Without the time, which is checked to be one.
fn after_time(line: &str) -> &str {
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "2026-01-31T10:00:00.000000Z".len(), "{time}");
    assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    rest.trim_start()
}

#[test]
fn an_allocations_start_is_one_line() {
    assert_eq!(
        after_time(&text_of(started(b"alice"))),
        "INFO allocation started id=7 user=\"alice\" client=198.51.100.9:40000 transport=tcp \
         relay_v4=203.0.113.7:50000 lifetime_seconds=600"
    );
    let json = json_of(started(b"alice"));
    assert_eq!(json["level"], "INFO");
    assert_eq!(json["message"], "allocation started");
    assert_eq!(json["id"], 7);
    assert_eq!(json["user"], "alice");
    assert_eq!(json["client"], "198.51.100.9:40000");
    assert_eq!(json["transport"], "tcp");
    assert_eq!(json["relay_v4"], "203.0.113.7:50000");
    assert_eq!(json.get("relay_v6"), None);
    assert_eq!(json["lifetime_seconds"], 600);
    assert!(json["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn an_allocations_end_is_one_line() {
    assert_eq!(
        after_time(&text_of(ended())),
        "INFO allocation ended id=7 user=\"alice\" client=198.51.100.9:40000 transport=tcp \
         relay_v4=203.0.113.7:50000 relay_v6=[2001:db8::7]:50001 seconds=61 \
         to_peer_datagrams=1 to_peer_bytes=20 to_client_datagrams=300 to_client_bytes=4000 \
         reason=deleted"
    );
    let json = json_of(ended());
    assert_eq!(json["message"], "allocation ended");
    assert_eq!(json["relay_v6"], "[2001:db8::7]:50001");
    assert_eq!(json["seconds"], 61);
    assert_eq!(json["to_peer_datagrams"], 1);
    assert_eq!(json["to_peer_bytes"], 20);
    assert_eq!(json["to_client_datagrams"], 300);
    assert_eq!(json["to_client_bytes"], 4000);
    assert_eq!(json["reason"], "deleted");
}

#[test]
fn a_refusal_says_why_and_how_often() {
    let line = text_of(failed(b"bob", AuthFailure::UnknownUser));
    assert_eq!(
        after_time(&line),
        "INFO authentication failed: unknown user user=\"bob\" client=198.51.100.9:40000 \
         transport=tcp cause=\"unknown_user\" suppressed=12"
    );
    let json = json_of(failed(b"bob", AuthFailure::WrongKey));
    assert_eq!(json["message"], "authentication failed: wrong key: the password or secret differs");
    assert_eq!(json["cause"], "wrong_key");
    assert_eq!(json["suppressed"], 12);
    let json = json_of(failed(b"bob", AuthFailure::NotTimeLimited));
    assert_eq!(json["cause"], "not_time_limited");
}

#[test]
fn an_expired_credential_hints_at_the_clock_where_that_is_likely() {
    let message = |by_s| {
        let json = json_of(failed(b"1:bob", AuthFailure::Expired { by_s }));
        assert_eq!(json["expired_seconds"], by_s);
        json["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        message(9),
        "authentication failed: expired by 9 s; check the clocks of this machine and of the \
         credential issuer"
    );
    assert_eq!(message(4000), "authentication failed: expired by 4000 s");
    // `3600:bob`: a duration where the time of expiry belongs.
    assert!(message(1_700_000_000).contains("not a duration; check the clocks"));
}

#[test]
fn names_are_printed_as_they_are_unless_that_does_harm() {
    let shown = |name: &[u8]| Name(name).to_string();
    assert_eq!(shown(b"1735689600:alice@example.org"), "1735689600:alice@example.org");
    assert_eq!(shown("Zoë O'Neill 東京".as_bytes()), "Zoë O'Neill 東京");
    assert_eq!(shown(b""), "");
    assert_eq!(shown(b"a\nb\r\t\0"), "a%0Ab%0D%09%00");
    assert_eq!(shown(b"\"\\100%"), "%22%5C100%25");
    assert_eq!(shown(b"\x1b[31m"), "%1B[31m");
    assert_eq!(shown(b"\xff\xc3"), "%FF%C3");
    assert_eq!(shown("\u{202e}\u{2066}\u{200f}".as_bytes()), "%E2%80%AE%E2%81%A6%E2%80%8F");
    assert_eq!(shown("\u{2028}\u{85}\u{feff}".as_bytes()), "%E2%80%A8%C2%85%EF%BB%BF");
}

#[test]
fn the_length_of_a_name_is_bounded() {
    assert_eq!(Name(&[b'a'; MAX_NAME]).to_string(), "a".repeat(MAX_NAME));
    for long in [vec![b'a'; 508], vec![b'\n'; 508], "é".repeat(254).into_bytes()] {
        let shown = Name(&long).to_string();
        assert!(shown.ends_with('…'), "{shown}");
        assert!(shown.len() <= MAX_NAME + '…'.len_utf8(), "{}", shown.len());
    }
}

#[test]
fn no_name_can_forge_a_line_or_a_field() {
    let attacks: [&[u8]; 6] = [
        b"x\n2026-01-31T10:00:00.000000Z  INFO allocation ended id=1",
        b"x\r\n{\"level\":\"ERROR\",\"message\":\"gone\"}",
        b"x\" reason=deleted user=\"admin",
        b"x\",\"user\":\"admin\",\"y\":\"",
        b"x\\\" reason=deleted \\",
        "x\u{2028}\u{2029}\u{85}\u{b}\u{c}\u{1b}[2K\u{9b}2K\u{202e}".as_bytes(),
    ];
    for attack in attacks {
        let shown = Name(attack).to_string();
        for record in [started(attack), failed(attack, AuthFailure::UnknownUser)] {
            let line = text_of(record.clone());
            assert!(line.contains(&format!("user=\"{shown}\" client=")), "{line}");
            let quotes = line.matches('"').count();
            assert_eq!(quotes, if line.contains(" cause=\"") { 4 } else { 2 }, "{line}");
            assert!(line.chars().all(|c| c == '"' || is_harmless(c)) || line.contains('%'));
            assert!(!line.contains(char::is_control), "{line}");

            let json = json_of(record);
            assert_eq!(json["user"], shown.as_str());
            assert_eq!(json["level"], "INFO");
        }
    }
}

#[test]
fn every_record_is_one_line_in_order() {
    let names = ["first", "second", "third"];
    let written = names.map(|name| started(name.as_bytes())).to_vec();
    let lines = lines_of(LogFormat::Text, written);
    assert_eq!(lines.len(), names.len());
    for (line, name) in lines.iter().zip(names) {
        assert!(line.contains(&format!("user=\"{name}\"")), "{line}");
    }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let (records, writer) = records();
    let drops = records.drops();
    for _ in 0..QUEUE {
        records.send(started(b"alice"));
    }
    assert_eq!(drops.count(), 0);
    for _ in 0..3 {
        records.send(started(b"alice"));
    }
    assert_eq!(drops.count(), 3);

    drop(writer);
    records.send(started(b"alice"));
    assert_eq!(drops.count(), 4, "what nobody will write is lost too");
}

#[test]
fn the_writer_ends_with_the_last_shard() {
    let (records, writer) = records();
    let (other, drops) = (records.clone(), records.drops());
    let thread = std::thread::spawn(|| writer.run());
    drop(records);
    other.send(started(b"alice"));
    drop(other);
    thread.join().unwrap();
    assert_eq!(drops.count(), 0);
}

#[test]
fn the_level_can_be_changed() {
    let page = Page::default();
    let made = page.clone();
    let (log, level) = new_log(LogLevel::Warn, LogFormat::Text, false, move || made.clone());
    dispatcher::with_default(&log, || {
        info!("hidden");
        level.set(LogLevel::Debug);
        tracing::debug!("shown");
        level.set(LogLevel::Error);
        tracing::warn!("hidden again");
    });
    let lines = page.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(after_time(&lines[0]), "DEBUG shown");
}

#[test]
fn a_closed_pipe_loses_lines_and_nothing_else() {
    struct ClosedPipe(Arc<AtomicU64>);
    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
    let attempts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&attempts);
    let closed = move || ClosedPipe(Arc::clone(&counted));
    let (log, _level) = new_log(LogLevel::Info, LogFormat::Json, false, closed);
    let (records, writer) = records();
    for _ in 0..10 {
        records.send(started(b"alice"));
    }
    drop(records);
    dispatcher::with_default(&log, || writer.run());
    assert_eq!(attempts.load(Ordering::Relaxed), 10, "one attempt a line");
}
