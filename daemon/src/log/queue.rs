//! Between the appenders and the writer: frames that fill while the one before them is synced.

mod batch;
mod need;
mod state;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_event::record::InLanes;
use tokio::sync::{Notify, oneshot};

use super::frame;
use super::lane::Lanes;
use crate::progress::Progress;
pub(super) use batch::{Answer, Batch};
pub(super) use need::{Bounds, Need};
use state::State;

/// Emptied frames kept for the next ones: while one is written, one fills.
const SPARE: usize = 2;

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Write this frame.
    Commit(Batch),
    /// Begin a new segment, so that the released one before it can go.
    Roll,
    /// See whether the disk takes writes again.
    Probe,
    /// Everything is written, and nothing will follow.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    /// The oldest events of a lane are to make room; that is under way.
    Pressed,
    Busy,
    Unavailable,
}

#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    wake: Condvar,
    room: Notify,
}

impl Queue {
    pub(super) fn new(bounds: Bounds) -> Self {
        let state = State {
            frames: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            wanted: 0,
            stretch: Duration::ZERO,
            retry: None,
            roll: false,
            closing: false,
            steps: 0,
            working: false,
        };
        Self { bounds, state: Mutex::new(state), wake: Condvar::new(), room: Notify::new() }
    }

    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies a block in, with what it takes in each lane: nothing, where it is a control block.
    /// `on_disk` is what the segments hold.
    pub(super) fn append(
        &self,
        block: &[u8],
        (count, flags): (u32, u32),
        parts: &InLanes,
        on_disk: impl FnOnce() -> u64,
        lanes: &Lanes,
    ) -> Result<oneshot::Receiver<Answer>, Refusal> {
        let need = Need::events(block.len(), parts);
        let mut state = self.lock();
        // Not before: a frame that gets there meanwhile would count nowhere.
        let on_disk = on_disk();
        if let Err(refusal) = state.fits(&need, on_disk, &self.bounds, lanes) {
            if matches!(refusal, Refusal::Full | Refusal::Pressed) {
                state.wanted = need.bytes;
            }
            lanes.note(state.total(on_disk, &self.bounds));
            return Err(refusal);
        }
        lanes.add(parts);
        if flags & (frame::HAS_RETAINED | frame::HAS_CONTROL) != 0 {
            lanes.add_stateful(need.bytes);
        }
        if need.bytes >= state.wanted {
            state.wanted = 0;
        }
        let idle = state.frames.is_empty();
        let joins = state.frames.back().is_some_and(|back| {
            back.bytes.len() + block.len() <= self.bounds.max_bytes + frame::HEADER_LEN
        });
        if !joins {
            let mut batch = state.spare.pop().unwrap_or_else(Batch::new);
            batch.since = Instant::now();
            batch.counted = frame::HEADER_LEN;
            state.bytes += frame::HEADER_LEN;
            state.frames.push_back(batch);
        }
        state.bytes += block.len();
        let (answer, commit) = oneshot::channel();
        if let Some(batch) = state.frames.back_mut() {
            batch.push(block);
            batch.count += count;
            batch.flags |= flags;
            batch.lanes.extend(parts);
            batch.waiting.push((count, answer));
        }
        // The writer sleeps only when there is no frame, or for a delay that a full frame ends. While it
        // works there is nobody to wake: it looks again behind that.
        let may_sleep = idle || !joins || !state.delay(&self.bounds).is_zero();
        if may_sleep && !state.working {
            self.wake.notify_one();
        }
        lanes.note(state.total(on_disk, &self.bounds));
        Ok(commit)
    }

    /// Counts so many bytes more as on disk, in `on_disk`, if all that waits has room beside them. Nobody is
    /// let in meanwhile.
    pub(super) fn count(&self, on_disk: &AtomicU64, more: u64, max_size: u64) -> bool {
        let state = self.lock();
        let total = state.total(on_disk.load(Ordering::Acquire), &self.bounds);
        let fits = total + more <= max_size;
        if fits {
            on_disk.fetch_add(more, Ordering::AcqRel);
        }
        fits
    }

    /// Bytes that are used up once all that waits is on disk.
    pub(super) fn total(&self, on_disk: u64) -> u64 {
        self.lock().total(on_disk, &self.bounds)
    }

    /// Notes which lanes are full as things stand, and answers what `look` sees then: what is noted
    /// elsewhere may be old by a moment.
    pub(super) fn note<T>(
        &self,
        on_disk: impl FnOnce() -> u64,
        lanes: &Lanes,
        look: impl FnOnce() -> T,
    ) -> T {
        let state = self.lock();
        lanes.note(state.total(on_disk(), &self.bounds));
        look()
    }

