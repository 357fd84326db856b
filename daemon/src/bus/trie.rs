//! Which filters match a topic: a tree with a level of a filter at each edge.
//!
//! A look-up visits the nodes that the topic's levels lead to, and those behind `+`: at most as many
//! as the tree has. Nodes that lead nowhere are removed with the last filter below them.

use std::collections::HashMap;

use tidegate_event::Filter;

/// Values under topic filters, any number a filter.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    /// Behind `+`.
    any: Option<Box<Node<T>>>,
    /// Of the filter that ends here.
    here: Vec<T>,
    /// Of the filter that ends with `#` behind here.
    below: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), any: None, here: Vec::new(), below: Vec::new() }
    }
}

impl<T> Trie<T> {
    pub(super) fn new() -> Self {
        Self { root: Node::default(), len: 0 }
    }

    /// How many values it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets `value` under `filter`, in the place of the one that is `same`, if there is one, which is
    /// returned.
    pub(super) fn insert(
        &mut self,
        filter: &Filter,
        value: T,
        same: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let mut node = &mut self.root;
        let mut values = None;
        for level in filter.as_str().split('/') {
            match level {
                "#" => {
                    values = Some(&mut node.below);
                    break;
                }
                "+" => node = node.any.get_or_insert_default(),
                _ if node.children.contains_key(level) => {
                    // The entry API would allocate the key each time.
                    node = node.children.get_mut(level)?;
                }
                _ => node = node.children.entry(level.into()).or_default(),
            }
        }
        let values = match values {
            Some(values) => values,
            None => &mut node.here,
        };
        if let Some(old) = values.iter_mut().find(|old| same(old)) {
            return Some(std::mem::replace(old, value));
        }
        values.push(value);
        self.len += 1;
        None
    }

    /// Removes the value under `filter` that is `same`.
    pub(super) fn remove(&mut self, filter: &Filter, same: impl Fn(&T) -> bool) -> Option<T> {
        let removed = self.root.remove(filter.as_str().split('/'), &same);
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Calls `found` with every value whose filter matches `topic`, a valid topic name.
    pub(super) fn matches(&self, topic: &str, mut found: impl FnMut(&T)) {
        // `[MQTT-4.7.2-1]`: no leading wildcard matches a topic that begins with `$`.
        self.root.matches(topic.split('/'), topic.starts_with('$'), &mut found);
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty()
            && self.any.is_none()
            && self.here.is_empty()
            && self.below.is_empty()
    }

    fn remove(
        &mut self,
        mut levels: std::str::Split<'_, char>,
        same: &impl Fn(&T) -> bool,
    ) -> Option<T> {
        let take = |values: &mut Vec<T>| {
            let at = values.iter().position(same)?;
            let value = values.swap_remove(at);
            values.shrink_to_fit();
            Some(value)
        };
        match levels.next() {
            None => take(&mut self.here),
            Some("#") => take(&mut self.below),
            Some("+") => {
                let child = self.any.as_mut()?;
                let removed = child.remove(levels, same);
                if child.is_empty() {
                    self.any = None;
                }
                removed
            }
            Some(level) => {
                let child = self.children.get_mut(level)?;
                let removed = child.remove(levels, same);
                if child.is_empty() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }

    fn matches(
        &self,
        mut levels: std::str::Split<'_, char>,
        reserved: bool,
        found: &mut impl FnMut(&T),
    ) {
        if !reserved {
            self.below.iter().for_each(&mut *found);
        }
        let Some(level) = levels.next() else {
            self.here.iter().for_each(found);
            return;
        };
        if let Some(child) = self.any.as_ref().filter(|_| !reserved) {
            child.matches(levels.clone(), false, found);
        }
        if let Some(child) = self.children.get(level) {
            child.matches(levels, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::new(text).unwrap()
    }

    fn found(trie: &Trie<usize>, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        trie.matches(topic, |value| found.push(*value));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_value_replaces_the_same_one_only() {
        let mut trie = Trie::new();
        assert_eq!(trie.insert(&filter("a/+"), 1, |old| *old == 1), None);
        assert_eq!(trie.insert(&filter("a/+"), 2, |old| *old == 2), None);
        assert_eq!(trie.insert(&filter("a/+"), 1, |old| *old == 1), Some(1));
        assert_eq!((trie.len(), found(&trie, "a/b")), (2, vec![1, 2]));
    }

    #[test]
    fn nothing_is_left_of_filters_that_were_removed() {
        let mut trie = Trie::new();
        let filters = ["a/b/c", "a/+/c", "a/#", "#", "+", "a/b", "/"].map(filter);
        for (value, filter) in filters.iter().enumerate() {
            trie.insert(filter, value, |old| *old == value);
        }
        assert_eq!(trie.remove(&filter("a/b/c/d"), |_| true), None);
        assert_eq!(trie.remove(&filter("a"), |_| true), None);
        for (value, filter) in filters.iter().enumerate() {
            assert_eq!(trie.remove(filter, |old| *old == value), Some(value));
        }
        assert!(trie.is_empty() && trie.root.is_empty());
    }

    fn levels(words: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(words), 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        // The trie against the definition: `Filter::matches`.
        #[test]
        fn it_finds_what_the_filters_match(
            filters in prop::collection::vec(levels(&["", "a", "b", "$s", "+", "#"]), 1..20),
            topics in prop::collection::vec(levels(&["", "a", "b", "$s"]), 1..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut filters: Vec<Filter> =
                filters.iter().filter_map(|text| Filter::new(text).ok()).collect();
            filters.sort();
            filters.dedup();
            let mut live: Vec<(usize, Filter)> = filters.into_iter().enumerate().collect();
            let mut trie = Trie::new();
            for (value, filter) in &live {
                trie.insert(filter, *value, |old| old == value);
            }
            for index in removed {
                if !live.is_empty() {
                    let (value, filter) = live.remove(index.index(live.len()));
                    prop_assert_eq!(trie.remove(&filter, |old| *old == value), Some(value));
                }
            }
            for topic in topics.iter().filter(|topic| !topic.is_empty()) {
                let expected: Vec<usize> = live
                    .iter()
                    .filter(|(_, filter)| filter.matches(topic))
                    .map(|(value, _)| *value)
                    .collect();
                prop_assert_eq!(found(&trie, topic), expected, "{}", topic);
            }
        }
    }
}
