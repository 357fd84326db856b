//! An event in the hands of one member.

use std::sync::Arc;

use tidegate_event::{Lsn, Qos};

use super::Group;

/// An event that a group has given to a member. Dropped unsettled, it goes back.
#[derive(Debug)]
pub struct Loan {
    group: Arc<Group>,
    lsn: Lsn,
    /// Whether the log knows that it was given: the member's session is not kept, and may not tell.
    recorded: bool,
    /// Whether the session of the member is kept.
    kept: bool,
    settled: bool,
}

impl Loan {
    pub(super) fn new(group: Arc<Group>, lsn: Lsn, recorded: bool, kept: bool) -> Self {
        Self { group, lsn, recorded, kept, settled: false }
    }

    /// The group's `$share/NAME/FILTER`.
    pub fn group(&self) -> &Arc<str> {
        self.group.key()
    }

    /// Whether it may be sent with `qos`. QoS 2 that nobody would remember after a crash may not: the
    /// group has come to outlast this one since, and would give it to another member too.
    pub fn may_leave(&self, qos: Qos) -> bool {
        qos < Qos::ExactlyOnce || self.kept || self.recorded || !self.group.is_kept()
    }

    /// The group need not know of it any more.
    pub fn settle(mut self) {
        self.settled = true;
        self.group.settle(self.lsn);
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if !self.settled {
            self.group.give_back(self.lsn, self.recorded);
        }
    }
}
