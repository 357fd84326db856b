//! What somebody who mistyped a key may have meant.

/// The name that `typed` is a slip away from, if one is: of those that belong here, or else of those
/// that belong into a table here (`batch.max-age`), which may be left out of them.
pub(crate) fn nearest<'n>(typed: &str, here: &[&'n str], nested: &'n [String]) -> Option<&'n str> {
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    let last = |name: &'n str| name.rsplit('.').next().unwrap_or(name);
    let here = here.iter().map(|name| (distance(typed, name), *name));
    let nested = nested.iter().map(|name| (distance(typed, last(name)), name.as_str()));
    let nearest = |found: &mut dyn Iterator<Item = (usize, &'n str)>| {
        found.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance)
    };
    let found = nearest(&mut here.into_iter()).or_else(|| nearest(&mut nested.into_iter()));
    found.map(|(_, name)| name)
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
        assert_eq!(nearest("max-evnts", &NAMES, &[]), Some("max-events"));
        assert_eq!(nearest("max_bytes", &NAMES, &[]), Some("max-bytes"));
        assert_eq!(nearest("Max-Age", &NAMES, &[]), Some("max-age"));
    }

    #[test]
    fn a_table_may_have_been_left_out() {
        let nested = ["batch.max-events".to_owned(), "retry.initial".to_owned()];
        assert_eq!(nearest("max-evnts", &["url"], &nested), Some("batch.max-events"));
        assert_eq!(nearest("urll", &["url"], &nested), Some("url"));
    }

    #[test]
    fn something_else_is_not_a_slip() {
        assert_eq!(nearest("url", &NAMES, &[]), None);
        assert_eq!(nearest("", &NAMES, &[]), None);
        assert_eq!(nearest("timeout", &NAMES, &[]), None);
    }

    #[test]
    fn what_is_expected_reads_as_a_phrase() {
        assert_eq!(one_of(&["http"]), "\"http\"");
        assert_eq!(one_of(&["a", "b"]), "one of \"a\", \"b\"");
    }
}
