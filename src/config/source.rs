//! The file as text: finds the line and key of a position, and keys that do not exist.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{TABLES, Table};

/// Something wrong or doubtful at one place of the file.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// `file:line: key`, as far as known.
    place: String,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// A parsed file.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    world_readable: bool,
}

impl<'a> Source<'a> {
    /// Parses TOML; the problem is its first error of syntax. The text of the file is never
    /// quoted: it may hold secrets.
    pub(super) fn parse(
        path: &'a Path,
        text: &'a str,
        world_readable: bool,
    ) -> Result<Self, Problem> {
        match DeTable::parse(text) {
            Ok(root) => Ok(Self { path, text, root, world_readable }),
            Err(error) => Err(Problem {
                place: place(path, text, error.span().unwrap_or(0..0)),
                message: format!("not valid TOML: {}", error.message()),
            }),
        }
    }

    /// The file's path.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Whether every user of the machine may read the file.
    pub(super) fn world_readable(&self) -> bool {
        self.world_readable
    }

    /// Reads the values into a type.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        let table = toml::Deserializer::from(self.root.clone());
        T::deserialize(table).map_err(|error| match error.span() {
            Some(span) => self.problem(span, error.message()),
            None => self.problem(0..0, error.message()),
        })
    }

    /// A problem at a position. An empty span is none: the value came from a default.
    pub(super) fn problem(&self, span: Range<usize>, message: impl fmt::Display) -> Problem {
        Problem { place: self.place(span), message: message.to_string() }
    }

    /// The dotted name of the key at a position; empty for an empty span.
    pub(super) fn key(&self, span: &Range<usize>) -> String {
        key_at(self.root.get_ref(), span)
    }

    /// `file:line: key` of a position, as far as known.
    pub(super) fn place(&self, span: Range<usize>) -> String {
        let key = self.key(&span);
        let place = place(self.path, self.text, span);
        if key.is_empty() { place } else { format!("{place}: {key}") }
    }

    /// One problem for each key that no table defines.
    pub(super) fn unknown_keys(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.walk("", self.root.get_ref(), &mut problems);
        problems
    }

    fn walk(&self, path: &str, values: &DeTable<'_>, problems: &mut Vec<Problem>) {
        for (name, value) in values.iter() {
            let here = join(path, name.get_ref());
            if table(&here).is_some() {
                self.walk_value(&here, value, problems);
            } else if !is_key(path, name.get_ref()) {
                let message = unknown(path, name.get_ref());
                let place = place(self.path, self.text, name.span());
                problems.push(Problem { place: format!("{place}: {here}"), message });
            }
        }
    }

    fn walk_value(&self, path: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) {
        match value.get_ref() {
            DeValue::Table(values) => self.walk(path, values, problems),
            DeValue::Array(list) => {
                for entry in list.iter() {
                    if let DeValue::Table(values) = entry.get_ref() {
                        self.walk(path, values, problems);
                    }
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
}

fn table(path: &str) -> Option<&'static Table> {
    TABLES.into_iter().find(|table| table.path == path && !path.is_empty())
}

fn is_key(path: &str, name: &str) -> bool {
    keys(path).any(|key| key == name)
}

/// The keys of a table and the tables within it.
fn keys(path: &str) -> impl Iterator<Item = &'static str> {
    let within = TABLES.into_iter().filter_map(move |table| {
        let (parent, name) = table.path.rsplit_once('.').unwrap_or(("", table.path));
        (parent == path && !name.is_empty()).then_some(name)
    });
    let own = TABLES.into_iter().filter(move |table| table.path == path);
    let mut all: Vec<&str> = own.flat_map(|table| table.keys).map(|key| key.name).collect();
    for name in within {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.into_iter()
}

/// What to do about an unknown key: the nearest key here, or the table where it belongs.
fn unknown(path: &str, name: &str) -> String {
    let nearest = keys(path)
        .map(|key| (strsim::damerau_levenshtein(key, name), key))
        .filter(|(distance, key)| *distance * 3 <= key.len().max(name.len()))
        .min();
    if let Some((_, key)) = nearest {
        return format!("unknown key; did you mean \"{key}\"?");
    }
    let elsewhere = TABLES.into_iter().find(|table| table.keys.iter().any(|key| key.name == name));
    match elsewhere {
        Some(table) if table.path.is_empty() => {
            format!("unknown key here; \"{name}\" belongs at the top, before the first table")
        }
        Some(table) => format!("unknown key here; \"{name}\" belongs into [{}]", table.path),
        None => {
            let known: Vec<&str> = keys(path).collect();
            format!("unknown key; the keys here are {}", known.join(", "))
        }
    }
}

/// The dotted path of the innermost value that contains the span.
fn key_at(root: &DeTable<'_>, span: &Range<usize>) -> String {
    let mut path = String::new();
    if !span.is_empty() {
        descend(root, span, &mut path);
    }
    path
}

fn descend(values: &DeTable<'_>, span: &Range<usize>, path: &mut String) {
    for (name, value) in values.iter() {
        let before = path.len();
        *path = join(path, name.get_ref());
        let inside = path.len();
        match value.get_ref() {
            // The span of `[table]` is its header, so its values are looked at in any case.
            DeValue::Table(values) => descend(values, span, path),
            DeValue::Array(list) => {
                for entry in list.iter() {
                    if let DeValue::Table(values) = entry.get_ref()
                        && path.len() == inside
                    {
                        descend(values, span, path);
                    }
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
        if path.len() > inside || contains(&value.span(), span) || contains(&name.span(), span) {
            return;
        }
        if let DeValue::Array(list) = value.get_ref()
            && list.iter().any(|entry| contains(&entry.span(), span))
        {
            return;
        }
        path.truncate(before);
    }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `file:line`; without the line for an empty span at the start.
fn place(path: &Path, text: &str, span: Range<usize>) -> String {
    if span == (0..0) {
        return path.display().to_string();
    }
    let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
    format!("{}:{line}", path.display())
}
