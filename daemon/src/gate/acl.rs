//! The rules of `[[acl]]`, and what they say about one client.
//!
//! Without a rule everything is allowed. With one or more, an event may be published if its topic
//! matches a filter that a rule allows the client, and none that one denies it; likewise it may be
//! delivered. A subscription is allowed if one filter covers all of it: what is denied within it is
//! then not delivered. Rules have no order.

use std::collections::HashMap;

use tidegate_config as config;
use tidegate_event::Filter;

use super::Identity;

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Acl {
    rules: Vec<config::Acl>,
    /// The groups of each user.
    groups: HashMap<String, Vec<String>>,
}

/// What the rules say about one client.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) publish: Topics,
    pub(super) subscribe: Topics,
}

/// Topics that are allowed but for those that are denied.
#[derive(Debug, Default)]
pub(super) struct Topics {
    allowed: Vec<Filter>,
    denied: Vec<Filter>,
}

impl Acl {
    pub(super) fn new(rules: &[config::Acl], auth: &config::Auth) -> Self {
        let mut groups: HashMap<String, Vec<String>> = HashMap::new();
        for (group, users) in &auth.groups {
            for user in users {
                groups.entry(user.clone()).or_default().push(group.clone());
            }
        }
        Self { rules: rules.to_vec(), groups }
    }

    /// None is everything.
    pub(super) fn granted(&self, identity: &Identity, client: &str) -> Option<Granted> {
        if self.rules.is_empty() {
            return None;
        }
        let user = identity.user.as_deref();
        let mut granted = Granted::default();
        for rule in self.rules.iter().filter(|rule| self.concerns(rule, identity)) {
            for (patterns, filters) in [
                (&rule.publish, &mut granted.publish.allowed),
                (&rule.deny_publish, &mut granted.publish.denied),
                (&rule.subscribe, &mut granted.subscribe.allowed),
                (&rule.deny_subscribe, &mut granted.subscribe.denied),
            ] {
                filters.extend(patterns.iter().filter_map(|pattern| expand(pattern, user, client)));
            }
        }
        Some(granted)
    }

    fn concerns(&self, rule: &config::Acl, identity: &Identity) -> bool {
        let user = identity.user.as_deref();
        let groups = user.and_then(|user| self.groups.get(user)).into_iter().flatten();
        let mut groups = groups.map(String::as_str).chain(identity.groups.iter().map(|g| &**g));
        rule.is_for_all()
            || (rule.anonymous && user.is_none())
            || user.is_some_and(|user| rule.users.iter().any(|name| name == user))
            || groups.any(|group| rule.groups.iter().any(|name| name == group))
    }
}

impl Topics {
    /// Whether `topic`, a valid topic name, is one of them.
    pub(super) fn hold(&self, topic: &str) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(topic));
        any(&self.allowed) && !any(&self.denied)
    }

    /// Whether a subscription to `filter` makes sense: it is allowed, and not denied as a whole.
    pub(super) fn cover(&self, filter: &Filter) -> bool {
        let any = |filters: &[Filter]| filters.iter().any(|own| own.covers(filter));
        any(&self.allowed) && !any(&self.denied)
    }
}

/// The filter that a pattern is for one client. None if it is none for this client: it has no user, or
/// a name that would mean something else in a filter, as `+` or `a/b` would.
fn expand(pattern: &config::Pattern, user: Option<&str>, client: &str) -> Option<Filter> {
    let text = pattern.as_str();
    if !text.contains("%u") && !text.contains("%c") {
        return Filter::new(text).ok();
    }
    let mut expanded = String::with_capacity(text.len() + client.len());
    for (number, level) in text.split('/').enumerate() {
        if number > 0 {
            expanded.push('/');
        }
        let value = match level {
            "%u" => user?,
            "%c" => client,
            _ => {
                expanded.push_str(level);
                continue;
            }
        };
        // A name must not open the topics that begin with `$`.
        let reserved = number == 0 && value.starts_with('$');
        if value.is_empty() || value.contains(['/', '+', '#']) || reserved {
            return None;
        }
        expanded.push_str(value);
    }
    Filter::new(&expanded).ok()
}

#[cfg(test)]
mod tests;
