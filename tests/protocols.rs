//! `docs/protocols.md`: each quoted requirement of an RFC, where it is met and where it is tested,
//! and what is deliberately not done. It is made of the comments that CONTRIBUTING.md describes:
//!
//! `WRITE_REFERENCE=1 cargo test --test protocols` writes it; otherwise a stale one fails here, and
//! so does a quoted MUST that no test quotes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The documents that are quoted, and their titles.
const TITLES: [(u32, &str); 13] = [
    (5780, "NAT Behavior Discovery Using STUN"),
    (6062, "TURN Extensions for TCP Allocations"),
    (7065, "TURN Uniform Resource Identifiers"),
    (7350, "DTLS as Transport for STUN"),
    (7443, "ALPN Labels for STUN Usages"),
    (7635, "STUN Extension for Third-Party Authorization"),
    (7983, "Multiplexing Scheme Updates for SRTP Extension for DTLS"),
    (8016, "Mobility with TURN"),
    (8155, "TURN Server Auto Discovery"),
    (8265, "Preparation, Enforcement, and Comparison of Internationalized Strings"),
    (8489, "Session Traversal Utilities for NAT (STUN)"),
    (8656, "Traversal Using Relays around NAT (TURN)"),
    (9147, "DTLS 1.3"),
];

/// Requirements that no test can show, by the beginning of their sentence, and why.
const UNTESTED: [(u32, &str, &str); 1] = [(
    8489,
    "Implementations MUST disable TLS-level compression.",
    "OpenSSL is built without compression, and rustls has none.",
)];

/// Folders with sources, from the top of the repository.
const FOLDERS: [&str; 3] = ["src", "tests", "crates"];

/// What a quote says about its requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Met,
    Tested,
    /// Deliberately not done, and why.
    Exception(String),
}

#[derive(Clone, Debug)]
struct Quote {
    rfc: u32,
    /// Its number: `12.2`, or `A` of an appendix.
    section: String,
    kind: Kind,
    text: String,
    path: String,
}

/// A requirement with everything that quotes it.
struct Row<'a> {
    section: &'a str,
    text: &'a str,
    met: BTreeSet<&'a str>,
    tested: BTreeSet<&'a str>,
}

#[test]
fn the_page_is_what_the_sources_say() {
    let page = page(&quotes());
    let path = root().join("docs/protocols.md");
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        fs::write(&path, &page).expect("docs/ is there");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(committed.lines()).find(|(new, old)| new != old);
    assert!(
        page == committed,
        "docs/protocols.md is stale; write it anew: WRITE_REFERENCE=1 cargo test --test protocols\n\
         the first difference: {differs:#?}"
    );
}

#[test]
fn what_must_be_is_tested() {
    let quotes = quotes();
    let is_excused = |rfc, text: &str| {
        UNTESTED.iter().any(|(of, begins, _)| *of == rfc && text.starts_with(begins))
    };
    let mut missing = Vec::new();
    for (rfc, rows) in rows(&quotes) {
        for row in rows {
            if is_a_must(row.text) && row.tested.is_empty() && !is_excused(rfc, row.text) {
                let met: Vec<_> = row.met.iter().copied().collect();
                missing.push(format!("{}: {}", met.join(", "), row.text));
            }
        }
    }
    assert!(missing.is_empty(), "no test quotes these:\n{}", missing.join("\n"));
    for (rfc, begins, _) in UNTESTED {
        let quoted = |quote: &Quote| quote.rfc == rfc && quote.text.starts_with(begins);
        assert!(quotes.iter().any(quoted), "nobody quotes \"{begins}\" any more");
    }
}

#[test]
fn comments_of_another_form_are_found() {
    let read = |text: &str| {
        let mut problems = Vec::new();
        let found = parse("a.rs", text, &mut problems);
        (found.len(), problems.len())
    };
    assert_eq!(read("//= rfc8656#section-12.2\n//# The channel\n//# number"), (1, 0));
    assert_eq!(read("//= rfc8656#section-12.2\n//= type=test\n//# The channel"), (1, 0));
    assert_eq!(read("//= rfc1#appendix-A\n//= type=exception\n//= reason=Why.\n//# Q"), (1, 0));
    assert_eq!(
        read("//= rfc1#section-1\n//= type=exception\n//= reason=A\n//= reason=b.\n//# Q"),
        (1, 0)
    );
    assert_eq!(read("//= rfc8656#section-12.2\nlet x = 1;"), (0, 1), "nothing is quoted");
    assert_eq!(read("//# The channel"), (0, 1), "of which document?");
    assert_eq!(read("//= rfc8656#12.2\n//# The channel"), (0, 2), "of which section?");
    assert_eq!(read("//= rfc8656#section-1\n//= type=todo\n//# The"), (0, 1), "an unknown type");
    assert_eq!(read("//= rfc8656#section-1\n//= type=exception\n//# The"), (0, 1), "why?");
    assert_eq!(read("//= rfc8656#section-1\n//= reason=So.\n//# The"), (0, 1), "what for?");
}

