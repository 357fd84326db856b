//! An entry of the ledger.

use std::ops::RangeInclusive;

use tidegate_event::{Lane, Lsn};

pub(super) const ENTRY_LEN: usize = 48;
pub(super) const MAGIC: [u8; 4] = *b"TGL1";
const CRC_AT: usize = 44;

/// Why events are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The bytes on disk are not what was written; what is left of them is in `quarantine/`.
    Damaged = 1,
    /// They are not there: a segment file, or the end of the log.
    Missing = 2,
    /// Removed while a sink had not got them: its cursor was lost, or stood further than it does.
    Released = 3,
    /// Older than its lane's `max-age`, or than the publisher said that anybody has a use for it.
    Expired = 4,
    /// Its lane was full, and drops its oldest events, or new ones.
    Dropped = 5,
    /// Its lane was full, and old events of it are thinned out.
    Thinned = 6,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Damaged, Self::Missing, Self::Released, Self::Expired, Self::Dropped, Self::Thinned];

    /// Whether the config asked for it.
    pub(super) fn is_purpose(self) -> bool {
        matches!(self, Self::Expired | Self::Dropped | Self::Thinned)
    }

    /// One word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Missing => "missing",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::Thinned => "thinned",
        }
    }
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// In which lane.
    pub lane: Lane,
    /// Which LSNs.
    pub lsns: RangeInclusive<Lsn>,
    /// How many of them at most: fewer than the range has where others lie between them, or entries were merged.
    /// Where a second sink passes over expired events between those of the first, which others it has is not
    /// counted.
    pub count: u64,
    /// Why.
    pub reason: Reason,
    /// When it was noticed, in microseconds since 1970-01-01T00:00:00Z.
    pub unix_micros: i64,
}

