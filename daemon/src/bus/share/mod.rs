//! Shared subscriptions (MQTT 5.0 section 4.8.2): of each event that matches, one member of the group
//! gets one copy.
//!
//! All sessions that subscribe to the same `$share/NAME/FILTER` are a **group**. A group is a reader of
//! the log like a session: the bus puts live events into its queue (`limits.max-queued` bytes), and
//! behind that it goes on from the log. It is emptied by whoever of its members can send at once: a
//! member comes for events when its window is open and its client takes what is written, so one that is
//! slow, or away, holds nobody up. Those that wait are called in turn, and share what is there.
//!
//! What a member was given is on **loan** ([`Loan`]) until it is known for good: QoS 1 when the client
//! has acknowledged it, or when the log knows that the member's session has it in flight; QoS 2 when it
//! is sent, or when the log knows. A loan that ends before, however the connection ends, goes back to
//! the group, and to another member. So
//!
//! - QoS 1 in flight to a session that ends goes to another member; QoS 2 that was begun with a member
//!   is completed with that one or with nobody (`[MQTT-4.8.2-4]`, `[MQTT-4.8.2-5]`);
//! - what is in flight to a session that outlasts its connection stays with it until its client is back
//!   or the session ends;
//! - what a client refuses, or cannot take, is done with (`[MQTT-4.8.2-6]`).
//!
//! While no member has a connection, QoS 1 and 2 wait in the log for whoever is back first; QoS 0 is
//! lost. The group ends with its last subscription.
//!
//! A group with a member whose session is kept survives the daemon: see [`records`]. What it keeps of
//! the log counts against `limits.max-session-backlog`.

mod desk;
mod group;
mod groups;
mod lend;
mod loan;
mod member;
mod reading;
mod records;
mod save;
mod state;
#[cfg(test)]
mod tests;

use tidegate_event::Filter;

pub(super) use desk::{Desk, Joining};
pub(super) use group::Group;
pub use groups::Groups;
pub use loan::Loan;
pub(super) use member::Members;
pub use records::{Record, Standing, note_returned};

const PREFIX: &str = "$share/";

/// Whether `filter` is a shared subscription as a whole: `$share/NAME/FILTER`.
pub fn is_shared(filter: &Filter) -> bool {
    filter.as_str().starts_with(PREFIX)
}

/// Whether `text` claims to name a shared subscription.
pub fn names_share(text: &str) -> bool {
    text == "$share" || text.starts_with(PREFIX)
}

/// The FILTER of `$share/NAME/FILTER`. None where NAME is empty or has a wildcard, or no filter is
/// behind it (`[MQTT-4.8.2-1]`, `[MQTT-4.8.2-2]`).
pub fn shared_filter(text: &str) -> Option<Filter> {
    let (name, filter) = text.strip_prefix(PREFIX)?.split_once('/')?;
    let named = !name.is_empty() && !name.contains(['+', '#']);
    Filter::new(filter).ok().filter(|_| named)
}