#[test]
fn a_word_that_a_line_cuts_is_one_word() {
    let text = "//= rfc5780#section-6.1\n//# the CHANGE-\n//# REQUEST attribute";
    assert_eq!(parse("a.rs", text, &mut Vec::new())[0].text, "the CHANGE-REQUEST attribute");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every quote of the sources. Those of another form than CONTRIBUTING.md describes fail the test.
fn quotes() -> Vec<Quote> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    files.sort();
    let (mut quotes, mut problems) = (Vec::new(), Vec::new());
    for path in files {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        let shown = path.strip_prefix(root()).expect("collected there").display().to_string();
        quotes.extend(parse(&shown, &text, &mut problems));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    quotes
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        let is_source =
            path.extension().is_some_and(|it| ["rs", "c", "h"].iter().any(|e| it == *e));
        if path.is_dir() {
            collect(&path, files);
        } else if is_source {
            files.push(path);
        }
    }
}

/// The quotes of a file. What is wrong with the others goes to `problems`.
fn parse(path: &str, text: &str, problems: &mut Vec<String>) -> Vec<Quote> {
    let mut quotes = Vec::new();
    let mut lines = text.lines().map(str::trim_start).enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let mut problem = |what: &str| problems.push(format!("{path}:{}: {what}", number + 1));
        if line.starts_with("//#") {
            problem("a quote without `//= rfcNNNN#section-N`");
        }
        let Some(head) = line.strip_prefix("//= ") else { continue };
        let (mut kind, mut reason) = (None, None::<String>);
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with("//= ")) {
            match more.trim_start_matches("//= ").split_once('=') {
                Some(("type", value)) => kind = Some(value.to_owned()),
                Some(("reason", value)) => match &mut reason {
                    Some(before) => *before += &format!(" {value}"),
                    None => reason = Some(value.to_owned()),
                },
                Some(_) | None => problem("neither `type=` nor `reason=`"),
            }
        }
        let Some((rfc, section)) = place(head) else {
            problem("not of the form `//= rfcNNNN#section-N`");
            continue;
        };
        let mut quoted = String::new();
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with("//#")) {
            let more = more.trim_start_matches("//#").trim();
            let cut = quoted.is_empty() || quoted.ends_with('-');
            quoted.push_str(if cut { "" } else { " " });
            quoted.push_str(more);
        }
        let kind = match (kind.as_deref(), reason) {
            _ if quoted.is_empty() => Err("nothing is quoted"),
            (None, None) => Ok(Kind::Met),
            (Some("test"), None) => Ok(Kind::Tested),
            (Some("exception"), Some(reason)) => Ok(Kind::Exception(reason)),
            (Some("exception"), None) => Err("an exception needs a `//= reason=`"),
            (Some("test") | None, Some(_)) => Err("only an exception has a reason"),
            (Some(_), _) => Err("the types are `test` and `exception`"),
        };
        match kind {
            Ok(kind) => {
                let (section, path) = (section.to_owned(), path.to_owned());
                quotes.push(Quote { rfc, section, kind, text: quoted, path });
            }
            Err(what) => problem(what),
        }
    }
    quotes
}

/// Document and section of `rfc8656#section-12.2`.
fn place(head: &str) -> Option<(u32, &str)> {
    let (rfc, section) = head.strip_prefix("rfc")?.split_once('#')?;
    let section = section.strip_prefix("section-").or_else(|| section.strip_prefix("appendix-"))?;
    Some((rfc.parse().ok()?, section))
}

fn is_a_must(text: &str) -> bool {
    text.split(|c: char| !c.is_alphabetic()).any(|word| ["MUST", "SHALL"].contains(&word))
}

/// The requirements of each document in the order of its sections. A sentence and a part of it are
/// one requirement.
fn rows(quotes: &[Quote]) -> BTreeMap<u32, Vec<Row<'_>>> {
    let mut all: BTreeMap<u32, Vec<Row<'_>>> = BTreeMap::new();
    for wanted in [Kind::Met, Kind::Tested] {
        for quote in quotes.iter().filter(|quote| quote.kind == wanted) {
            let rows = all.entry(quote.rfc).or_default();
            let mut found = false;
            for row in rows.iter_mut().filter(|row| row.is_about(quote)) {
                row.note(quote);
                found = true;
            }
            if !found {
                let (met, tested) = (BTreeSet::new(), BTreeSet::new());
                let mut row = Row { section: &quote.section, text: &quote.text, met, tested };
                row.note(quote);
                rows.push(row);
            }
        }
    }
    for rows in all.values_mut() {
        rows.sort_by_key(|row| (order(row.section), row.text));
    }
    all
}

impl<'a> Row<'a> {
    fn is_about(&self, quote: &Quote) -> bool {
        let (one, other) = (self.text, quote.text.as_str());
        self.section == quote.section && (one.contains(other) || other.contains(one))
    }

    fn note(&mut self, quote: &'a Quote) {
        let places = match quote.kind {
            Kind::Met => &mut self.met,
            Kind::Tested => &mut self.tested,
            Kind::Exception(_) => return,
        };
        places.insert(&quote.path);
    }
}

