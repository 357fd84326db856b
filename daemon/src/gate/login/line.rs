//! Who is verified next: the addresses take turns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hash::Memory;

/// A line for each address, at the front of which one waits in the line of all addresses. It is as long
/// as there are connections that wait, which `limits.max-connecting` bounds.
#[derive(Debug)]
pub(super) struct Line {
    turns: Arc<Semaphore>,
    /// Of those whose turn it is not; as many as there are turns.
    memory: Arc<Mutex<Vec<Memory>>>,
    addresses: Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>,
}

/// The right to one verification, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// To verify in.
    pub(super) memory: Memory,
    spare: Arc<Mutex<Vec<Memory>>>,
    // In this order: the address's next one must find the line as it is after this one.
    _turn: OwnedSemaphorePermit,
    _front: OwnedSemaphorePermit,
    _place: Place,
}

/// A place in an address's line; the last one to leave takes the line away.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    line: Option<Arc<Semaphore>>,
    addresses: Arc<Mutex<HashMap<IpAddr, Arc<Semaphore>>>>,
}

impl Line {
    /// `max` verifications at once.
    pub(super) fn new(max: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(max)),
            memory: Arc::default(),
            addresses: Arc::default(),
        }
    }

    /// Waits for a turn. None if there are no more turns at all.
    pub(super) async fn turn(&self, address: IpAddr) -> Option<Turn> {
        let line = {
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(addresses.entry(address).or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        let addresses = Arc::clone(&self.addresses);
        let place = Place { address, line: Some(Arc::clone(&line)), addresses };
        let front = line.acquire_owned().await.ok()?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        let spare = Arc::clone(&self.memory);
        let memory = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = memory.unwrap_or_default();
        Some(Turn { memory, spare, _turn: turn, _front: front, _place: place })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        memory.shrink();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        self.line = None;
        if addresses.get(&self.address).is_some_and(|line| Arc::strong_count(line) == 1) {
            addresses.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_flood_from_one_address_is_passed_by_another() {
        let line = Line::new(1);
        let (flood, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut first = pin!(line.turn(flood));
        let Poll::Ready(Some(turn)) = poll(first.as_mut()) else { panic!("no turn") };
        let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(line.turn(flood))).collect();
        for next in &mut waiting {
            assert!(poll(next.as_mut()).is_pending());
        }
        let mut neighbour = pin!(line.turn(other));
        assert!(poll(neighbour.as_mut()).is_pending());
        drop(turn);
        assert!(poll(waiting[1].as_mut()).is_pending());
        let Poll::Ready(Some(turn)) = poll(neighbour.as_mut()) else { panic!("not its turn") };
        assert!(poll(waiting[0].as_mut()).is_pending());
        drop(turn);
        let Poll::Ready(Some(turn)) = poll(waiting[0].as_mut()) else { panic!("not its turn") };
        waiting.truncate(50);
        drop(turn);
        drop(waiting);
        assert!(line.addresses.lock().unwrap().is_empty(), "nothing is left of the lines");
        assert_eq!(line.turns.available_permits(), 1);
    }
}
