use std::sync::Arc;

use proptest::prelude::*;
use tidegate_config::{Acl as Rule, Auth, Pattern};

use super::*;
use crate::gate::rights::{Current, Rights};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
}

fn allow(publish: &[&str], subscribe: &[&str]) -> Rule {
    Rule { publish: patterns(publish), subscribe: patterns(subscribe), ..Rule::default() }
}

fn user(name: &str) -> Identity {
    Identity { user: Some(name.into()), ..Identity::default() }
}

fn rights(rules: &[Rule], identity: &Identity, client: &str) -> Rights {
    let current = Arc::new(Current::new(Acl::new(rules, &Auth::default())));
    Rights::new(&current, identity, client.into())
}

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap()
}

#[test]
fn without_a_rule_everything_is_allowed_and_with_one_nothing_else() {
    let mut open = rights(&[], &Identity::anonymous(), "c");
    assert!(open.may_publish("a") && open.may_subscribe(&filter("#")) && open.may_receive("a"));
    let mut bound = rights(&[allow(&["a/#"], &["b"])], &Identity::anonymous(), "c");
    assert!(bound.may_publish("a/x") && bound.may_publish("a") && !bound.may_publish("b"));
    assert!(bound.may_subscribe(&filter("b")) && !bound.may_subscribe(&filter("+")));
    assert!(bound.may_receive("b") && !bound.may_receive("a"));
}

#[test]
fn a_rule_concerns_whom_it_names_and_without_names_everybody() {
    let rules = [
        Rule { users: vec!["anna".into()], ..allow(&["a"], &[]) },
        Rule { groups: vec!["pumps".into()], ..allow(&["p"], &[]) },
        allow(&["all"], &[]),
        Rule { anonymous: true, ..allow(&["open"], &[]) },
        Rule { anonymous: true, users: vec!["anna".into()], ..allow(&["both"], &[]) },
    ];
    let mut auth = Auth::default();
    auth.groups.insert("pumps".into(), vec!["pump-1".into()]);
    let acl = Acl::new(&rules, &auth);
    let may = |identity: &Identity| {
        let granted = acl.granted(identity, "c").unwrap();
        ["a", "p", "all", "open", "both"].map(|topic| granted.publish.hold(topic))
    };
    assert_eq!(may(&Identity::anonymous()), [false, false, true, true, true]);
    assert_eq!(may(&user("anna")), [true, false, true, false, true]);
    assert_eq!(may(&user("pump-1")), [false, true, true, false, false]);
    let by_token = Identity { groups: Arc::new(["pumps".into()]), ..user("ben") };
    assert_eq!(may(&by_token), [false, true, true, false, false]);
}

#[test]
fn what_is_denied_is_denied_whatever_the_order() {
    let deny = Rule {
        deny_publish: patterns(&["a/secret"]),
        deny_subscribe: patterns(&["a/secret/#"]),
        ..Rule::default()
    };
    for rules in [[allow(&["a/#"], &["a/#"]), deny.clone()], [deny, allow(&["a/#"], &["a/#"])]] {
        let mut rights = rights(&rules, &Identity::anonymous(), "c");
        assert!(rights.may_publish("a/b") && !rights.may_publish("a/secret"));
        assert!(rights.may_subscribe(&filter("a/#")), "what is denied in it is not delivered");
        assert!(!rights.may_subscribe(&filter("a/secret/+")));
        assert!(rights.may_receive("a/b") && !rights.may_receive("a/secret/x"));
    }
}

#[test]
fn patterns_hold_the_names_of_user_and_client() {
    let rules = [allow(&["plant/%u/%c", "%c/x"], &["%u/#"])];
    let mut rights = rights(&rules, &user("anna"), "c-1");
    assert!(rights.may_publish("plant/anna/c-1") && rights.may_publish("c-1/x"));
    assert!(!rights.may_publish("plant/ben/c-1") && !rights.may_publish("plant/%u/%c"));
    assert!(rights.may_subscribe(&filter("anna/+")) && !rights.may_subscribe(&filter("+/x")));
}

#[test]
fn a_name_cannot_widen_a_pattern() {
    for name in ["+", "#", "a/b", "", "/", "$SYS", "+/+", "a+", "#x"] {
        let rules = [allow(&["%c/#", "p/%u/#"], &["%c/#", "%u/#", "p/%u/#"])];
        let mut rights = rights(&rules, &user(name), name);
        for topic in ["b/x", "a/b/x", "p/b/x", "/x", "a"] {
            assert!(!rights.may_publish(topic), "{name:?} {topic}");
        }
        for wanted in ["+/#", "#", "$SYS/#", "p/+/#", "a/b/#"] {
            assert!(!rights.may_subscribe(&filter(wanted)), "{name:?} {wanted}");
        }
    }
    let mut nobody = rights(&[allow(&["p/%u/#"], &["p/%u/#"])], &Identity::anonymous(), "c");
    assert!(!nobody.may_publish("p//x") && !nobody.may_publish("p/%u/x"));
}