    /// The writer's next work; waits for it.
    pub(super) fn next(&self) -> Work {
        let mut state = self.lock();
        state.steps += 1;
        state.working = false;
        loop {
            state = match state.work(Instant::now(), &self.bounds) {
                Ok(work) => {
                    state.working = true;
                    return work;
                }
                Err(None) => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Err(Some(until)) => {
                    let limit = until.saturating_duration_since(Instant::now());
                    let waited = self.wake.wait_timeout(state, limit);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The writer's next work at `now`, if there is any.
    #[cfg(test)]
    pub(super) fn try_next(&self, now: Instant) -> Option<Work> {
        self.lock().work(now, &self.bounds).ok()
    }

    /// How far the writer is.
    pub(super) fn progress(&self) -> Progress {
        let state = self.lock();
        let now = Instant::now();
        let is_due = |frame: &Batch| now >= frame.since + state.delay(&self.bounds);
        let waits = state.retry.is_none() && state.frames.front().is_some_and(is_due);
        Progress { steps: state.steps, has_work: state.working || waits }
    }

    /// It counts as on disk from now on: to be called before anybody is answered, who may have more that
    /// has to fit.
    pub(super) fn on_disk(&self, batch: &mut Batch) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(std::mem::take(&mut batch.counted));
    }

    /// A frame is written, or given up: whoever still waits for it is told that it is not stored.
    pub(super) fn done(&self, mut batch: Batch) {
        self.on_disk(&mut batch);
        batch.recycle(self.bounds.max_bytes);
        let mut state = self.lock();
        if state.spare.len() < SPARE {
            state.spare.push(batch);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// The disk does not take writes: what waits is not stored, and appenders are refused until
    /// [`Queue::available`]. The writer probes after `delay`.
    pub(super) fn unavailable(&self, delay: Duration, lanes: &Lanes) {
        let mut state = self.lock();
        state.retry = Some(Instant::now() + delay);
        state.bytes = 0;
        for batch in &state.frames {
            lanes.remove(&batch.lanes);
        }
        // Dropping a frame's answers says that it is not stored.
        state.frames.clear();
    }

    /// The disk takes writes again.
    pub(super) fn available(&self) {
        self.lock().retry = None;
        self.room.notify_waiters();
    }

    /// From now on frames wait at least so long for more.
    pub(super) fn stretch(&self, delay: Duration) {
        self.lock().stretch = delay;
    }

    /// The writer has begun a new segment, so that the one before it could go.
    pub(super) fn rolled(&self) {
        self.lock().wanted = 0;
        self.released();
    }

    /// Something was released: worth a probe now, if the disk was full.
    pub(super) fn released(&self) {
        let mut state = self.lock();
        if let Some(retry) = &mut state.retry {
            *retry = Instant::now();
            self.wake.notify_one();
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// There may be room for those who wait.
    pub(super) fn look_again(&self) {
        self.room.notify_waiters();
    }

    /// Whether somebody was refused for want of room on disk.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().wanted > 0
    }

    /// Why an appender that was refused last would be refused again. `on_disk` is what the segments hold.
    pub(super) fn refusal(&self, on_disk: u64, lanes: &Lanes) -> Option<Refusal> {
        let state = self.lock();
        if state.wanted == 0 && state.retry.is_none() {
            return None;
        }
        let need = Need::in_lane_0(state.wanted.saturating_sub(frame::HEADER_LEN as u64));
        state.fits(&need, on_disk, &self.bounds, lanes).err()
    }

    /// Asks the writer for a new segment.
    pub(super) fn roll(&self) {
        self.lock().roll = true;
        self.wake.notify_one();
    }

    /// Takes no more; the writer stops behind what waits.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// The writer is gone: what waits will not be stored.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.frames.clear();
    }

    /// Waits until a block would fit. A larger one may never do so: then until there is a quarter of what there
    /// may be, and something has changed, which [`Queue::look_again`] is now and then. Never resolves once the
    /// queue is closed.
    pub(super) async fn room(&self, whole: Need, on_disk: impl Fn() -> u64, lanes: &Lanes) {
        let mut least = Need { lanes: lanes.capped(&whole.lanes), ..whole };
        let parts: u64 = least.lanes.iter().map(|part| part.bytes).sum();
        let most = if parts > 0 { parts } else { self.bounds.max_size / 4 };
        least.bytes = least.bytes.min(most + frame::HEADER_LEN as u64);
        let mut has_changed = false;
        loop {
            let changed = self.room.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let fits = {
                let (state, on_disk) = (self.lock(), on_disk());
                let fits = |need| state.fits(need, on_disk, &self.bounds, lanes).is_ok();
                fits(&whole) || (has_changed && fits(&least))
            };
            if fits {
                // Who is refused all the same is not to keep others from making room.
                tokio::task::coop::consume_budget().await;
                return;
            }
            changed.await;
            has_changed = true;
        }
    }

    /// Waits until `is_so`, which room may make it. Never resolves once the queue is closed.
    pub(super) async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.room.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }
}