impl Loss {
    /// A loss that is noticed now.
    pub fn now(lane: Lane, lsns: RangeInclusive<Lsn>, reason: Reason) -> Self {
        Self { lane, count: len(&lsns), lsns, reason, unix_micros: crate::clock::unix_micros() }
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        entry[0..4].copy_from_slice(&MAGIC);
        entry[4] = self.lane.0;
        entry[5] = self.reason as u8;
        entry[8..16].copy_from_slice(&self.lsns.start().to_le_bytes());
        entry[16..24].copy_from_slice(&self.lsns.end().to_le_bytes());
        entry[24..32].copy_from_slice(&self.count.to_le_bytes());
        entry[32..40].copy_from_slice(&self.unix_micros.to_le_bytes());
        let crc = crc32c::crc32c(&entry[..CRC_AT]);
        entry[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        entry
    }

    pub(super) fn decode(entry: &[u8; ENTRY_LEN]) -> Option<Self> {
        let u64_at = |at: usize| {
            entry[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        let crc = crc32c::crc32c(&entry[..CRC_AT]).to_le_bytes();
        let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == entry[5])?;
        (entry.starts_with(&MAGIC) && entry[CRC_AT..] == crc).then(|| Self {
            lane: Lane(entry[4]),
            lsns: u64_at(8)..=u64_at(16),
            count: u64_at(24),
            reason,
            unix_micros: u64_at(32) as i64,
        })
    }

    /// Whether it says something of these LSNs.
    pub(super) fn concerns(&self, lsns: &RangeInclusive<Lsn>) -> bool {
        self.lsns.start() <= lsns.end() && self.lsns.end() >= lsns.start()
    }

    /// Whether it says all that the other one does: of what is lost in part only, what ends with the same event is
    /// the same, or what is left of it for who comes back after a crash.
    pub(super) fn says(&self, other: &Self) -> bool {
        (self.is_whole() || self.lsns.end() == other.lsns.end()) && self.covers(other)
    }

    /// Whether it may say all that the other one does: of a range that is lost in part, only the reason and the
    /// number tell.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_meant = self.is_whole() || self.reason == other.reason;
        self.lane == other.lane
            && is_meant
            && self.count >= other.count
            && self.lsns.start() <= other.lsns.start()
            && self.lsns.end() >= other.lsns.end()
    }

    /// How many LSNs the range has.
    fn len(&self) -> u64 {
        len(&self.lsns)
    }

    /// Whether all LSNs of the range are lost.
    fn is_whole(&self) -> bool {
        self.count == self.len()
    }

    /// Both in one entry: from the first LSN of the one to the last of the other. As many events are
    /// lost as in both together, and no more than the range has.
    pub(super) fn merge(&mut self, other: &Self) {
        let (start, end) = (self.lsns.start(), self.lsns.end());
        self.lsns = *start.min(other.lsns.start())..=*end.max(other.lsns.end());
        self.count = self.count.saturating_add(other.count).min(self.len());
        self.unix_micros = self.unix_micros.max(other.unix_micros);
    }

    fn touches(&self, next: &Self) -> bool {
        self.is_like(next) && *next.lsns.start() <= self.lsns.end().saturating_add(1)
    }

    fn is_like(&self, other: &Self) -> bool {
        (self.lane, self.reason) == (other.lane, other.reason)
    }
}

fn len(lsns: &RangeInclusive<Lsn>) -> u64 {
    lsns.end().saturating_sub(*lsns.start()).saturating_add(1)
}

/// What of a run of LSNs no entry accounts for, whatever their lanes are. Of ranges that are lost in part nobody
/// knows which: they account for what others leave if, within it, they are as many.
pub(super) fn unaccounted<'a>(
    entries: impl Iterator<Item = &'a Loss>,
    run: &RangeInclusive<Lsn>,
) -> Vec<RangeInclusive<Lsn>> {
    let near: Vec<&Loss> = entries.filter(|loss| loss.concerns(run)).collect();
    let mut whole: Vec<&Loss> = near.iter().copied().filter(|loss| loss.is_whole()).collect();
    whole.sort_by_key(|loss| *loss.lsns.start());
    let (mut left, mut next) = (Vec::new(), *run.start());
    for loss in whole {
        if *loss.lsns.start() > next {
            left.push(next..=loss.lsns.start() - 1);
        }
        next = next.max(loss.lsns.end().saturating_add(1));
    }
    if next <= *run.end() {
        left.push(next..=*run.end());
    }
    left.retain(|piece| {
        let within =
            |loss: &&&Loss| piece.start() <= loss.lsns.start() && loss.lsns.end() <= piece.end();
        let within: Vec<&Loss> = near.iter().filter(within).copied().collect();
        let of = |lane, reason| {
            let is_it = |loss: &&&Loss| (loss.lane, loss.reason) == (lane, reason);
            within.iter().filter(is_it).map(|loss| loss.count).fold(0, u64::saturating_add)
        };
        let mut lanes: Vec<Lane> = within.iter().map(|loss| loss.lane).collect();
        lanes.sort_unstable();
        lanes.dedup();
        // What has expired may have been dropped too; what was thinned out was not.
        let lost = lanes.into_iter().map(|lane| {
            of(lane, Reason::Expired)
                .max(of(lane, Reason::Dropped).saturating_add(of(lane, Reason::Thinned)))
        });
        lost.fold(0, u64::saturating_add) < len(piece)
    });
    left
}

/// Merges entries until there are no more than `most`, in the order of their LSNs: first those
/// that lie beside each other, which loses nothing; then neighbours of one lane and reason, so that what
/// lies between them seems lost too.
pub(super) fn merge(mut entries: Vec<Loss>, most: usize) -> Vec<Loss> {
    entries.sort_by_key(|loss| (loss.lane, loss.reason as u8, *loss.lsns.start()));
    let mut merged: Vec<Loss> = Vec::new();
    for loss in entries {
        match merged.last_mut() {
            Some(last) if last.touches(&loss) => last.merge(&loss),
            _ => merged.push(loss),
        }
    }
    while merged.len() > most {
        let before = merged.len();
        let mut pairs: Vec<Loss> = Vec::new();
        let mut alone = false;
        for loss in merged {
            match pairs.last_mut() {
                Some(last) if alone && last.is_like(&loss) => {
                    last.merge(&loss);
                    alone = false;
                }
                _ => {
                    pairs.push(loss);
                    alone = true;
                }
            }
        }
        merged = pairs;
        if merged.len() == before {
            break;
        }
    }
    merged.sort_by_key(|loss| *loss.lsns.start());
    merged
}
