//! Reads the sections of a TOML document into plain types, and goes on after a problem: one run
//! shows all that is wrong.
//!
//! A section says which keys it knows by asking for them; what nobody asked for is an unknown key.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{Position, Problem, Problems, Unfit};
use crate::suggest;

/// Bytes of a configuration; a larger file is refused.
pub const MAX_LEN: usize = 1 << 20;
/// Characters of a wrong value that a problem repeats.
const MAX_SHOWN: usize = 60;
/// Problems that are told; more are counted.
const MAX_PROBLEMS: usize = 100;

/// A value that a key can have.
pub(crate) trait FromValue: Sized {
    /// Takes the value, or says why it cannot be one.
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit>;
}

/// The text of a configuration and what was found wrong with it so far.
pub(crate) struct Document<'d> {
    file: &'d str,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
    omitted: Cell<usize>,
    /// The keys that were asked for and not there.
    #[cfg(test)]
    pub(crate) absent: RefCell<Vec<String>>,
}

/// One table of the document.
pub(crate) struct Section<'d> {
    document: &'d Document<'d>,
    /// None if the document does not have it.
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
    /// `sink "cloud"`; empty for a section that is there once.
    subject: String,
    /// What the subject is in a key's path: `sink[1]`.
    root: String,
    /// The path from there: `batch`.
    prefix: String,
    known: RefCell<Vec<&'static str>>,
    /// What the tables in it know, from here: `batch.max-age`.
    nested: RefCell<Vec<String>>,
    lenient: Cell<bool>,
}

