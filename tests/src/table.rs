//! The figures, each beside what it is compared with and its goal.

use std::fmt;

/// What a goal asks for.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Only to be known.
    None,
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
}

#[derive(Debug)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    beside: String,
    goal: Goal,
}

/// Rows in the order in which they were measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a figure, and shows it at once.
    pub fn row(
        &mut self,
        what: impl Into<String>,
        (value, unit): (f64, &'static str),
        beside: impl Into<String>,
        goal: Goal,
    ) {
        let row = Row { what: what.into(), value, unit, beside: beside.into(), goal };
        println!("  {}", row.line(0));
        self.rows.push(row);
    }
}

impl Row {
    fn line(&self, width: usize) -> String {
        let goal = match self.goal {
            Goal::None => String::new(),
            Goal::AtLeast(bound) => {
                let verdict = if self.value >= bound { "met" } else { "MISSED" };
                format!("≥ {} {verdict}", figure(bound))
            }
            Goal::AtMost(bound) => {
                let verdict = if self.value <= bound { "met" } else { "MISSED" };
                format!("≤ {} {verdict}", figure(bound))
            }
        };
        let value = format!("{} {}", figure(self.value), self.unit);
        format!("{:width$} {value:>16}  {goal:14}  {}", self.what, self.beside)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        for row in &self.rows {
            writeln!(f, "{}", row.line(width).trim_end())?;
        }
        Ok(())
    }
}

/// Three digits that count, thousands as `k`.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The one in the middle; the upper one of two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Smallest and largest, to show how steady the machine was.
pub fn range(values: &[f64]) -> String {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{}–{}", figure(low), figure(high))
}
