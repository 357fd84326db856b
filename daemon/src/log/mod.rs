//! The log: events on disk, in order, before anybody is told that they are.
//!
//! # Constraints
//!
//! - An appender is answered after an fdatasync that covers its block. All that wait for the disk are
//!   answered by one (group commit).
//! - LSNs count events, from 1, without gaps. An event keeps its LSN and so its id for good.
//! - An event that is dropped on purpose stands in the loss ledger before it goes; and its LSN stays.
//! - Opening never needs a person: what cannot be used is set aside, what cannot be read is entered in
//!   the loss ledger, the rest is served. Only a newer format, a second process, or a directory that
//!   cannot be used refuses.
//! - Memory: two frames, one more with compression, and at most 4 × `max_bytes` of blocks that wait. With the
//!   backlog it grows by about half a KiB a segment. Damage takes at most 2.5 MiB while it is searched and copied,
//!   however large it is; downsampling, what 65,536 topics and intervals take.
//! - Disk: `max_size`, over all segment files and spares; control records and records of what is gone may take
//!   one segment more, and so may one that is being rewritten. One that was removed takes its room for as long as
//!   a reader has it open. Beside them `max_quarantine` for what is set aside, and `max_ledger`,
//!   twice that while it is written anew. [`Log::set_room`] says what of `max_size` other files have, and
//!   what the file system has left: then all of that together stays within `max_size`.
//!
//! # On disk
//!
//! One directory: `<first LSN, 20 digits>-<sequence, 8 hex digits>.seg`, `segment.new`
//! (one that is being created), `segment.rewritten` (one that is to take the place of others), `lanes` (their
//! names and numbers, `lane/names.rs`; `lanes.new` while it is written), `beginning` (where the log begins,
//! `beginning.rs`), `<sequence, 8 hex digits>.spare`, `ledger` (`ledger.new` while it is written anew), `lock`,
//! `quarantine/` (numbered files; the oldest make room for new ones). Integers are little-endian; checksums are
//! CRC-32C.
//!
//! A **segment** begins with two copies of its header, one in each of its first two sectors of 512
//! bytes; either will do:
//!
//! ```text
//! magic "tidegate" | format version u32 (5) | number of the log u32 (0) | epoch u64 | sequence u64
//! | first LSN u64 | salt u64 | durable bytes of the segment before u64
//! | sequence of the segment before, counted backwards from this one, u32 | CRC u32 of the 60 bytes before
//! | what it stands for, and what each lane has: 448 bytes with a checksum of their own (`segment/figures.rs`)
//! ```
//!
//! The epoch is drawn when the log is created and is the same in all its segments; the sequence
//! counts attempts to create a segment; the salt is drawn for each segment. The segment before is the newest
//! one that held a frame, there or released. Where there is no segment
//! before, its two fields are 0, as in version 1, which had no control records either. Version 2 had no
//! compression; version 3 had zeros behind the first checksum, and no lanes; version 4
//! no topics that stand earlier in their block. Magic, version and checksum keep their places in every later version.
//!
//! A **frame** is one group commit:
//!
//! ```text
//! magic "TGF1" | payload length u32 | events u32 | flags u32 | LSN of the first event u64
//! | CRC u32 of the salt, the 24 bytes before, the payload | payload: blocks (`tidegate_event::record`)
//! ```
//!
//! Flags: bit 0, an event is to be retained; bit 1, there are control records, or events with a
//! packet id; bits 8 to 15, compression of the payload (0, none; 1, LZ4's
//! block format; 2, deflate; both behind the length of the payload, u32). A frame whose checksum is right and
//! that cannot be inflated is damage. The salt ties a frame to its segment: bytes of an older use of the same disk
//! blocks, or a frame inside a payload, do not verify. The file of a segment may go on behind the last frame, with
//! what was allocated ahead or is left of an older use. The log ends at the first frame that does not verify with
//! none behind it that does.
//!
//! A **spare** is the file of a segment that was released, kept to be written over by a later one (`spare.rs`);
//! what is in it means nothing. All of them together take at most an eighth of `max_size`, or are one.
//!
//! Beneath lies a [`Storage`]: the machine's own file system, or ([`Engine::Sled`]) one whose segments lie in
//! sled databases (`storage/sled.rs`). All of this is the same over both.
//!
//! # Writing
//!
//! [`Log::append`] copies a block behind those that wait. One thread takes what waits as a frame of at
//! most `max_bytes` (a larger block has a frame of its own), compresses it where that is wanted and saves
//! something, writes it with one write and one fdatasync,
//! publishes it to the readers, and answers its appenders. Meanwhile the next frame fills: the slower
//! the disk, the larger the groups. `max_delay` makes a frame wait for more; so does a daily budget of what
//! is written, up to `max_stretch`, while it is being used up too fast (`wear.rs`). Each frame is synced before
//! the next is written, so a crash can tear the last frame only, and a bad frame with good ones
//! behind it is damage.
//!
//! A segment that a frame would take beyond `segment_size` is followed by a new one, unless more than a
//! sixteenth of it would stay empty and the frame reaches beyond it by an eighth at most. The new one is created
//! as `segment.new`, header and frame written, fdatasync, renamed, directory fsync. So what has a segment's name
//! has its header, and not one that an earlier attempt left in the same disk blocks. Where there is a spare, its
//! header and the frame are written and fdatasync'd under the name that it has, and then it is renamed. A file
//! of either kind is allocated up to `segment_size`, if `max_size` and the disk have the room. What it has behind
//! its last frame when the next segment has begun stays, and counts as used, if that is a sixteenth at most;
//! otherwise it is cut there, as it is when the log is closed: a cut, and the allocation for the next use of the
//! file, both wait for the file system's journal. Where the file goes on behind a frame,
//! the page in which that ends is written whole, so that none is read first.
//!
//! After a failed write or fdatasync nobody knows what the file holds. The segment is abandoned, cut
//! behind its last durable frame if the disk lets us, and the frame is tried once more in a new segment,
//! under the same LSNs; where it was to be the first of a new one, in the one before, if that can go on, which
//! grows until a new one can be begun: that is tried again after each sixteenth of `segment_size`. **A segment
//! overrides those of lower sequence from its first LSN on.** If that fails too, the frame and all that wait are
//! not stored ([`NotStored`]), and appenders are refused ([`Append::Unavailable`]) while the writer probes, after
//! 100 ms and then ever later up to 10 s, by creating a segment and filling it with as many zeros as the next
//! frame may take. A full disk (ENOSPC) is the same case; spares go first. A segment that could not be created is
//! unlinked, durably, before the one before it takes more: coming back, it would override that.
//!
//! # Lanes
//!
//! All lanes share the segments, the LSNs and the fdatasync; a record says which lane it is in, and the
//! topic says which when it is appended ([`Lanes::of`]). A lane with a `max_size` has so many bytes of
//! records for itself, and no more; lane 0 has what the others leave. What each has is counted for each
//! segment: the header of the next one says it, so opening need not read it. When there is no room:
//!
//! - *reject*: its events are refused ([`Append::Full`]), others are not;
//! - *drop newest*: an event has an LSN, and a record that says that it is gone, in the same commit; the
//!   ledger says so once a second ([`Log::enter_gone`]), and until then the record. No segment is begun before
//!   the ledger has it on disk: until it can be written the newest one grows. So what is not entered yet is
//!   in the newest segment, which is read when the log is opened;
//! - *drop oldest*, *downsample*: appenders wait ([`Append::Busy`]) while [`Log::trim`] makes room. It begins
//!   when a sixteenth of the quota is left, so that few ever wait.
//!
//! *Making room*, a segment at a time, the oldest that has events of the lane; never the newest one, nor
//! one that checkpoints of the state do not cover, with its control records ([`Covered`]). What goes, and
//! some sink has not got, is entered in the ledger, durably. Where nothing else is in the oldest segment it is
//! unlinked. Otherwise what stays is written to `segment.rewritten` with a salt of its own, events that go
//! as *gone* (LSNs of no event, many in a few bytes), fdatasync, and renamed over the segment; the directory
//! is synced. One that was rewritten and is small takes up the next one: its header says through which
//! sequence it stands for others, which are unlinked last. Its own control records are gone, so
//! [`Log::restore`] begins behind it. A lane in which there is nothing to drop keeps none from the others.
//!
//! *Downsampling* keeps one event a topic and interval (`trim/thin.rs`); once all old segments are thinned
//! out, the oldest events are dropped. *Expiry*: events older than the lane's `max_age` go once all of their
//! segment are ([`Log::expire`]); who forwards passes over them before.
//!
//! # Reading
//!
//! A [`Reader`] holds one segment file open and reads large pieces, up to what was committed when it began to
//! look, checking each frame, and inflates no more of them at a time than it was asked for. Damage is searched for
//! the next good frame, a piece at a time (`scan.rs`), copied to `quarantine/`, entered in the ledger, and answered
//! as [`Read::Lost`]; so is a segment file that vanished. A sector that the disk cannot read is damage. A file that
//! is not there any more is read on while it is open; where it
//! is damaged, or written over, the reader looks for the segment that stands for it now.
//!
//! A [`View`] looks at the directory from outside, beside a daemon that has it open: it takes no lock and
//! changes nothing (where segments lie in sled databases, which only one may have open, it takes the lock). What
//! recovery would do is done in memory, by the same code; then it follows the frames and segments that are
//! written; segments that it did not see before they were merged it finds in the one that stands for them. What is
//! read there may be one commit ahead of its fdatasync. A time leads to the segment that holds it, by a binary
//! search over the first events of the segments; there is no index to keep.
//!
//! # Control records
//!
//! What must be durable before an answer leaves, and is no event: a session's subscription, a packet
//! id that is free again. [`Log::append_control`] hands over whole control blocks; they join the same
//! frames and the same fdatasync. They take no LSN: a frame of control records alone counts 0 events, and
//! its first LSN is the next one. [`Reader`]s pass over such frames, and [`Log::committed`] does not
//! move for them; [`Log::restore`] reads them too, up to the physical end.
//!
//! A full log must not keep a handshake waiting that would end something: so control records have
//! one `segment_size` beyond `max_size`; behind that they are refused like events ([`Append::Full`]).
//!
//! Who rebuilds something from control records has two rules to follow:
//!
//! - *A record has its effect in memory before it is appended*: what is saved to disk afterwards covers
//!   every record that is durable.
//! - *It releases one LSN less than it covers.* The records behind its last event may be newer than what
//!   it saved, so it applies them again, from [`Log::restore`] with the next LSN on. The last record
//!   for a key wins: applied twice they change nothing.
//!
//! Where control records come and no events, the LSN stands still and nothing could be released. So
//! before it saves, it takes a [`Log::control_mark`], and afterwards [`Log::release_control`] says that
//! what lies in older segments is covered, where their events are. So segments go that lie between others
//! which sinks still need; what lies before such a hole is covered, and [`Log::restore`] passes over it: old
//! records must not be applied again without those that came after them.
//!
//! Damage that costs control records and no event has no LSN, and no entry in the ledger: it is logged,
//! counted, and kept in `quarantine/`.
//!
//! # Releasing
//!
//! [`Log::release`] unlinks segments below an LSN, or renames them to spares, the oldest first, and syncs the
//! directory behind each; only then is a spare written over. Before, `beginning` says, durably, where the log
//! begins without them: so that an oldest segment that vanishes is not taken for one that was released. A
//! segment of which the ledger says something that is not on disk stays. One that a reader has open is unlinked.
//! Who has one open from outside meets what looks like damage, finds that the file is gone, and takes it for
//! released. The newest segment always stays, because LSNs and epoch go on from it; when appenders lack room
//! while all is released, the writer begins a new one, so that the last one can go too.
//!
//! # Recovery
//!
//! The directory is locked. All headers are read; a newer version refuses, before anything is
//! changed. Set aside in `quarantine/`: files with other names, what has the name of a file of the log and cannot
//! be one, segments of another lane or epoch, segments too short for a header. What is missing between where the log is to begin (`beginning`) and its
//! oldest segment is entered in the ledger. Segments whose place another one has taken are removed. A segment
//! whose two header copies are damaged is set aside too, with the LSNs that it may have held in the ledger; LSNs
//! go on behind them.
//!
//! What an older segment holds follows from the header of the next: its first LSN, and where the
//! segment before it ended; of one that was rewritten, from its own. Its frames are checked when they are read.
//! Where a sequence is missing the segment before is read to its end, and a gap is entered in the ledger. The
//! newest segment is read to its end: a bad frame with good ones behind it is copied to `quarantine/` and entered
//! in the ledger; a bad frame with none behind it is a torn tail, and is cut. Where nothing from the last frame on
//! says that it is a frame with that LSN or a later one, the log ends there, and the rest of the file stays: to
//! find that out it is read, a piece at a time. What it says is gone and the ledger does not is entered. What
//! older segments have behind their end is cut, if it is more than a sixteenth of their file. Then header and last
//! frame are written again and fdatasync'd before anything is served: what a crash of the process alone left in
//! the page cache may not be on disk, and after a failed fdatasync the kernel calls it clean all the same. If that
//! fails, the log goes on in a new segment.
//!
//! A log that ends before an event that somebody has read (a disk that lied about a flush, or a damaged
//! tail) goes on behind that event, in a new segment, and the gap is entered in the ledger: an LSN that is
//! known outside, as an id in the cloud, as a cursor, never means another event.
//!
//! # What a crash loses
//!
//! No event that was answered. Events that were not may be there or not, as with any lost answer. If the
//! very last frame is damaged while the log is closed, it cannot be told from a torn tail: it is cut, and
//! nothing is entered in the ledger, unless somebody had read it. If the disk fails while the log is opened *and*
//! the power goes later, a last frame that nobody was answered may have been read and be gone.

