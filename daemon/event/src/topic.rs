//! Topic names and topic filters, as MQTT defines them (MQTT 5.0 section 4.7, the same in 3.1.1).

use std::fmt;

/// Longest topic name or filter in bytes: MQTT's own bound, a two-byte length (`[MQTT-1.5.4]`).
pub const MAX_LEN: usize = 65_535;

/// Why a topic name or filter is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// `[MQTT-4.7.3-1]`: at least one character.
    #[error("is empty")]
    Empty,
    /// Longer than [`MAX_LEN`] bytes.
    #[error("is {0} bytes long, the limit is {MAX_LEN}")]
    TooLong(usize),
    /// `[MQTT-4.7.3-2]`: no U+0000.
    #[error("contains the null character")]
    Null,
    /// `[MQTT-3.3.2-2]`: a topic name has no wildcards.
    #[error("contains the wildcard `{0}`, which only a filter may")]
    Wildcard(char),
    /// `[MQTT-4.7.1-1]`, `[MQTT-4.7.1-2]`: a wildcard stands alone in its level, `#` in the last.
    #[error(
        "has `{0}` in a place where it cannot stand: `+` fills a whole level, `#` the last one"
    )]
    MisplacedWildcard(char),
}

/// Checks a topic name: what a PUBLISH carries.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    check_bounds(name)?;
    match name.bytes().find(|b| matches!(b, b'+' | b'#')) {
        Some(byte) => Err(TopicError::Wildcard(byte as char)),
        None => Ok(()),
    }
}

fn check_bounds(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(TopicError::TooLong(text.len()));
    }
    if text.bytes().any(|b| b == 0) {
        return Err(TopicError::Null);
    }
    Ok(())
}

/// A valid topic filter: levels separated by `/`, `+` for any one level, `#` for the rest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(Box<str>);

impl Filter {
    /// The filter that matches every topic not starting with `$`.
    pub fn everything() -> Self {
        Self("#".into())
    }

    /// Checks `text` and makes it a filter.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check_bounds(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            if level.contains('#') && (level != "#" || !last) {
                return Err(TopicError::MisplacedWildcard('#'));
            }
            if level.contains('+') && level != "+" {
                return Err(TopicError::MisplacedWildcard('+'));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` (a valid topic name) matches. A filter that begins with a wildcard matches no
    /// topic that begins with `$` (`[MQTT-4.7.2-1]`); `a/#` matches `a` too.
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut filter_levels = self.0.split('/');
        let mut topic_levels = topic.split('/');
        loop {
            match (filter_levels.next(), topic_levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(filter), Some(level)) if filter == level => {}
                _ => return false,
            }
        }
    }
}

impl Filter {
    /// Whether every topic that `other` matches is one that this filter matches. It is not clever: that
    /// `+/#` matches whatever `#` does is the one case that it does not see.
    pub fn covers(&self, other: &Self) -> bool {
        let (own, other) = (self.0.as_ref(), other.0.as_ref());
        // `[MQTT-4.7.2-1]`
        if other.starts_with('$') && own.starts_with(['+', '#']) {
            return false;
        }
        let (mut own_levels, mut other_levels) = (own.split('/'), other.split('/'));
        loop {
            match (own_levels.next(), other_levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(own), Some(level)) if own == level => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::str::FromStr for Filter {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        Self::new(text)
    }
}

/// The topic's level number `number`, counted from 1, if it has that many.
pub fn level(topic: &str, number: usize) -> Option<&str> {
    topic.split('/').nth(number.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        Filter::new(filter).unwrap().matches(topic)
    }

    // The examples of MQTT 5.0 sections 4.7.1 and 4.7.2.
    #[test]
    fn filters_match_as_the_specification_says() {
        for topic in [
            "sport/tennis/player1",
            "sport/tennis/player1/ranking",
            "sport/tennis/player1/score/wimbledon",
        ] {
            assert!(matches("sport/tennis/player1/#", topic), "{topic}");
        }
        assert!(matches("sport/#", "sport"));
        assert!(matches("#", "sport/tennis"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(!matches("#", "$SYS/monitor/Clients"));
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/#", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
        assert!(!matches("accounts", "Accounts"));
    }

    #[test]
    fn a_filter_covers_those_that_match_nothing_else() {
        let covers =
            |own: &str, other: &str| Filter::new(own).unwrap().covers(&Filter::new(other).unwrap());
        // By enumeration: `z` stands for any level that no filter names.
        let levels = ["a", "", "$s", "z"];
        let mut topics: Vec<String> = levels.iter().map(ToString::to_string).collect();
        for _ in 0..2 {
            let deeper = topics.iter().flat_map(|t| levels.map(|level| format!("{t}/{level}")));
            topics.extend(deeper.collect::<Vec<_>>());
        }
        topics.retain(|topic| !topic.is_empty());
        let words = ["a", "", "$s", "+", "#"];
        let mut filters: Vec<String> = words.iter().map(ToString::to_string).collect();
        let deeper = filters.iter().flat_map(|f| words.map(|word| format!("{f}/{word}")));
        filters.extend(deeper.collect::<Vec<_>>());
        filters.retain(|filter| Filter::new(filter).is_ok());
        for own in &filters {
            for other in &filters {
                let all = topics.iter().filter(|t| matches(other, t)).all(|t| matches(own, t));
                let unseen = (own.as_str(), other.as_str()) == ("+/#", "#");
                assert_eq!(covers(own, other), all && !unseen, "{own} {other}");
            }
        }
    }

    #[test]
    fn a_misplaced_wildcard_is_refused() {
        for bad in ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "a/b+/c", "##"] {
            assert!(matches!(Filter::new(bad), Err(TopicError::MisplacedWildcard(_))), "{bad}");
        }
        assert_eq!(Filter::new(""), Err(TopicError::Empty));
        assert_eq!(Filter::new("a\0b"), Err(TopicError::Null));
    }

    #[test]
    fn a_topic_name_has_no_wildcard_no_null_and_a_bound() {
        assert_eq!(check_name("a/+/b"), Err(TopicError::Wildcard('+')));
        assert_eq!(check_name("a/#"), Err(TopicError::Wildcard('#')));
        assert_eq!(check_name("a\0"), Err(TopicError::Null));
        assert_eq!(check_name(&"x".repeat(MAX_LEN + 1)), Err(TopicError::TooLong(MAX_LEN + 1)));
        assert_eq!(check_name("a//b/ ü"), Ok(()));
    }

    #[test]
    fn levels_count_from_one() {
        assert_eq!(level("a/b/c", 2), Some("b"));
        assert_eq!(level("a/b/c", 4), None);
        assert_eq!(level("a", 0), None);
    }
}
