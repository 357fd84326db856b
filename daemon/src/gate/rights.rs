//! What one client may do.

use tidegate_event::Filter;

/// One connection's rights: decides without a lock, and without an allocation for a topic that it has
/// seen lately.
#[derive(Debug, Clone, Default)]
pub struct Rights {}

impl Rights {
    /// Every right, for what is part of the gateway itself.
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether the client may publish to `topic`.
    pub fn may_publish(&mut self, _topic: &str) -> bool {
        true
    }

    /// Whether the client may subscribe to `filter`.
    pub fn may_subscribe(&mut self, _filter: &Filter) -> bool {
        true
    }

    /// Whether an event may be delivered to the client: what [`Rights::may_subscribe`] allowed may
    /// hold topics that are denied, and rights change.
    pub fn may_receive(&mut self, _topic: &str) -> bool {
        true
    }
}