#[test]
fn connected_clients_follow_the_rules() {
    let current = Arc::new(Current::new(Acl::default()));
    let mut rights = Rights::new(&current, &Identity::anonymous(), "c".into());
    assert!(rights.may_publish("a") && !rights.is_limited());
    current.replace(Acl::new(&[allow(&["b"], &[])], &Auth::default()));
    assert!(!rights.may_publish("a") && rights.may_publish("b") && !rights.may_receive("b"));
    current.replace(Acl::new(&[allow(&["a"], &["b"])], &Auth::default()));
    assert!(rights.may_publish("a") && !rights.may_publish("b") && rights.may_receive("b"));
    current.replace(Acl::default());
    assert!(rights.may_publish("b") && !rights.is_limited());
}

const WORDS: &[&str] = &["a", "b", "anna", "c1", "$s", ""];
const USERS: &[&str] = &["anna", "a", "b", "+", "$s"];

fn pattern() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "+", "#", "%u", "%c", "$s", ""]);
    prop::collection::vec(level, 1..4)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("no pattern", |text| Pattern::new(text).is_ok())
}

fn rule() -> impl Strategy<Value = Rule> {
    let list = || prop::collection::vec(pattern(), 0..3);
    let who = prop::collection::vec(prop::sample::select(USERS), 0..2);
    (any::<bool>(), who, list(), list(), list(), list()).prop_map(
        |(anonymous, users, publish, deny, subscribe, hide)| {
            let patterns = |texts: Vec<String>| {
                texts.iter().map(|text| Pattern::new(text).unwrap()).collect::<Vec<_>>()
            };
            Rule {
                anonymous,
                users: users.into_iter().map(str::to_owned).collect(),
                groups: Vec::new(),
                publish: patterns(publish),
                deny_publish: patterns(deny),
                subscribe: patterns(subscribe),
                deny_subscribe: patterns(hide),
            }
        },
    )
}

/// Level by level, with nothing expanded or remembered.
fn naive_match(pattern: &str, topic: &str, user: Option<&str>, client: &str) -> bool {
    fn levels(pattern: &[&str], topic: &[&str], user: Option<&str>, client: &str) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) | (None, None) => true,
            (Some((first, pattern)), Some((level, topic))) => {
                let fits = match *first {
                    "+" => true,
                    "%u" => !level.is_empty() && user == Some(*level),
                    "%c" => !level.is_empty() && client == *level,
                    literal => literal == *level,
                };
                fits && levels(pattern, topic, user, client)
            }
            _ => false,
        }
    }
    if topic.starts_with('$') && pattern.starts_with(['+', '#', '%']) {
        return false;
    }
    let pattern: Vec<&str> = pattern.split('/').collect();
    let topic: Vec<&str> = topic.split('/').collect();
    levels(&pattern, &topic, user, client)
}

proptest! {
    #[test]
    fn the_rules_decide_like_a_naive_model(
        rules in prop::collection::vec(rule(), 1..4),
        name in prop::option::of(prop::sample::select(USERS)),
        client in prop::sample::select(vec!["c1", "a", "#", "$s"]),
        topics in prop::collection::vec(
            prop::collection::vec(prop::sample::select(WORDS), 1..4), 1..12),
    ) {
        let identity = Identity { user: name.map(Into::into), ..Identity::default() };
        let mut rights = rights(&rules, &identity, client);
        let concerned: Vec<&Rule> = rules
            .iter()
            .filter(|rule| match name {
                _ if rule.users.is_empty() && !rule.anonymous => true,
                None => rule.anonymous,
                Some(name) => rule.users.iter().any(|user| user == name),
            })
            .collect();
        let any = |topic: &str, list: fn(&Rule) -> &Vec<Pattern>| {
            concerned.iter().any(|rule| {
                list(rule).iter().any(|p| naive_match(p.as_str(), topic, name, client))
            })
        };
        for topic in topics.iter().map(|levels| levels.join("/")).filter(|t| !t.is_empty()) {
            let publish = any(&topic, |r| &r.publish) && !any(&topic, |r| &r.deny_publish);
            let receive = any(&topic, |r| &r.subscribe) && !any(&topic, |r| &r.deny_subscribe);
            prop_assert_eq!(rights.may_publish(&topic), publish, "{}", topic);
            prop_assert_eq!(rights.may_receive(&topic), receive, "{}", topic);
            // Asked again: remembered.
            prop_assert_eq!(rights.may_publish(&topic), publish, "{}", topic);
            if rights.may_subscribe(&filter(&topic)) {
                prop_assert!(receive, "a subscription to {} that delivers nothing", topic);
            }
        }
    }
}
