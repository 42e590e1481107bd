//! The reference, generated from the definitions in `raw.rs`: as a configuration file and as a
//! page. Tests compare both with what is committed.

use std::fmt::Write as _;

use super::raw::{Key, Kind, Reload, Shape, TABLES, Table};

/// `config/reference.toml`: every key with its default; keys without one are commented out with
/// an example.
#[must_use]
pub fn reference_toml() -> String {
    let mut out = String::from(
        "# Every key of Turnway's configuration. Values that are not commented out are defaults\n\
         # (only [[listen]] has none); `#key = value` is an example of a key that may be absent.\n\
         # Reload: \"live\" keys take effect at SIGHUP, \"restart\" keys at the next start.\n\
         #\n\
         # Generated from src/config/raw.rs by: turnway reference > config/reference.toml\n",
    );
    for table in TABLES.iter().filter(|table| table.shape != Shape::Inline) {
        out.push('\n');
        for line in table.about {
            push(&mut out, format_args!("##{line}"));
        }
        let hidden = if table.shape == Shape::OptionalArray { "#" } else { "" };
        match table.shape {
            Shape::Root | Shape::Inline => {}
            Shape::Table => push(&mut out, format_args!("[{}]", table.path)),
            Shape::Array | Shape::OptionalArray => {
                push(&mut out, format_args!("{hidden}[[{}]]", table.path));
            }
        }
        for key in table.keys {
            key_toml(&mut out, key, hidden);
        }
    }
    out
}

/// `docs/configuration.md`: the same for reading.
#[must_use]
pub fn reference_markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         <!-- Generated from src/config/raw.rs by: turnway reference --markdown -->\n\n\
         Turnway reads one TOML file: `turnway serve -c turnway.toml`. `turnway init` writes one\n\
         with fresh secrets, and `turnway check -c turnway.toml` says what is wrong with it or\n\
         prints the effective configuration. Unknown keys are errors.\n\n\
         Durations are written `\"90s\"`, `\"5m\"`, `\"1h\"`, `\"1d\"`; sizes `\"4 MiB\"`,\n\
         `\"256 KiB\"`, `\"1 MB\"`; rates `\"200/s\"`; bandwidths `\"10 Mbit/s\"`,\n\
         `\"1.25 MB/s\"`; volumes `\"50 GB/month\"`, `\"2 GB/day\"`. A bare number is refused\n\
         where a unit is needed.\n\n\
         *Reload*: **live** keys take effect at SIGHUP (`systemctl reload turnway`), **restart**\n\
         keys when the daemon is started again.\n\n\
         The same as a file to copy from: [`config/reference.toml`](../config/reference.toml).\n\
         Complete files: [`config/examples`](../config/examples).\n",
    );
    for table in TABLES {
        push(&mut out, format_args!("\n## {}\n", title(table)));
        push(&mut out, format_args!("{}", prose(table.about)));
        for key in table.keys {
            let default = match key.kind {
                Kind::Default => format!("Default: `{}`.", key.text),
                Kind::Example => format!("No default. Example: `{}`.", key.text),
                Kind::Required => format!("Required. Example: `{}`.", key.text),
            };
            push(&mut out, format_args!("\n### `{}`\n\n{}\n", key.name, prose(key.docs)));
            push(&mut out, format_args!("{default} Reload: {}.", reload(key)));
        }
    }
    out
}

fn key_toml(out: &mut String, key: &Key, hidden: &str) {
    out.push('\n');
    for line in key.docs {
        push(out, format_args!("#{line}"));
    }
    push(out, format_args!("# Reload: {}.", reload(key)));
    let hidden = if key.kind == Kind::Example { "#" } else { hidden };
    push(out, format_args!("{hidden}{} = {}", key.name, key.text));
}

fn reload(key: &Key) -> &'static str {
    match key.reload {
        Reload::Live => "live",
        Reload::Restart => "restart",
    }
}

fn title(table: &Table) -> String {
    match table.shape {
        Shape::Root => "Top level".to_owned(),
        Shape::Table => format!("`[{}]`", table.path),
        Shape::Array | Shape::OptionalArray => format!("`[[{}]]`", table.path),
        Shape::Inline => format!("Entries of `{}`", table.path),
    }
}

/// Doc lines begin with the space after `///`.
fn prose(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_start()).collect();
    lines.join("\n")
}

fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}
