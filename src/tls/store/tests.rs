//! Files that change under a running server.

use super::*;
use crate::config::ClientCertificates;
use crate::tls::authority::{Authority, Kind, NOW_S, snapshot, tls};

/// An authority, its store, and the watch over a pair of files.
struct World {
    authority: Authority,
    store: Arc<Store>,
    watch: Watch,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let tls = tls(vec![authority.issue("leaf", &["one.example"], Kind::Ecdsa)]);
        let store = Arc::new(Store::new(snapshot(&tls)));
        let watch = Watch::new(Arc::clone(&store), tls);
        Self { authority, store, watch }
    }

    /// The name in force.
    fn name(&self) -> String {
        self.store.current().certificates[0].name().to_owned()
    }

    fn look(&mut self) -> Found {
        self.watch.look(NOW_S)
    }

    /// Two looks, of which the first must not do anything.
    #[track_caller]
    fn settle(&mut self) -> Found {
        assert_eq!(self.look(), Found::Nothing);
        self.look()
    }
}

fn refused(found: Found) -> String {
    match found {
        Found::Refused(problems) => {
            problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>().join("\n")
        }
        Found::Nothing | Found::Loaded(_) => panic!("{found:?}"),
    }
}

#[test]
fn nothing_is_read_while_nothing_changes() {
    let mut world = World::new();
    let before = world.store.current();
    for _ in 0..5 {
        assert_eq!(world.look(), Found::Nothing);
    }
    assert!(Arc::ptr_eq(&before, &world.store.current()));
    assert_eq!(world.store.reloads(), (0, 0));
}

#[test]
fn a_new_pair_is_in_force_once_it_has_settled() {
    let mut world = World::new();
    let before = world.store.current();
    world.authority.issue("leaf", &["two.example"], Kind::Rsa);
    assert!(matches!(world.settle(), Found::Loaded(_)));
    assert_eq!(world.name(), "two.example");
    assert_eq!(before.certificates[0].name(), "one.example", "what has it keeps it");
    assert_eq!(world.store.reloads(), (1, 0));
    assert_eq!(world.settle(), Found::Nothing);
}

#[test]
fn links_that_point_elsewhere_are_a_change() {
    let mut world = World::new();
    let live = world.authority.files("live");
    let point_to = |version: &str| {
        for (link, target) in [(&live.certificate, "pem"), (&live.key, "key")] {
            let _ = fs::remove_file(link);
            std::os::unix::fs::symlink(format!("{version}.{target}"), link).unwrap();
        }
    };
    point_to("leaf");
    assert!(matches!(world.watch.reload(&tls(vec![live.clone()]), NOW_S), Found::Loaded(_)));
    assert_eq!(world.settle(), Found::Nothing);
    world.authority.issue("leaf2", &["two.example"], Kind::Ecdsa);
    point_to("leaf2");
    assert!(matches!(world.settle(), Found::Loaded(_)));
    assert_eq!(world.name(), "two.example");
}

#[test]
fn what_is_half_written_leaves_the_old_one_in_force_and_is_said_once() {
    let mut world = World::new();
    let files = world.authority.files("leaf");
    let (chain, key) = world.authority.sign(&["two.example"], Kind::Ecdsa, 2040);
    fs::write(&files.certificate, &chain[..chain.len() / 3]).unwrap();
    assert!(refused(world.settle()).contains("leaf.pem: this is not PEM, or damaged"));
    for _ in 0..3 {
        assert_eq!(world.look(), Found::Nothing, "it has been said");
    }
    // The certificate is whole, but its key is still the old one.
    fs::write(&files.certificate, &chain).unwrap();
    assert!(refused(world.settle()).contains("leaf.key: this is not the key"));
    assert_eq!(world.name(), "one.example");
    assert_eq!(world.store.reloads(), (0, 2));
    fs::write(&files.key, &key).unwrap();
    assert!(matches!(world.settle(), Found::Loaded(_)));
    assert_eq!(world.name(), "two.example");
    assert_eq!(world.store.reloads(), (1, 2));
}

#[test]
fn files_that_vanish_and_come_back_are_no_more_than_an_error() {
    let mut world = World::new();
    let files = world.authority.files("leaf");
    let elsewhere = world.authority.files("elsewhere");
    fs::rename(&files.key, &elsewhere.key).unwrap();
    assert!(refused(world.settle()).contains("leaf.key: cannot read the private key"));
    assert_eq!(world.name(), "one.example");
    fs::rename(&elsewhere.key, &files.key).unwrap();
    assert!(matches!(world.settle(), Found::Loaded(_)));
}

#[test]
fn a_mistake_taken_back_is_over() {
    let mut world = World::new();
    let good = world.watch.tls.clone();
    let mut bad = good.clone();
    bad.certificates[0].key = world.authority.files("absent").key;
    assert!(refused(world.watch.reload(&bad, NOW_S)).contains("absent.key"));
    assert_eq!(world.look(), Found::Nothing);
    assert!(matches!(world.watch.reload(&good, NOW_S), Found::Loaded(_)));
    assert_eq!(world.settle(), Found::Nothing);
}

#[test]
fn the_authority_of_clients_is_watched_too() {
    let mut world = World::new();
    let mut settings = world.watch.tls.clone();
    settings.client_ca = Some(world.authority.file());
    settings.client_certificates = ClientCertificates::Required;
    assert!(matches!(world.watch.reload(&settings, NOW_S), Found::Loaded(_)));
    fs::write(settings.client_ca.as_ref().unwrap(), "nobody").unwrap();
    assert!(refused(world.settle()).contains("authority.pem: there is no certificate"));
}