/// Reads `text` by `read`, which is handed the top level.
pub(crate) fn read<T>(
    text: &str,
    file: &str,
    read: impl FnOnce(&Section<'_>) -> T,
) -> Result<T, Problems> {
    let document = Document::new(text, file);
    let result = document.read(read);
    match result {
        Some(result) if document.problems.borrow().is_empty() => Ok(result),
        _ => Err(Problems::new(document.problems.into_inner(), document.omitted.get())),
    }
}

/// Where the value of the key at `path` stands, such as `listener[1].tls.key-file`: for what is found
/// wrong with it after the file was read.
pub fn locate(text: &str, path: &str) -> Option<Position> {
    let (table, _) = DeTable::parse_recoverable(text);
    let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut tables = tables.split('.').filter(|name| !name.is_empty());
    let table = tables.try_fold(table.get_ref(), enter)?;
    let at = table.get(key)?.span().start;
    Some(Document::new(text, "").position(at))
}

/// The table `name` of `table`, or the entry of a list: `listener[1]`.
fn enter<'t, 'd>(table: &'t DeTable<'d>, name: &str) -> Option<&'t DeTable<'d>> {
    let (name, entry) = name.split_once('[').unwrap_or((name, ""));
    let mut value = table.get(name)?.get_ref();
    if let Some(number) = entry.strip_suffix(']') {
        let at: usize = number.parse().ok()?;
        value = value.as_array()?.get(at.checked_sub(1)?)?.get_ref();
    }
    value.as_table()
}

/// The keys that `read` asks for and `text` does not have.
#[cfg(test)]
pub(crate) fn absent_keys<T>(text: &str, read: impl FnOnce(&Section<'_>) -> T) -> Vec<String> {
    let document = Document::new(text, "");
    document.read(read);
    document.absent.into_inner()
}

impl<'d> Document<'d> {
    fn new(text: &'d str, file: &'d str) -> Self {
        Self {
            file,
            text,
            problems: RefCell::default(),
            omitted: Cell::new(0),
            #[cfg(test)]
            absent: RefCell::default(),
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Section<'_>) -> T) -> Option<T> {
        if self.text.len() > MAX_LEN {
            let what = format!("the file has {} bytes, the limit is {MAX_LEN}", self.text.len());
            self.problem(None, String::new(), what, String::new());
            return None;
        }
        let (table, errors) = DeTable::parse_recoverable(self.text);
        // The first only: what follows it is often its echo.
        if let Some(error) = errors.first() {
            let at = error.span().map(|span| span.start);
            self.problem(
                at,
                String::new(),
                format!("not TOML: {}", error.message()),
                String::new(),
            );
            return None;
        }
        let top = Section {
            document: self,
            table: Some(table.get_ref()),
            span: 0..0,
            subject: String::new(),
            root: String::new(),
            prefix: String::new(),
            known: RefCell::default(),
            nested: RefCell::default(),
            lenient: Cell::new(false),
        };
        Some(top.finish(read).0)
    }

    fn problem(&self, at: Option<usize>, key: String, what: String, expected: String) {
        if self.problems.borrow().len() >= MAX_PROBLEMS {
            self.omitted.set(self.omitted.get() + 1);
            return;
        }
        let position = at.map(|offset| self.position(offset));
        let file = self.file.to_owned();
        self.problems.borrow_mut().push(Problem { file, position, key, what, expected });
    }

    fn position(&self, offset: usize) -> Position {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The value as it was written, shortened to its first line.
    fn shown(&self, span: Range<usize>) -> String {
        let written = self.text.get(span).unwrap_or_default();
        let line = written.lines().next().unwrap_or_default();
        let short: String = line.chars().take(MAX_SHOWN).collect();
        if short.len() < written.len() { short + "…" } else { short }
    }
}

impl<'d> Section<'d> {
    /// Reads the section, then complains about every key that was not asked for. Answers with what
    /// was read and the keys that are known.
    fn finish<T>(self, read: impl FnOnce(&Self) -> T) -> (T, Vec<String>) {
        let result = read(&self);
        let (known, nested) = (self.known.take(), self.nested.take());
        for (key, value) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if known.contains(&name) || self.lenient.get() {
                continue;
            }
            let is_table = match value.get_ref() {
                DeValue::Table(_) => true,
                DeValue::Array(array) => {
                    array.iter().any(|entry| matches!(entry.get_ref(), DeValue::Table(_)))
                }
                _ => false,
            };
            let kind = if is_table { "section" } else { "key" };
            let place = match (self.subject.as_str(), self.prefix.as_str()) {
                ("", "") => String::new(),
                ("", prefix) => format!("[{prefix}]: "),
                (subject, "") => format!("{subject}: "),
                (subject, prefix) => format!("{subject}: {prefix}: "),
            };
            let expected = match suggest::nearest(name, &known, &nested) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("expected {}", suggest::one_of(&known)),
            };
            let what = format!("{place}unknown {kind} {name:?}");
            self.document.problem(Some(key.span().start), self.path(name), what, expected);
        }
        let known = known.into_iter().map(str::to_owned).chain(nested);
        (result, known.collect())
    }

    /// Lets unknown keys pass: which keys belong here is itself unknown after another problem.
    pub(crate) fn pass_unknown_keys(&self) {
        self.lenient.set(true);
    }

    /// Whether the list `key` has no entry, not even a wrong one.
    pub(crate) fn is_without(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key)).map(Spanned::get_ref);
        value.is_none_or(|value| value.as_array().is_some_and(|array| array.is_empty()))
    }

    /// Whether the document has this table.
    pub(crate) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the document has `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// The value of `key`, if it is there and fits.
    pub(crate) fn get<T: FromValue>(&self, key: &'static str) -> Option<T> {
        let value = self.find(key)?;
        T::from_value(value.get_ref()).map_err(|unfit| self.refuse(key, unfit)).ok()
    }

    /// The value of `key`, or the default.
    pub(crate) fn or<T: FromValue>(&self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// The value of `key`, or the default; a value beyond the bounds is a problem.
    pub(crate) fn bounded<T>(&self, key: &'static str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: FromValue + PartialOrd + Display,
    {
        self.get_bounded(key, bounds).unwrap_or(default)
    }

    /// The value of `key`, if it is there; a value beyond the bounds is a problem.
    pub(crate) fn get_bounded<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: FromValue + PartialOrd + Display,
    {
        let value = self.get(key)?;
        self.check_bounds(key, &value, &bounds);
        Some(value)
    }

    /// Refuses the value of `key` if it is beyond the bounds.
    pub(crate) fn check_bounds<T>(&self, key: &str, value: &T, bounds: &RangeInclusive<T>)
    where
        T: PartialOrd + Display,
    {
        if !bounds.contains(value) {
            let (low, high) = (bounds.start(), bounds.end());
            self.refuse(key, Unfit::expected(format_args!("{low} to {high}")));
        }
    }

    /// Refuses `key`, if it is there: it does not belong here, or no longer.
    pub(crate) fn refuse_key(&self, key: &'static str, why: &str, so: &str) {
        if self.has(key) {
            self.known.borrow_mut().push(key);
            self.refuse(key, Unfit::because(why).so(so));
        }
    }

    /// The value of `key`, which must be there; `such_as` shows what it may look like.
    pub(crate) fn require<T: FromValue>(&self, key: &'static str, such_as: &str) -> Option<T> {
        if !self.has(key) {
            self.known.borrow_mut().push(key);
            let what = format!("{} is missing", self.named(key));
            let expected = format!("expected {key} = {such_as}");
            self.document.problem(Some(self.span.start), self.path(key), what, expected);
            return None;
        }
        self.get(key)
    }

    /// Reads the table `key`, or the defaults where the document does not have it.
    pub(crate) fn table<T>(&self, key: &'static str, read: impl FnOnce(&Section<'d>) -> T) -> T {
        let value = self.find(key);
        let table = match value.map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => Some(table),
            Some(DeValue::Array(array)) if array.iter().any(|entry| entry.get_ref().is_table()) => {
                let at = value.map(|value| value.span().start);
                let what = format!("there may be only one {key:?}");
                let expected = format!("expected [{key}], with single brackets");
                self.document.problem(at, self.path(key), what, expected);
                None
            }
            Some(_) => {
                self.refuse(key, Unfit::expected("a table"));
                None
            }
            None => None,
        };
        let prefix =
            if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) };
        let section = Section {
            document: self.document,
            table,
            span: value.map_or(self.span.clone(), Spanned::span),
            subject: self.subject.clone(),
            root: self.root.clone(),
            prefix,
            known: RefCell::default(),
            nested: RefCell::default(),
            lenient: Cell::new(false),
        };
        let (result, known) = section.finish(read);
        self.nested.borrow_mut().extend(known.iter().map(|name| format!("{key}.{name}")));
        result
    }

    /// Reads each `[[key]]`; what cannot be read is left out.
    pub(crate) fn list<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Section<'d>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            let at = Some(value.span().start);
            let what = format!("there may be several of {key:?}");
            let expected = format!("expected [[{key}]], with double brackets");
            self.document.problem(at, key.to_owned(), what, expected);
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (index, entry) in array.iter().enumerate() {
            let root = format!("{key}[{}]", index + 1);
            let DeValue::Table(table) = entry.get_ref() else {
                let at = Some(entry.span().start);
                let what = format!("{root} = {}", self.document.shown(entry.span()));
                self.document.problem(at, root, what, format!("expected [[{key}]]"));
                continue;
            };
            let name = table.get("name").map(Spanned::get_ref).and_then(DeValue::as_str);
            let section = Section {
                document: self.document,
                table: Some(table),
                span: entry.span(),
                subject: name.map_or_else(|| root.clone(), |name| format!("{key} {name:?}")),
                root,
                prefix: String::new(),
                known: RefCell::default(),
                nested: RefCell::default(),
                lenient: Cell::new(false),
            };
            entries.extend(section.finish(&mut read).0);
        }
        entries
    }

    /// All keys and their values, whatever the keys are.
    pub(crate) fn entries<T: FromValue>(&self) -> Vec<(&'d str, Result<T, Unfit>)> {
        self.pass_unknown_keys();
        let entries = self.table.into_iter().flatten();
        entries
            .map(|(key, value)| (key.get_ref().as_ref(), T::from_value(value.get_ref())))
            .collect()
    }

    /// The value of `key` cannot stand.
    pub(crate) fn refuse(&self, key: &str, unfit: Unfit) {
        let found = self.table.and_then(|table| table.get(key));
        let mut what = self.named(key);
        if let Some(value) = found {
            what.push_str(" = ");
            what.push_str(&self.document.shown(value.span()));
        }
        self.refuse_with(key, what, unfit);
    }

    fn refuse_with(&self, key: &str, mut what: String, unfit: Unfit) {
        let found = self.table.and_then(|table| table.get(key));
        let at = found.map_or(self.span.start, |value| value.span().start);
        if !unfit.why.is_empty() {
            what.push(' ');
            what.push_str(&unfit.why);
        }
        self.document.problem(Some(at), self.path(key), what, unfit.expected);
    }

    /// Refuses the value of `key` where it was found unfit.
    pub(crate) fn check(&self, key: &str, found: Result<(), Unfit>) {
        if let Err(unfit) = found {
            self.refuse(key, unfit);
        }
    }

    /// Refuses the first of these values (paths from the top level, an entry of a list as `lane[1]`) that
    /// the document has: for what is wrong with several of them together, if nothing is wrong with one of
    /// them alone.
    pub(crate) fn refuse_path(&self, paths: &[&[&str]], unfit: Unfit) {
        let refused = |path: &&[&str]| {
            let key = path.join(".");
            self.document.problems.borrow().iter().any(|problem| problem.key == key)
        };
        if paths.iter().any(refused) {
            return;
        }
        let found = paths.iter().find_map(|path| Some((path.join("."), self.locate(path)?)));
        let Some((key, span)) = found else { return };
        let mut what = format!("{key} = {}", self.document.shown(span.clone()));
        if !unfit.why.is_empty() {
            what.push(' ');
            what.push_str(&unfit.why);
        }
        self.document.problem(Some(span.start), key, what, unfit.expected);
    }

    /// The same, where the value may be a secret.
    pub(crate) fn check_unseen(&self, key: &str, found: Result<(), Unfit>) {
        if let Err(unfit) = found {
            self.refuse_with(key, self.named(key), unfit);
        }
    }

    /// Something is wrong with the document as a whole.
    pub(crate) fn refuse_document(&self, key: &str, what: &str, expected: &str) {
        self.document.problem(None, key.to_owned(), what.to_owned(), expected.to_owned());
    }

    fn locate(&self, path: &[&str]) -> Option<Range<usize>> {
        let (key, tables) = path.split_last()?;
        let table = tables.iter().try_fold(self.table?, |table, name| enter(table, name))?;
        table.get(*key).map(Spanned::span)
    }

    fn find(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.borrow_mut().push(key);
        let found = self.table.and_then(|table| table.get(key));
        #[cfg(test)]
        if found.is_none() {
            self.document.absent.borrow_mut().push(self.path(key));
        }
        found
    }

    /// The key for a person: `sink "cloud": batch.max-age`.
    fn named(&self, key: &str) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let key = if key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") };
        let dotted = if self.prefix.is_empty() { key } else { format!("{}.{key}", self.prefix) };
        if self.subject.is_empty() { dotted } else { format!("{}: {dotted}", self.subject) }
    }

    /// The key for a program: `sink[1].batch.max-age`.
    fn path(&self, key: &str) -> String {
        let parts = [self.root.as_str(), self.prefix.as_str(), key];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(".")
    }
}

/// The names of a list, each of which must be another.
#[derive(Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    /// Takes `name`, if it is not taken.
    pub(crate) fn take(&mut self, name: &str) -> Result<(), Unfit> {
        if self.0.insert(name.to_owned()) {
            return Ok(());
        }
        Err(Unfit::because("is already the name of another").so("expected a name of its own"))
    }
}
