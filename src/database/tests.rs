//! One file from its making to its end: users, limits, volume, and everybody who may get in the way.

mod overrides;
mod usage;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::thread;

use tempfile::TempDir;

use super::*;

const REALM: &str = "example.org";
const DAY: &str = "2026-11-20";
const MONTH: &str = "2026-11";

struct File {
    folder: TempDir,
    path: PathBuf,
}

fn file() -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("turnway.db");
    File { folder, path }
}

impl File {
    fn open(&self) -> Database {
        Database::open(&self.path).unwrap()
    }

    fn error(&self) -> String {
        Database::open(&self.path).unwrap_err().to_string()
    }

    /// With SQLite alone, whatever the file is.
    fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    /// Of the database and of everything SQLite keeps beside it.
    fn bytes(&self) -> Vec<u8> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        entries.flat_map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
    }
}

fn add(database: &mut Database, name: &str, password: &str) {
    let keys = Keys::derive(REALM, name, password).unwrap();
    database.add_user(REALM, name, Some(&keys), &Overrides::default(), 1_700_000_000).unwrap();
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn names(database: &Database, realm: &str) -> Vec<String> {
    let users = database.users(realm).unwrap();
    users.into_iter().map(|user| String::from_utf8(user.name).unwrap()).collect()
}

#[test]
fn a_new_file_is_for_its_owner_only_and_is_there_again() {
    let file = file();
    let mut database = file.open();
    add(&mut database, "alice", "sesame");
    for name in fs::read_dir(file.folder.path()).unwrap() {
        let mode = name.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    drop(database);
    assert_eq!(names(&file.open(), REALM), ["alice"]);
}

#[test]
fn what_root_makes_belongs_to_the_owner_of_the_folder() {
    let file = file();
    if fs::metadata(file.folder.path()).unwrap().uid() != 0 {
        let told = "skipped what_root_makes_belongs_to_the_owner_of_the_folder: not root";
        assert!(std::env::var_os("TURNWAY_NO_SKIP").is_none(), "{told}");
        eprintln!("{told}");
        return;
    }
    chown(file.folder.path(), Some(12_345), Some(12_346)).unwrap();
    let mut database = file.open();
    add(&mut database, "alice", "sesame");
    let entries: Vec<_> = fs::read_dir(file.folder.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 3, "with write-ahead log and shared memory: {entries:?}");
    for entry in entries {
        let metadata = entry.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346), "{entry:?}");
    }
}

#[test]
fn keys_are_the_hashes_of_name_realm_and_password() {
    let file = file();
    let mut database = file.open();
    add(&mut database, "alice", "sesame");
    let alice = database.user(REALM, "alice").unwrap().unwrap();
    // printf alice:example.org:sesame | md5sum; the same | sha256sum
    assert_eq!(hex(&*alice.md5.unwrap()), ALICE_MD5);
    assert_eq!(hex(&*alice.sha256.unwrap()), ALICE_SHA256);
    assert_eq!(alice.created_unix, 1_700_000_000);
    let shown = format!("{:?}", database.users(REALM).unwrap());
    assert!(shown.contains("alice") && shown.contains("has_keys: true"), "{shown}");
    assert!(!shown.contains("md5") && !shown.contains("sha256"), "{shown}");
    assert_eq!(format!("{:?}", Keys::derive(REALM, "alice", "sesame").unwrap()), "Keys(..)");
}

const ALICE_MD5: &str = "a3bf2a2daad6998c28a1062889d40c00";
const ALICE_SHA256: &str = "d6ce620ca73964dea0c3a02b1b932ce4367cd57480ab2cbffd3f2ad331dc3908";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn passwords_are_nowhere_in_the_file_and_old_keys_are_overwritten() {
    let file = file();
    let mut database = file.open();
    add(&mut database, "alice", "correct-horse-battery");
    let old = Keys::derive(REALM, "alice", "correct-horse-battery").unwrap();
    assert!(contains(&file.bytes(), &*old.sha256), "the key is what is kept");
    let new = Keys::derive(REALM, "alice", "staple-staple-staple").unwrap();
    database.set_keys(REALM, "alice", &new).unwrap();
    for password in ["correct-horse-battery", "staple-staple-staple"] {
        assert!(!contains(&file.bytes(), password.as_bytes()), "{password}");
    }
    database.remove_user(REALM, "alice").unwrap();
    // The last to close a file empties its write-ahead log.
    drop(database);
    for keys in [old, new] {
        assert!(!contains(&file.bytes(), &*keys.md5) && !contains(&file.bytes(), &*keys.sha256));
    }
}

