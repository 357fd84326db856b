//! What a group leaves in the log, if a member's session is kept.
//!
//! ```text
//! body         group: varint length, `$share/NAME/FILTER` | the fact
//! 15 position  flags u8 (bit 0: something waits) | next varint | owed: LSN varint, …
//! 16 taken     LSN varint, …
//! 17 returned  LSN varint, …
//! ```
//!
//! *position*: everything before `next` was given out, but for what is owed; it is written when the
//! group begins to be kept, and about once a second while it changes. *taken*: given to a member for
//! good, behind the last position; of a member whose session is kept the session's own record of what
//! it sends says so (`listener::sessions`), so that no event costs two. *returned*: to be given out
//! again. The last record about an event counts, so that a part of the log may be applied twice.
//!
//! Records follow in the order of what happened: a position leaves nothing out that is not in the log
//! as taken before it. What is owed and was acknowledged since the last position may be given out
//! twice after a crash: only QoS 1, because QoS 2 is in the log as taken before it leaves.
//!
//! The state holds a position (and what is taken behind it) too, so that the log can go. There it says
//! whether something waited; where nothing did, the group has everything that the state covers.

use std::collections::BTreeSet;

use tidegate_event::record::write_control;
use tidegate_event::{Lsn, varint};

/// One fact about a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Where it stands.
    Position {
        /// The first event that may still be to be given out.
        next: Lsn,
        /// Whether one is.
        waits: bool,
        /// Events before that are to be given out.
        owed: BTreeSet<Lsn>,
    },
    /// These are given out for good.
    Taken(Vec<Lsn>),
    /// These are to be given out again.
    Returned(Vec<Lsn>),
}

/// Where a group stands: the sum of its records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The first event that may still be to be given out.
    pub next: Lsn,
    /// Whether one waited.
    pub waits: bool,
    /// Events before `next` that are to be given out.
    pub owed: BTreeSet<Lsn>,
    /// Events that are not, from `next` on.
    pub taken: BTreeSet<Lsn>,
}

/// Appends the control block that says that these events of `group` are to be given out again.
pub fn note_returned(group: &str, lsns: Vec<Lsn>, out: &mut Vec<u8>) {
    Record::Returned(lsns).write(group, out);
}

impl Record {
    /// Appends it, about `group`, as a control block.
    pub fn write(&self, group: &str, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(group.len() + 32);
        varint::write(group.len() as u64, &mut body);
        body.extend_from_slice(group.as_bytes());
        let control = match self {
            Self::Position { next, waits, owed } => {
                body.push(u8::from(*waits));
                varint::write(*next, &mut body);
                owed.iter().for_each(|lsn| varint::write(*lsn, &mut body));
                15
            }
            Self::Taken(lsns) => {
                lsns.iter().for_each(|lsn| varint::write(*lsn, &mut body));
                16
            }
            Self::Returned(lsns) => {
                lsns.iter().for_each(|lsn| varint::write(*lsn, &mut body));
                17
            }
        };
        write_control(control, &body, out);
    }

    /// Reads a control block: which group it is about, and what it says. None if it is not one of
    /// these, or makes no sense.
    pub fn read(control: u8, body: &[u8]) -> Option<(&str, Self)> {
        if !(15..=17).contains(&control) {
            return None;
        }
        let mut rest = body;
        let length = usize::try_from(varint::read(&mut rest, varint::MAX_BYTES)?).ok()?;
        let (group, mut rest) = rest.split_at_checked(length)?;
        let group = std::str::from_utf8(group).ok()?;
        let record = match control {
            15 => {
                let (flags, behind) = rest.split_first()?;
                rest = behind;
                let next = varint::read(&mut rest, varint::MAX_BYTES)?;
                let owed = numbers(rest)?.into_iter().collect();
                Self::Position { next, waits: flags & 1 != 0, owed }
            }
            16 => Self::Taken(numbers(rest)?),
            _ => Self::Returned(numbers(rest)?),
        };
        Some((group, record))
    }
}

fn numbers(mut bytes: &[u8]) -> Option<Vec<Lsn>> {
    let mut numbers = Vec::new();
    while !bytes.is_empty() {
        numbers.push(varint::read(&mut bytes, varint::MAX_BYTES)?);
    }
    Some(numbers)
}

impl Standing {
    /// A group that begins with the event `next`.
    pub fn new(next: Lsn) -> Self {
        Self { next, waits: true, ..Self::default() }
    }

    /// Takes in a record.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Position { next, waits, owed } => {
                // What a session has sent may be in the log before the group knows that it is.
                self.taken.retain(|lsn| *lsn >= next || owed.contains(lsn));
                self.owed = owed.difference(&self.taken).copied().collect();
                (self.next, self.waits) = (next, waits);
            }
            Record::Taken(lsns) => lsns.into_iter().for_each(|lsn| self.take(lsn)),
            Record::Returned(lsns) => {
                for lsn in lsns {
                    self.taken.remove(&lsn);
                    // From `next` on it comes anyway.
                    if lsn < self.next {
                        self.owed.insert(lsn);
                    }
                }
            }
        }
    }

    /// A member has this event for good.
    pub fn take(&mut self, lsn: Lsn) {
        self.owed.remove(&lsn);
        self.taken.insert(lsn);
    }

    /// The control blocks that make it anew: what the state holds.
    pub(super) fn encode(&self, group: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let Self { next, waits, owed, taken } = self;
        Record::Taken(taken.iter().copied().collect()).write(group, &mut out);
        Record::Position { next: *next, waits: *waits, owed: owed.clone() }.write(group, &mut out);
        out
    }
}