// One group commit on disk,
mod frame;
// smaller, if somebody wants that,
mod compress;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
// many of them in a file, many files in a table,
mod segment;
// read one after the other, past damage.
mod scan;
// and used again.
mod spare;
// Appenders leave blocks here,
mod queue;
// one thread makes them durable,
mod writer;
// and readers follow; one of them once, at the start.
mod reader;
mod restore;
// What opening does,
mod recovery;
// what it sets aside,
mod quarantine;
// what it misses at the front,
mod beginning;
// what is lost.
mod ledger;
// Its parts,
mod lane;
// the room that there is,
mod room;
// and how more is made.
mod gone;
mod rewrite;
mod trim;
// What all of them share,
mod shared;
// what an operator may choose,
mod options;
// what is shown: the figures,
mod metrics;
// how it wears the flash,
mod wear;
// and why it takes no events.
mod refusing;
// The disk.
pub mod storage;
// What is said to who opens it, appends to it, and watches it.
mod claim;
mod commit;
mod usage;
// And to who looks at it from outside.
mod view;

#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tidegate_event::record::InLanes;
use tidegate_event::{BlockBuilder, EventId, Lane, Lsn};
use tokio::sync::watch;

pub use claim::Claim;
pub use commit::{Append, Commit, NotStored};
pub use compress::Compression;
pub use lane::{
    Admission, DEFAULT as DEFAULT_LANE, Downsample, Keep, LaneOptions, LaneUsage, Lanes, Rule,
    WhenFull,
};
pub use ledger::{Ledger, Loss, Losses, Reason};
pub use metrics::Metrics;
pub use options::Options;
pub use reader::{Chunk, Frame, Read, ReadError, Reader};
pub use recovery::{OpenError, Recovery};
pub use refusing::Refusing;
pub use restore::Restore;
pub use storage::overlay::Change;
pub use storage::{Engine, FileSystem, Storage, is_full};
pub use trim::Covered;
pub use usage::Usage;
pub use view::{Damage, FrameInfo, SegmentInfo, View, Walked, Watch};
pub use wear::Written;

