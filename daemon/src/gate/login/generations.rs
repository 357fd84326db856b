//! A map with a bound that forgets the oldest.

use std::collections::HashMap;
use std::hash::Hash;

/// Two maps: when the younger is half of what may be remembered, it becomes the older, and what was
/// the older is forgotten. What is asked for stays.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq + Clone, V> Generations<K, V> {
    /// At most `max` entries are remembered; with 0, none.
    pub(super) fn new(max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: max.div_ceil(2) }
    }

    /// What is remembered under `key`.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_the_oldest_and_never_grows_beyond_its_bound() {
        let mut map = Generations::new(10);
        for n in 0..1000 {
            map.insert(n, n);
            map.get(&0);
            assert!(map.young.len() + map.old.len() <= 10);
        }
        assert_eq!(map.get(&0), Some(&mut 0), "it was asked for all the time");
        assert_eq!(map.get(&999), Some(&mut 999));
        assert_eq!(map.get(&500), None);
        map.remove(&999);
        assert_eq!(map.get(&999), None);
    }

    #[test]
    fn with_a_bound_of_nothing_nothing_is_remembered() {
        let mut map = Generations::new(0);
        map.insert(1, 1);
        assert_eq!(map.get(&1), None);
    }
}