/// What sections are sorted by: 2 is before 10, and numbers are before letters.
fn order(section: &str) -> Vec<(u32, &str)> {
    let part = |part| str::parse(part).map_or((u32::MAX, part), |number| (number, ""));
    section.split('.').map(part).collect()
}

fn page(quotes: &[Quote]) -> String {
    let mut out = String::from(HEAD);
    let rows = rows(quotes);
    let exceptions = exceptions(quotes);
    let documents: BTreeSet<u32> = rows.keys().chain(exceptions.keys()).copied().collect();
    push(&mut out, "| Document | Quoted | Tested | Deliberately not done |");
    push(&mut out, "|---|---:|---:|---:|");
    for rfc in &documents {
        let rows = rows.get(rfc).map_or(&[][..], Vec::as_slice);
        let tested = rows.iter().filter(|row| !row.tested.is_empty()).count();
        let not = exceptions.get(rfc).map_or(0, Vec::len);
        let name = format!("[RFC {rfc}](#{}), {}", anchor(*rfc), title(*rfc));
        push(&mut out, &format!("| {name} | {} | {tested} | {not} |", rows.len()));
    }
    out.push_str(NOT_DONE);
    push(&mut out, "| Section | What the document says | Why not | Where |");
    push(&mut out, "|---|---|---|---|");
    for (rfc, quotes) in &exceptions {
        for (quote, reason) in quotes {
            let section = link(*rfc, &quote.section);
            let (text, path) = (cell(&quote.text), &quote.path);
            push(&mut out, &format!("| RFC {rfc} {section} | {text} | {reason} | `{path}` |"));
        }
    }
    for (rfc, rows) in &rows {
        push(&mut out, &format!("\n## RFC {rfc}\n\n{}\n", title(*rfc)));
        push(&mut out, "| Section | Requirement | Met in | Tested in |");
        push(&mut out, "|---|---|---|---|");
        for row in rows {
            let (section, text) = (link(*rfc, row.section), cell(row.text));
            let (met, mut tested) = (list(&row.met), list(&row.tested));
            let excuse =
                UNTESTED.iter().find(|(of, begins, _)| of == rfc && row.text.starts_with(begins));
            if let (true, Some((_, _, why))) = (row.tested.is_empty(), excuse) {
                tested = format!("no test: {why}");
            }
            push(&mut out, &format!("| {section} | {text} | {met} | {tested} |"));
        }
    }
    out
}

const HEAD: &str = "# Protocols

<!-- Generated from comments in the sources by: WRITE_REFERENCE=1 cargo test --test protocols -->

What Turnway does of the documents that define STUN and TURN. Where the sources meet a requirement
they quote its sentence, and so does the test that proves it; this page lists the quotes, and a test
keeps it true. It fails too where a sentence with a MUST is quoted and no test quotes it. A
requirement without a place where it is met is met by nothing in particular, such as the layout of a
message, and is tested all the same.

";

const NOT_DONE: &str = "
## Deliberately not done

Beside the sentences of the table:

* **DTLS 1.3** (RFC 9147) is not spoken: OpenSSL, which the server uses for DTLS, has no release
  with it. Clients that offer it and 1.2 get 1.2.
* **TLS 1.0 and 1.1** and **DTLS 1.0** are not spoken, whatever the configuration says: RFC 8996 has
  deprecated them.
* **STUN's short-term credentials** (RFC 8489 section 9.1) are not known: TURN has none, and Binding
  is answered without credentials.
* **SCTP** and **QUIC** are no transports of any document that this server follows.

";

/// Each document's exceptions with their reasons, in the order of its sections.
fn exceptions(quotes: &[Quote]) -> BTreeMap<u32, Vec<(&Quote, &str)>> {
    let mut all: BTreeMap<u32, Vec<(&Quote, &str)>> = BTreeMap::new();
    for quote in quotes {
        if let Kind::Exception(reason) = &quote.kind {
            all.entry(quote.rfc).or_default().push((quote, reason));
        }
    }
    for quotes in all.values_mut() {
        quotes.sort_by_key(|(quote, _)| (order(&quote.section), &quote.text));
    }
    all
}

fn title(rfc: u32) -> &'static str {
    let found = TITLES.iter().find(|(number, _)| *number == rfc);
    found.unwrap_or_else(|| panic!("RFC {rfc} has no line in TITLES")).1
}

fn anchor(rfc: u32) -> String {
    format!("rfc-{rfc}")
}

fn link(rfc: u32, section: &str) -> String {
    let kind =
        if section.starts_with(|c: char| c.is_ascii_digit()) { "section" } else { "appendix" };
    format!("[{section}](https://www.rfc-editor.org/rfc/rfc{rfc}#{kind}-{section})")
}

fn list(paths: &BTreeSet<&str>) -> String {
    let paths: Vec<String> = paths.iter().map(|path| format!("`{path}`")).collect();
    paths.join("<br>")
}

/// Text that a table's cell shows as it is.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
}

fn push(out: &mut String, line: &str) {
    writeln!(out, "{line}").expect("writing to a string cannot fail");
}