#[test]
fn a_user_is_added_once_and_is_of_one_realm() {
    let file = file();
    let mut database = file.open();
    add(&mut database, "alice", "sesame");
    let none = Overrides::default();
    let again = database.add_user(REALM, "alice", None, &none, 0).unwrap_err();
    assert!(again.to_string().contains("\"alice\" is there already"), "{again}");
    assert!(again.is_input());
    database.add_user("example.com", "alice", None, &none, 0).unwrap();
    let elsewhere = database.user("example.com", "alice").unwrap().unwrap();
    assert!(!elsewhere.has_keys());
    assert!(database.user(REALM, "alice").unwrap().unwrap().has_keys());

    database.remove_user(REALM, "alice").unwrap();
    let gone = database.remove_user(REALM, "alice").unwrap_err().to_string();
    assert!(gone.contains("no user \"alice\"") && gone.contains("--no-password"), "{gone}");
    assert_eq!(names(&database, REALM), [""; 0]);
    assert_eq!(names(&database, "example.com"), ["alice"]);
    let keys = Keys::derive(REALM, "alice", "sesame").unwrap();
    assert!(database.set_keys(REALM, "alice", &keys).is_err());
    assert!(database.set_overrides(REALM, "alice", Ok).is_err());
}

#[test]
fn a_name_is_the_same_in_every_spelling() {
    let file = file();
    let mut database = file.open();
    add(&mut database, "Rene\u{301}\u{a0}D", "caf\u{e9}");
    assert_eq!(names(&database, REALM), ["Ren\u{e9} D"]);
    let found = database.user(REALM, "Ren\u{e9} D").unwrap().unwrap();
    let same = Keys::derive(REALM, "Ren\u{e9} D", "cafe\u{301}").unwrap();
    assert_eq!(found.md5.unwrap(), same.md5);

    for name in ["", "a\nb", &"x".repeat(509), "soft\u{ad}hyphen"] {
        let error = database.user(REALM, name).unwrap_err().to_string();
        assert!(error.contains("is not a user name"), "{error}");
    }
    assert!(prepared_name(&"x".repeat(508)).is_ok());
    assert!(Keys::derive(REALM, "alice", "").unwrap_err().to_string().contains("password"));
    assert!(Keys::derive("a\"b", "alice", "x").unwrap_err().to_string().contains("realm"));
}

