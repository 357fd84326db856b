//! `[[acl]]`: what clients may publish and subscribe to.

use std::fmt;

use tidegate_event::Filter;
use toml::de::DeValue;

use crate::auth::UserNames;
use crate::problem::Unfit;
use crate::reader::{FromValue, Section};

/// `[[acl]]`: rights of some clients. Without any section every client has every right; with one or
/// more, a client has the rights that they allow it together, but for what one of them denies.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Acl {
    /// Whether it concerns anonymous clients: those without a login. With neither this nor users nor
    /// groups it concerns everybody. Default false.
    pub anonymous: bool,
    /// Users whom it concerns.
    pub users: Vec<String>,
    /// Groups whom it concerns.
    pub groups: Vec<String>,
    /// Topics that may be published to.
    pub publish: Vec<Pattern>,
    /// Topics that may be subscribed to.
    pub subscribe: Vec<Pattern>,
    /// Topics that may not be published to, whatever is allowed elsewhere.
    pub deny_publish: Vec<Pattern>,
    /// Topics that are not delivered, whatever is allowed elsewhere.
    pub deny_subscribe: Vec<Pattern>,
}

/// A topic filter in which a level may be `%u`, the user's name, or `%c`, the client id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Checks `text` and makes it a pattern.
    pub fn new(text: &str) -> Result<Self, Unfit> {
        Filter::new(text).map_err(|why| Unfit::because(why.to_string()))?;
        for level in text.split('/') {
            if level.len() > 2 && (level.contains("%u") || level.contains("%c")) {
                let why = format!("has %u or %c within the level {level:?}");
                return Err(Unfit::because(why).so("expected it to be a level of its own"));
            }
        }
        if text.starts_with("$share/") {
            return Err(Unfit::because("names a shared subscription")
                .so("expected the topics themselves: they count for shared subscriptions too"));
        }
        Ok(Self(text.into()))
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromValue for Vec<Pattern> {
    fn from_value(value: &DeValue<'_>) -> Result<Self, Unfit> {
        const EXPECTED: &str = "a list of topic filters, such as [\"plant/%u/#\"]";
        let list = value.as_array().ok_or_else(|| Unfit::expected(EXPECTED))?;
        let patterns = list.iter().map(|entry| {
            let text = entry.get_ref().as_str().ok_or_else(|| Unfit::expected(EXPECTED))?;
            Pattern::new(text).map_err(|unfit| {
                Unfit::because(format!("holds {text:?}, which {}", unfit.why)).so(unfit.expected)
            })
        });
        patterns.collect()
    }
}

impl Acl {
    /// Reads one section.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        let names = |key| section.get::<UserNames>(key).map(|UserNames(names)| names);
        let patterns = |key| section.get::<Vec<Pattern>>(key).unwrap_or_default();
        let (users, groups) = (names("users"), names("groups"));
        // An empty list is more likely a mistake than everybody.
        for (key, list) in [("users", &users), ("groups", &groups)] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                let so = "expected a name, or no such key, which means everybody";
                section.refuse(key, Unfit::because("concerns nobody").so(so));
            }
        }
        let anonymous = section.or("anonymous", false);
        Some(Self {
            anonymous,
            users: users.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            publish: patterns("publish"),
            subscribe: patterns("subscribe"),
            deny_publish: patterns("deny-publish"),
            deny_subscribe: patterns("deny-subscribe"),
        })
    }

    /// Whether it concerns everybody.
    pub fn is_for_all(&self) -> bool {
        !self.anonymous && self.users.is_empty() && self.groups.is_empty()
    }
}
