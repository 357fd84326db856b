//! What somebody who mistyped a key may have meant.

/// The name that `typed` is a slip away from, if one is.
pub(crate) fn nearest<'n>(typed: &str, names: &[&'n str]) -> Option<&'n str> {
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    let distances = names.iter().map(|name| (distance(typed, name), *name));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}

/// `"a"`, or `one of "a", "b"`.
pub(crate) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let list = quoted.join(", ");
    if names.len() == 1 { list } else { format!("one of {list}") }
}

/// Insertions, deletions and replacements from one to the other (Levenshtein); `_` and capitals cost
/// nothing, as they are the commonest slips.
fn distance(from: &str, to: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        text.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    let (from, to) = (plain(from), plain(to));
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["max-events", "max-bytes", "max-age", "for"];

    #[test]
    fn a_slip_is_recognized() {
        assert_eq!(nearest("max-evnts", &NAMES), Some("max-events"));
        assert_eq!(nearest("max_bytes", &NAMES), Some("max-bytes"));
        assert_eq!(nearest("Max-Age", &NAMES), Some("max-age"));
    }

    #[test]
    fn something_else_is_not_a_slip() {
        assert_eq!(nearest("url", &NAMES), None);
        assert_eq!(nearest("", &NAMES), None);
        assert_eq!(nearest("timeout", &NAMES), None);
    }

    #[test]
    fn what_is_expected_reads_as_a_phrase() {
        assert_eq!(one_of(&["http"]), "\"http\"");
        assert_eq!(one_of(&["a", "b"]), "one of \"a\", \"b\"");
    }
}
