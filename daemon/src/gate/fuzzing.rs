//! Any bytes, as what tells who a client is and what it may do.

use std::path::Path;

use tidegate_config::{self as config, Pattern};
use tidegate_event::{Filter, topic};

use super::login::{Passwords, fuzzing::token};
use super::{Identity, acl};

/// The first byte says what the others are.
pub(crate) fn logins(bytes: &[u8]) {
    let Some((what, rest)) = bytes.split_first() else { return };
    match (what % 3, std::str::from_utf8(rest)) {
        (0, _) => token(rest),
        (1, Ok(file)) => passwords(file),
        (2, Ok(lines)) => rights(lines),
        _ => {}
    }
}

fn passwords(file: &str) {
    match Passwords::parse(Path::new("passwords"), file) {
        Ok(passwords) => assert!(passwords.len() <= file.lines().count()),
        Err(problem) => {
            assert!(problem.to_string().starts_with("passwords:"), "{problem}");
        }
    }
}

/// A pattern, a client id, a filter and a topic, one a line.
fn rights(lines: &str) {
    let mut lines = lines.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pattern, client, filter, name) = (line(), line(), line(), line());
    let (Ok(pattern), Ok(filter)) = (Pattern::new(pattern), Filter::new(filter)) else { return };
    if topic::check_name(name).is_err() {
        return;
    }
    assert_eq!(filter.matches(name), matches(filter.as_str(), name));
    let rule = config::Acl { subscribe: vec![pattern], ..config::Acl::default() };
    let acl = acl::Acl::new(&[rule], &config::Auth::default());
    let Some(granted) = acl.granted(&Identity::default(), client) else { return };
    // What a subscription may bring, its topics may.
    if granted.subscribe.cover(&filter) && filter.matches(name) {
        assert!(granted.subscribe.hold(name), "{filter} brings {name}");
    }
    assert!(!granted.publish.hold(name), "nobody allowed it");
}

/// MQTT 5.0 section 4.7, once more.
fn matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) | ([], []) => true,
            ([one, filter @ ..], [level, topic @ ..]) => {
                (*one == "+" || one == level) && levels(filter, topic)
            }
            _ => false,
        }
    }
    let split = |text| str::split(text, '/').collect::<Vec<_>>();
    let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
    !hidden && levels(&split(filter), &split(topic))
}