#[test]
fn every_change_of_users_is_seen_and_no_other() {
    let file = file();
    let mut database = file.open();
    let watcher = file.open();
    let mut seen = watcher.users_version().unwrap();
    let mut changed = || {
        let before = std::mem::replace(&mut seen, watcher.users_version().unwrap());
        watcher.users_version().unwrap() > before
    };
    assert!(!changed());
    add(&mut database, "alice", "sesame");
    assert!(changed(), "added");
    let keys = Keys::derive(REALM, "alice", "simsim").unwrap();
    database.set_keys(REALM, "alice", &keys).unwrap();
    assert!(changed(), "another password");
    let one = |it| Ok(Overrides { allocations: Override::Limit(1), ..it });
    database.set_overrides(REALM, "alice", one).unwrap();
    assert!(changed(), "other limits");
    database.set_overrides(REALM, "alice", |_| Err("no".into())).unwrap_err();
    database.add_usage(REALM, DAY, MONTH, &[(b"alice"[..].into(), Used::default())]).unwrap();
    assert!(!changed(), "usage");
    database.remove_user(REALM, "alice").unwrap();
    assert!(changed(), "removed");
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_is() {
    let file = file();
    for make in [
        (|file| fs::write(&file.path, "realm = \"example.org\"\n".repeat(100)).unwrap())
            as fn(&File),
        |file| file.raw().execute_batch("CREATE TABLE theirs (a)").unwrap(),
        |file| file.raw().pragma_update(None, "application_id", 77).unwrap(),
        |file| file.raw().pragma_update(None, "user_version", 1).unwrap(),
    ] {
        make(&file);
        let before = fs::read(&file.path).unwrap();
        let error = file.error();
        assert!(error.contains("turnway.db: is not a database of Turnway"), "{error}");
        assert_eq!(fs::read(&file.path).unwrap(), before);
        fs::remove_file(&file.path).unwrap();
    }
    fs::write(&file.path, "").unwrap();
    add(&mut file.open(), "alice", "sesame");
}

#[test]
fn a_newer_file_is_left_as_it_is() {
    let file = file();
    add(&mut file.open(), "alice", "sesame");
    let newer = schema::MIGRATIONS.len() + 1;
    file.raw().pragma_update(None, "user_version", newer).unwrap();
    let before = file.bytes();
    let error = file.error();
    assert!(error.contains("newer Turnway") && error.contains(&newer.to_string()), "{error}");
    assert_eq!(file.bytes(), before);
}

#[test]
fn a_file_of_every_older_version_is_brought_up_to_date() {
    for version in 1..=schema::MIGRATIONS.len() {
        let file = file();
        let mut connection = file.raw();
        schema::bring_to(&mut connection, version).unwrap();
        let users = "INSERT INTO users (realm, name, created_unix) \
                     VALUES ('example.org', CAST('alice' AS BLOB), 1)";
        connection.execute_batch(users).unwrap();
        let usage = "INSERT INTO usage VALUES ('example.org', '2026-11', x'61', 3, 4)";
        connection.execute_batch(usage).unwrap();
        drop(connection);
        let database = file.open();
        assert_eq!(names(&database, REALM), ["alice"]);
        let month = database.usage_of(REALM, b"a", DAY, MONTH).unwrap().month;
        assert_eq!(month, Used { to_peer: 3, to_client: 4 });
        let version = file.raw().pragma_query_value(None, "user_version", |row| row.get(0));
        assert_eq!(version, Ok(schema::MIGRATIONS.len()));
    }
}

#[test]
fn a_place_that_cannot_hold_a_file_is_named_with_advice() {
    let file = file();
    let error = |path: &Path| Database::open(path).unwrap_err().to_string();
    let missing = error(&file.folder.path().join("none/turnway.db"));
    assert!(missing.contains("none is not there; make it first"), "{missing}");
    let unwritable = error(Path::new("/proc/turnway.db"));
    assert!(unwritable.contains("/proc/turnway.db: cannot make it"), "{unwritable}");
    assert!(unwritable.contains("write to /proc"), "{unwritable}");
    let folder = error(file.folder.path());
    assert!(folder.contains("let the user Turnway runs as"), "{folder}");
}

#[test]
fn a_check_finds_what_opening_would_and_leaves_nothing_behind() {
    let file = file();
    let checked = || Database::check(&file.path).map_err(|error| error.to_string());
    let entries = || {
        let entries = fs::read_dir(file.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(checked(), Ok(()));
    assert_eq!(entries(), [""; 0], "only opening makes it");

    let mut database = file.open();
    add(&mut database, "alice", "sesame");
    assert_eq!(checked(), Ok(()), "while somebody works on it");
    drop(database);
    assert_eq!(checked(), Ok(()));
    assert_eq!(entries(), ["turnway.db"]);

    file.raw().pragma_update(None, "user_version", 1_000).unwrap();
    assert!(checked().unwrap_err().contains("newer Turnway"));
    // Also where that is still in the log only.
    let other = file.raw();
    other.pragma_update(None, "application_id", 77).unwrap();
    assert!(checked().unwrap_err().contains("is not a database of Turnway"));
    drop(other);
    fs::write(&file.path, "not a database ".repeat(100)).unwrap();
    assert!(checked().unwrap_err().contains("is not a database of Turnway"));

    let error = |path: &Path| Database::check(path).unwrap_err().to_string();
    let missing = error(&file.folder.path().join("none/turnway.db"));
    assert!(missing.contains("none is not there; make it first"), "{missing}");
    let unwritable = error(Path::new("/proc/turnway.db"));
    assert!(unwritable.contains("write to /proc"), "{unwritable}");
    let folder = error(file.folder.path());
    assert!(folder.contains("is not a database of Turnway"), "{folder}");
    let odd = file.folder.path().join("a?b#c%41.db");
    drop(Database::open(&odd).unwrap());
    Database::check(&odd).unwrap();
}

#[test]
fn the_log_beside_the_file_is_cut_when_a_long_reader_has_gone() {
    let file = file();
    let database = file.open();
    let mut log = file.path.clone().into_os_string();
    log.push("-wal");
    let log_bytes = || i64::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let write = |bytes: i64| {
        let write = "UPDATE scratch SET bytes = zeroblob(?1)";
        database.connection.execute(write, [bytes]).unwrap();
    };
    let make = "CREATE TABLE scratch (bytes); INSERT INTO scratch VALUES (NULL)";
    database.connection.execute_batch(make).unwrap();
    let reader = file.raw();
    let reading = reader.unchecked_transaction().unwrap();
    let all = "SELECT count(*) FROM users";
    reading.query_row(all, [], |row| row.get::<_, i64>(0)).unwrap();
    write(WAL_BYTES + 1);
    assert!(log_bytes() > WAL_BYTES);
    drop(reading);
    // The first empties the log into the file, the second begins it anew.
    write(1);
    write(2);
    assert!(log_bytes() <= WAL_BYTES, "{}", log_bytes());
}

#[test]
fn many_may_make_one_file_at_once() {
    let file = file();
    thread::scope(|scope| {
        for thread in 0..8 {
            let file = &file;
            scope.spawn(move || add(&mut file.open(), &format!("user{thread}"), "sesame"));
        }
    });
    assert_eq!(names(&file.open(), REALM).len(), 8);
}

#[test]
fn a_file_that_is_held_is_waited_for_and_then_named() {
    let file = file();
    let mut database = file.open();
    database.connection.busy_timeout(Duration::from_millis(1)).unwrap();
    let mut other = file.raw();
    let held = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let keys = Keys::derive(REALM, "alice", "sesame").unwrap();
    let none = Overrides::default();
    let error = database.add_user(REALM, "alice", Some(&keys), &none, 0).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    assert!(!error.is_input());
    assert_eq!(names(&database, REALM), [""; 0], "reading waits for nobody");

    database.connection.busy_timeout(BUSY_TIMEOUT).unwrap();
    thread::scope(|scope| {
        let adding = scope.spawn(|| database.add_user(REALM, "alice", Some(&keys), &none, 0));
        held.rollback().unwrap();
        adding.join().unwrap().unwrap();
    });
}
