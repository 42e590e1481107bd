//! Further realms, and who belongs to them.

use toml::Spanned;

use super::Checks;
use super::quota::Level;
use crate::config::cidr::Cidr;
use crate::config::raw::{RawQuota, RawRealm};
use crate::config::{Auth, Realm};

/// Each request that names a realm is looked for among them.
const MAX_REALMS: usize = 64;

impl Checks<'_> {
    /// The realms beside the first, whose name is `first`.
    pub(super) fn realms(
        &mut self,
        raw: &[Spanned<RawRealm>],
        quota: &RawQuota,
        first: &str,
        total: Option<&Level>,
        database: bool,
    ) -> Vec<Realm> {
        let mut realms: Vec<Realm> = Vec::new();
        if let Some(over) = raw.get(MAX_REALMS - 1) {
            let message = format!("is one too many; there are at most {MAX_REALMS} realms");
            self.error(over.span(), message);
        }
        for table in raw {
            let Some(name) = &table.get_ref().name else {
                self.error(table.span(), "`name` is missing; write name = \"example.net\"");
                continue;
            };
            let text = self.realm(name);
            if text == first || realms.iter().any(|other| other.name == text) {
                let message = format!("the realm \"{text}\" is there already; remove one");
                self.error(name.span(), message);
                continue;
            }
            let raw = table.get_ref();
            let nets = |list: &Spanned<Vec<Spanned<Cidr>>>| {
                list.get_ref().iter().map(|entry| entry.get_ref().0).collect()
            };
            let texts = |list: &Spanned<Vec<String>>| list.get_ref().clone();
            // What is wrong with [quota] itself was said before.
            let quota = self
                .without_repeating(|checks| checks.quota(quota.clone(), &text, total, database));
            realms.push(Realm {
                name: text,
                origins: texts(&raw.origins),
                server_names: texts(&raw.server_names),
                rest_secrets: self.secrets(&raw.rest_secrets, &raw.rest_secrets_file),
                allow: nets(&raw.allow),
                deny: nets(&raw.deny),
                user: quota.user,
                allocations: quota.realm_allocations,
                bandwidth: quota.realm_bandwidth,
            });
        }
        realms
    }

    /// That what names a realm names one that is there.
    pub(super) fn named_realms(
        &mut self,
        [listen, users, quotas]: [Vec<&Spanned<String>>; 3],
        first: &str,
        realms: &[Realm],
    ) {
        for name in listen.into_iter().chain(users).chain(quotas) {
            let text = name.get_ref();
            if text != first && realms.iter().all(|realm| realm.name != *text) {
                let message = format!(
                    "\"{text}\" is no realm of this file; the first is \"{first}\", and others \
                     need a [[realms]] table"
                );
                self.error(name.span(), message);
            }
        }
    }

    /// That each realm has somebody in it.
    pub(super) fn populated(&mut self, raw: &[Spanned<RawRealm>], realms: &[Realm], auth: &Auth) {
        for (table, realm) in raw.iter().zip(realms) {
            let mut users = auth.users.iter();
            let anybody = users.any(|user| user.realm.as_deref() == Some(&*realm.name))
                || !realm.rest_secrets.is_empty()
                || auth.database.is_some();
            if !anybody {
                self.error(
                    table.span(),
                    format!(
                        "the realm \"{}\" has no users; add `rest_secrets`, a [[auth.user]] with \
                         realm = \"{}\", or a `database` to [auth]",
                        realm.name, realm.name
                    ),
                );
            }
        }
    }
}
