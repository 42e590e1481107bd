//! Further realms, and who belongs to them.

use super::{good, refused, with};
use crate::config::{reloaded, restart_needed};

const SECOND: &str = "[[realms]]\nname = \"second\"\nrest_secrets = [\"fedcba9876543210\"]\n";

#[test]
fn a_realm_has_what_is_its_own_and_else_what_holds_for_all() {
    let config = good(&format!(
        "{SECOND}origins = [\"https://a.example\"]\nserver_names = [\"turn.a.example\"]\n\
         deny = [\"192.0.2.0/24\"]\n\
         [quota]\nallocations_per_user = 3\nallocations_per_realm = 30\n\
         [[quota.realm]]\nname = \"second\"\nallocations_per_user = 2\n\
         [[listen]]\ntransport = \"udp\"\naddress = \"0.0.0.0:3479\"\nrealm = \"second\"\n\
         [[auth.user]]\nname = \"alice\"\npassword = \"sesame\"\nrealm = \"second\"\n\
         [[auth.user]]\nname = \"alice\"\npassword = \"sesame\"\n"
    ));
    let realm = &config.realms[0];
    assert_eq!((realm.user.allocations, realm.allocations), (Some(2), Some(30)));
    assert_eq!(config.quota.user.allocations, Some(3));
    assert_eq!(config.listen[0].realm.as_deref(), Some("second"));
    assert_eq!(config.auth.users.len(), 2, "the same name in two realms");
    let effective = config.effective();
    assert!(effective.contains("server_names = [\"turn.a.example\"]"), "{effective}");
    assert!(!effective.contains("fedcba"), "{effective}");
}

#[test]
fn realms_that_contradict_each_other_are_refused() {
    refused(&SECOND.repeat(2), &["realms.name", "\"second\" is there already"]);
    refused("[[realms]]\nname = \"second\"\n", &["t.toml:1: realms", "has no users"]);
    refused("[[realms]]\n", &["`name` is missing"]);
    let same = SECOND.replace("second", "turnway");
    refused(&same, &["\"turnway\" is there already"]);
    let user = "[[auth.user]]\nname = \"a\"\npassword = \"b\"\nrealm = \"third\"\n";
    refused(user, &["auth.user.realm", "\"third\" is no realm of this file"]);
    let quota = "[[quota.realm]]\nname = \"third\"\n";
    refused(quota, &["quota.realm.name", "\"third\" is no realm of this file"]);
    // What is wrong for all is said once.
    let text = format!("{SECOND}[quota]\nallocations_per_user = 0\n");
    assert_eq!(with(&text).expect_err("0").lines().count(), 1);
}

#[test]
fn realms_come_and_go_at_a_restart() {
    let (old, new) = (good(""), good(SECOND));
    assert_eq!(restart_needed(&old, &new), ["realms"]);
    assert!(reloaded(&old, new.clone()).realms.is_empty());
    let changed = good(&format!("{SECOND}origins = [\"https://a.example\"]\n"));
    assert!(restart_needed(&new, &changed).is_empty());
    assert_eq!(reloaded(&new, changed).realms[0].origins, ["https://a.example"]);
}

#[test]
fn users_of_a_realm_that_needs_a_restart_wait_for_it() {
    let user = "[[auth.user]]\nname = \"alice\"\npassword = \"sesame\"\nrealm = \"second\"\n";
    let (old, new) = (good(""), good(&format!("{SECOND}{user}")));
    assert_eq!(new.auth.users.len(), 1);
    assert!(reloaded(&old, new.clone()).auth.users.is_empty(), "not a user of the first realm");
    assert_eq!(reloaded(&new, new.clone()).auth.users.len(), 1);
}
