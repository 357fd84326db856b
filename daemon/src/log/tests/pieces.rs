//! Large damage, which is not held in memory.

use std::time::Instant;

use super::super::frame;
use super::super::storage::sim::Sim;
use super::super::writer::Writer;
use super::damage::{DIR, quarantined, segments};
use super::*;

/// Bytes that are read or written at once, at most.
const MOST: usize = 1 << 20;

fn open(sim: &Sim) -> (Arc<Log>, Writer, Recovery) {
    let (max_size, segment_size) = (64 << 20, 16 << 20);
    let options = Options { max_size, segment_size, ..options(Path::new("/")) };
    let (log, writer, recovery) = open_unstarted(Arc::new(sim.clone()), options).unwrap();
    (Arc::new(log), writer, recovery)
}

#[test]
fn a_segment_that_is_damaged_but_for_its_last_frame_is_passed_over_and_copied_in_pieces() {
    let sim = Sim::new(1);
    let (log, mut writer, _) = open(&sim);
    // Two segments that are nearly full.
    while log.usage().segments < 2 || log.shared.table().0[1].len() < 15 << 20 {
        assert!(matches!(log.append(&mut block([&[7; 100_000][..]])), Append::Accepted(_)));
        assert!(writer.step(Instant::now()));
    }
    let last = log.committed();
    let (first, second) = (log.shared.table().0[0].clone(), log.shared.table().0[1].clone());
    drop((log, writer));
    sim.kill();
    let mut damages = Vec::new();
    for (path, segment) in segments(&sim).iter().zip([&first, &second]) {
        let mut content = sim.content(path);
        let frame = frame::HEADER_LEN + block([&[7; 100_000][..]]).finish().len();
        let damage = 1024..segment.len() as usize - frame;
        // A header says that all of it is one frame.
        let announced = (damage.len() - frame::HEADER_LEN) as u32;
        content[1024 + 4..1024 + 8].copy_from_slice(&announced.to_le_bytes());
        content[1024 + frame::HEADER_LEN..damage.end].fill(b'T');
        sim.set_content(path, &content);
        damages.push(content[damage].to_vec());
    }
    sim.largest();
    let (log, _writer, recovery) = open(&sim);
    let lost = [first.header.first..=first.end() - 2, second.header.first..=last - 1];
    assert_eq!(recovery.quarantined, lost[1..], "the newest is read when the log is opened");
    let (events, missed) = read(&mut log.reader(1));
    let events: Vec<Lsn> = events.into_iter().map(|(lsn, _)| lsn).collect();
    assert_eq!((events, &missed[..]), (vec![first.end() - 1, last], &lost[..]));
    assert_eq!(
        restored(&log, 1),
        ["lost", &(first.end() - 1).to_string(), "lost", &last.to_string()]
    );
    let losses: Lost = log.losses().into_iter().map(|loss| loss.lsns).collect();
    assert_eq!(losses.len(), 2, "{losses:?}");
    let (read, written) = sim.largest();
    assert!(read <= MOST && written <= MOST, "{read} read, {written} written at once");
    let mut copies: Vec<_> = quarantined(&sim)
        .iter()
        .map(|name| sim.content(&Path::new(DIR).join("quarantine").join(name)))
        .collect();
    copies.reverse();
    assert!(copies == damages, "they are whole");
}
