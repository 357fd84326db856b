//! What the log may take on disk, as others tell it.

use super::Log;

impl Log {
    /// Other files of the gateway have so much of `max_size`; the file system has so much left for the log, if
    /// that is known.
    pub fn set_room(&self, others: u64, left: Option<u64>) {
        let on_disk = self.shared.on_disk();
        let ceiling = left.map_or(u64::MAX, |left| on_disk.saturating_add(left));
        // One segment that is being rewritten, and one that holds control records beyond what is there for
        // events. Each may be an eighth longer than most.
        let segment = self.shared.queue.bounds().segment_size;
        let others = others.saturating_add(2 * segment + segment / 4);
        self.shared.lanes.set_room(others, ceiling);
        self.shared.make_room(0);
        self.shared.note_lanes();
        self.shared.queue.look_again();
    }

    /// Bytes of retained events and control records that were taken since it was opened: they are written to
    /// the state too.
    pub fn stateful(&self) -> u64 {
        self.shared.lanes.stateful()
    }

    /// The first so many of these bytes are among what [`Log::set_room`] was told. Until this is called for
    /// the first time, they do not count.
    pub fn set_counted(&self, stateful: u64) {
        self.shared.lanes.set_counted(stateful);
    }

    /// Bytes on disk beyond which it takes no events, where the file system has the room: what other files leave
    /// of `max_size`.
    pub fn budget(&self) -> u64 {
        self.shared.lanes.budget()
    }

    /// Bytes of its segments on disk, used or not.
    pub fn on_disk(&self) -> u64 {
        self.shared.on_disk()
    }
}
