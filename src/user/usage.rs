//! `turnway user usage`: what was used, and how much of the limit that is.

use std::cmp::Reverse;
use std::collections::HashMap;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use turnway_relay::quota::UserLimits;

use super::{Place, Said, UserError, Users, said, said_json, shown};
use crate::config::Size;
use crate::database::{Database, Overrides, Usage, Used, period_names, prepared_name};
use crate::table::{self, Table};

/// `turnway user usage`
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Of this user only; of time-limited credentials, the part that is not the timestamp
    name: Option<String>,
    /// As JSON, in bytes; a limit of null is none that this command knows of
    #[arg(long)]
    json: bool,
    /// Not more than so many, those that used most this month
    #[arg(long, value_name = "N", default_value_t = 50)]
    top: usize,
    #[command(flatten)]
    place: Place,
}

/// An account and what limits it.
struct Account {
    usage: Usage,
    limits: UserLimits,
}

pub(super) fn report(args: &UsageArgs) -> Result<Said, UserError> {
    let users = Users::find(&args.place)?;
    let today = Timestamp::now().to_zoned(users.time_zone.clone()).date();
    let (day, month) = period_names(today);
    let mut accounts = accounts(&users, args.name.as_deref(), &day, &month)?;
    // By name where as much was used, so that the same is shown in the same order.
    accounts.sort_by_key(|account| Reverse(account.usage.month.total()));
    let more = accounts.len().saturating_sub(args.top);
    accounts.truncate(args.top);
    if args.json {
        let rows: Vec<_> = accounts.iter().map(as_json).collect();
        return Ok(said_json(&json!({
            "realm": users.realm,
            "day": day,
            "month": month,
            "accounts": rows,
            "more": more,
        })));
    }
    if accounts.is_empty() && more == 0 {
        return Ok(said(format!("Nobody has used anything in {month} yet.\n")));
    }
    let mut table = Table::headed(["NAME", &day, &month]);
    for Account { usage, limits } in accounts {
        let today = in_words(usage.day, limits.volume_per_day);
        table.row([shown(&usage.account), today, in_words(usage.month, limits.volume_per_month)]);
    }
    let more = match more {
        0 => String::new(),
        more => format!("and {more} more; --top {} shows all\n", args.top + more),
    };
    Ok(said(format!("{table}{more}")))
}

/// One account or all, by name.
fn accounts(
    users: &Users,
    name: Option<&str>,
    day: &str,
    month: &str,
) -> Result<Vec<Account>, UserError> {
    let database: Database = users.open()?;
    let base = users.base.unwrap_or_default();
    let limits = |overrides: Option<&Overrides>| overrides.map_or(base, |own| own.over(&base));
    if let Some(name) = name {
        let name = prepared_name(name)?;
        let usage = database.usage_of(&users.realm, name.as_bytes(), day, month)?;
        let user = database.user(&users.realm, &name)?;
        let limits = limits(user.map(|user| user.overrides).as_ref());
        return Ok(vec![Account { usage, limits }]);
    }
    let rows = database.users(&users.realm)?.into_iter();
    let own: HashMap<_, _> = rows.map(|user| (user.name, user.overrides)).collect();
    let usage = database.usage(&users.realm, day, month)?.into_iter();
    Ok(usage.map(|usage| Account { limits: limits(own.get(&usage.account)), usage }).collect())
}

fn as_json(account: &Account) -> serde_json::Value {
    let Account { usage, limits } = account;
    let period = |used: Used, limit| json!({ "to_peer": used.to_peer, "to_client": used.to_client, "limit": limit });
    json!({
        "account": String::from_utf8_lossy(&usage.account),
        "day": period(usage.day, limits.volume_per_day),
        "month": period(usage.month, limits.volume_per_month),
    })
}

/// `1.23 GB of 2 GB (61 %)`
fn in_words(used: Used, limit: Option<u64>) -> String {
    let total = used.total();
    let shown = table::bytes(total);
    match limit {
        None => shown,
        Some(limit) => {
            let percent = u128::from(total) * 100 / u128::from(limit.max(1));
            format!("{shown} of {} ({percent} %)", Size(limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shown_with_how_much_of_it_is_used() {
        let used = Used { to_peer: 1_000_000_000, to_client: 230_000_000 };
        assert_eq!(in_words(used, None), "1.23 GB");
        assert_eq!(in_words(used, Some(2_000_000_000)), "1.23 GB of 2 GB (61 %)");
        assert_eq!(in_words(used, Some(1_000_000_000)), "1.23 GB of 1 GB (123 %)");
    }
}