use crate::progress::Progress;
use queue::{Need, Refusal};
use shared::Shared;

const LOCK: &str = "lock";
const LEDGER: &str = "ledger";

/// One lane's log. Shared: appenders, readers and the writer thread each hold it. Dropping it commits
/// what waits, and waits for that; [`Log::close`] does so without blocking.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens or creates the log and starts its writer thread.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: Options,
    ) -> Result<(Arc<Self>, Recovery), OpenError> {
        Claim::new(storage, options)?.open(None)
    }

    /// Hands a block to the writer. Never waits for the disk. A block of more than a quarter of
    /// `max_size` may never fit.
    pub fn append(&self, block: &mut BlockBuilder) -> Append {
        let mut flags = if block.has_retained() { frame::HAS_RETAINED } else { 0 };
        if block.has_packet_id() {
            flags |= frame::HAS_CONTROL;
        }
        let (count, payload) = (block.count(), block.payload_bytes());
        block.finish();
        let append = self.submit(block.bytes(), (count, flags), block.lanes());
        if matches!(append, Append::Accepted(_)) {
            self.shared.wear.took(payload);
        }
        append
    }

    /// Hands whole control blocks to the writer ([`tidegate_event::record::write_control`]), which
    /// all go into one frame. Never waits for the disk. They may take a segment beyond `max_size`.
    pub fn append_control(&self, blocks: &[u8]) -> Append {
        self.submit(blocks, (0, frame::HAS_CONTROL), &InLanes::default())
    }

    fn submit(&self, blocks: &[u8], head: (u32, u32), parts: &InLanes) -> Append {
        let Shared { queue, lanes, .. } = &*self.shared;
        match queue.append(blocks, head, parts, || self.shared.bytes(), lanes) {
            Ok(commit) => Append::Accepted(Commit::of(commit)),
            Err(Refusal::Pressed) => {
                self.shared.trim.notify_one();
                Append::Busy
            }
            Err(Refusal::Full) => {
                self.shared.roll_if_drained();
                Append::Full
            }
            Err(Refusal::Busy) => Append::Busy,
            Err(Refusal::Unavailable) => Append::Unavailable,
        }
    }

    /// Resolves when it is worth trying [`Log::append`] again with a block of `bytes`
    /// ([`BlockBuilder::len`]) in lane 0 that was refused; never, once the log is closed.
    pub async fn room(&self, bytes: usize) {
        self.wait_for(Need::in_lane_0(bytes as u64)).await;
    }

    /// As [`Log::room`], for a block that takes this in each lane ([`BlockBuilder::lanes`]).
    pub async fn room_for(&self, parts: &InLanes) {
        let bytes: u64 = parts.iter().map(|part| part.bytes).sum();
        self.wait_for(Need::events(bytes as usize, parts)).await;
    }

    /// As [`Log::room`], for [`Log::append_control`] with this many bytes.
    pub async fn control_room(&self, bytes: usize) {
        self.wait_for(Need::control(bytes)).await;
    }

    async fn wait_for(&self, need: Need) {
        let Shared { queue, lanes, .. } = &*self.shared;
        queue.room(need, || self.shared.bytes(), lanes).await;
    }

    /// Its lanes.
    pub fn lanes(&self) -> &Lanes {
        &self.shared.lanes
    }

    /// Resolves when a lane that refused or dropped events takes them again; never, once the log is
    /// closed.
    pub async fn lane_room(&self, lane: Lane) {
        let takes = || self.shared.admission(lane) == Admission::Takes;
        self.shared.queue.until(takes).await;
    }

    /// Whether a lane takes events now.
    pub fn admission(&self, lane: Lane) -> Admission {
        self.shared.admission(lane)
    }

    /// What a lane holds.
    pub fn lane_usage(&self, lane: Lane) -> LaneUsage {
        self.shared.note_lanes();
        self.shared.lanes.usage(lane)
    }

    /// The newest durable LSN; 0 when there never was one.
    pub fn committed(&self) -> Lsn {
        self.shared.committed()
    }

    /// Follows [`Log::committed`].
    pub fn watch(&self) -> watch::Receiver<Lsn> {
        self.shared.watch.subscribe()
    }

    /// The id of the event at `lsn`.
    pub fn id(&self, lsn: Lsn) -> EventId {
        EventId { epoch: self.shared.epoch, lane: self.shared.lane, lsn }
    }

    /// A reader whose first event is the one at `from`, or the oldest after it. A `from` beyond
    /// the next LSN belongs to another log: then it begins with the oldest event.
    pub fn reader(self: &Arc<Self>, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// A reader of all frames from the one that holds `from` on, and of control records behind the
    /// last event too.
    pub fn restore(self: &Arc<Self>, from: Lsn) -> Restore {
        Restore::new(Arc::clone(&self.shared), from)
    }

    /// A place for [`Log::release_control`]: the control records that are durable now, but for the
    /// newest.
    pub fn control_mark(&self) -> u64 {
        self.shared.table().0.last().map_or(0, |newest| newest.header.sequence)
    }

    /// Nobody needs control records below `mark` any more, a [`Log::control_mark`] from before they
    /// were saved: [`Log::release`] removes segments that hold nothing else, whatever their LSN.
    /// Segments with events from `next` on, and those behind them, stay: what is read again there must
    /// not lack what came later.
    pub fn release_control(&self, mark: u64, next: Lsn) {
        let mark = self.shared.table().covered(mark, next);
        self.shared.released_control.fetch_max(mark, Ordering::AcqRel);
    }

    /// Nobody needs what lies before the event `before` any more: segments that hold nothing else are
    /// removed. Waits for the file system, a few milliseconds a segment.
    pub fn release(&self, before: Lsn) {
        let before = before.min(self.committed() + 1);
        self.shared.released.fetch_max(before, Ordering::AcqRel);
        self.shared.remove_released();
        self.shared.roll_if_drained();
        self.shared.queue.released();
    }

    /// How far its writer is: a step is a commit, or an attempt at one.
    pub fn progress(&self) -> Progress {
        self.shared.queue.progress()
    }

    /// Commits what waits, then stops the writer; later appends answer [`Append::Unavailable`].
    pub async fn close(&self) {
        self.shared.queue.close();
        self.stopped().await;
    }

    /// Dropping it does not wait for the writer any more: for who gave up a disk that hangs.
    pub fn abandon(&self) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Resolves when the writer has ended: the log takes nothing any more. Without [`Log::close`] that
    /// is a fault.
    pub async fn stopped(&self) {
        // The sender lives as long as this log.
        let _ = self.shared.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.queue.close();
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic there was reported by the panic hook.
            let _ = writer.join();
        }
    }
}
