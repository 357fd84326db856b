//! What is wrong with a configuration, told so that it can be put right at once.

use std::fmt;

/// A place in the file, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

/// One thing that is wrong. Displayed as one line:
/// `tidegate.toml:12: sink "cloud": unknown key "max-evnts"; did you mean "max-events"?`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Where; none if it is something that is missing from the file as a whole.
    pub position: Option<Position>,
    /// The key's path, entries of a list counted from 1: `sink[1].batch.max-age`. Empty where the
    /// text is not TOML.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What was expected, or what to do; empty where `what` says it.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, .. }) = self.position {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.expected.is_empty() {
            write!(f, "; {}", self.expected)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a file, in the order of its lines; at least one problem. Displayed
/// as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    problems: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    pub(crate) fn new(mut problems: Vec<Problem>, omitted: usize) -> Self {
        problems.sort_by_key(|problem| problem.position);
        Self { problems, omitted }
    }

    /// One by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// How many more there are, where a file has too many to tell.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Why a value cannot stand where it does: what follows `key = value` in a problem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unfit {
    /// What is the matter with it: `is longer than a hundred years`.
    pub(crate) why: String,
    /// What would be right: `expected …`.
    pub(crate) expected: String,
}

impl Unfit {
    /// `; expected …`
    pub(crate) fn expected(what: impl fmt::Display) -> Self {
        Self { why: String::new(), expected: format!("expected {what}") }
    }

    /// A reason that says it all.
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), expected: String::new() }
    }

    /// Adds what to do about it.
    pub(crate) fn so(self, expected: impl Into<String>) -> Self {
        Self { expected: expected.into(), ..self }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        if !self.why.is_empty() && !self.expected.is_empty() {
            f.write_str("; ")?;
        }
        f.write_str(&self.expected)
    }
}

impl std::error::Error for Unfit {}
