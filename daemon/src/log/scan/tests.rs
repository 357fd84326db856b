use super::memory::{Memory, search};
use super::*;
use crate::log::frame::{HEADER_LEN, Header, Parsed, parse, seal};
use tidegate_event::{Epoch, Lane};

const SALT: u64 = 0x5a17;

fn frame(first: Lsn, count: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes.extend_from_slice(payload);
    seal(&mut bytes, first, count, 0, SALT);
    bytes
}

/// A header that announces a frame of so many bytes more, which is none.
fn fake(first: Lsn, length: u32) -> Vec<u8> {
    let mut bytes = frame(first, 1, b"");
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The search as it is meant, with all of it in memory.
fn search_whole(bytes: &[u8], lsns: std::ops::Range<Lsn>) -> Option<(usize, Header)> {
    let fits = |header: &Header| header.first >= lsns.start && header.end() <= lsns.end;
    if let Some(bad) = Header::decode(bytes)
        && let Some(rest) = bytes.get(bad.frame_len()..)
        && let Parsed::Frame(header) = parse(rest, SALT)
        && fits(&header)
    {
        return Some((bad.frame_len(), header));
    }
    let mut effort = bytes.len() * 8;
    for at in 1..bytes.len() {
        let candidate = &bytes[at..];
        let Some(header) = Header::decode(candidate) else { continue };
        if header.frame_len() > candidate.len() || !fits(&header) {
            continue;
        }
        effort = effort.checked_sub(header.frame_len())?;
        if let Parsed::Frame(header) = parse(candidate, SALT) {
            return Some((at, header));
        }
    }
    None
}

#[test]
fn the_search_finds_the_next_frame_whatever_was_damaged() {
    let (bad, good) = (frame(1, 2, &[7; 100]), frame(3, 1, b"next"));
    for byte in 0..bad.len() {
        let mut bytes = bad.clone();
        bytes[byte] ^= 0x55;
        bytes.extend_from_slice(&good);
        let (at, header) = search(&bytes, SALT, 1..10, WINDOW).unwrap();
        assert_eq!((at, header.first), (bad.len(), 3), "byte {byte}");
    }
}

#[test]
fn content_full_of_frame_headers_does_not_hold_the_search_up() {
    let bytes = fake(2, 1_000_000).repeat(4 << 20 >> 5);
    assert_eq!(search(&bytes, SALT, 1..10, WINDOW), None);
}

#[test]
fn a_frame_across_the_border_of_two_pieces_is_found() {
    const BORDER: usize = 8192;
    // In the next piece; across several; and one that ends where a piece does.
    for payload in [&b"next"[..], &[7; 150_000], &[7; BORDER - HEADER_LEN]] {
        let good = frame(3, 1, payload);
        for begins in BORDER - HEADER_LEN - 4..BORDER + 4 {
            // Behind damage that says where it ends, and behind some that does not.
            let mut known = frame(1, 2, &vec![b'T'; begins - HEADER_LEN]);
            known[HEADER_LEN] ^= 1;
            for bad in [known, vec![b'T'; begins]] {
                let bytes = [&bad[..], &good].concat();
                let found = search(&bytes, SALT, 1..10, BORDER);
                assert_eq!(found.map(|(at, header)| (at, header.first)), Some((begins, 3)));
                // And not, where a byte of it is missing or wrong.
                let mut wrong = bytes.clone();
                wrong[begins + good.len() - 1] ^= 1;
                assert_eq!(search(&wrong, SALT, 1..10, BORDER), None, "{begins}");
                assert_eq!(search(&bytes[..bytes.len() - 1], SALT, 1..10, BORDER), None);
            }
        }
    }
}

#[test]
fn a_search_in_pieces_finds_what_one_that_holds_all_of_it_finds() {
    let (mut found, mut behind) = (0, 0);
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = Vec::new();
        while bytes.len() < 60_000 {
            let first = rng.u64(1..12);
            match rng.u8(..8) {
                0 => bytes.extend(fake(first, rng.u32(..20_000))),
                1 => bytes.extend(fake(first, rng.u32(..200)).repeat(rng.usize(..200))),
                2 | 3 => bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(9000)),
                4 => bytes.extend(b"TGF1TTGF".repeat(rng.usize(..600))),
                5 => bytes.resize(bytes.len() + rng.usize(..20_000), 0),
                _ => {
                    let mut whole = frame(first, rng.u32(..3), &vec![7; rng.usize(..25_000)]);
                    if rng.u8(..4) > 0 {
                        let byte = rng.usize(..whole.len());
                        whole[byte] ^= 1;
                    }
                    bytes.extend(whole);
                }
            }
        }
        // A sector that cannot be read is zeros, with what is around it.
        let bad = rng.u64(..60_000) / 512 * 512;
        let bad = if rng.bool() { bad..bad + 512 } else { 0..0 };
        let mut seen = bytes.clone();
        if let Some(part) = seen.chunks_mut(4096).nth(bad.start as usize / 4096)
            && !bad.is_empty()
        {
            part.fill(0);
        }
        let wanted = search_whole(&seen, 3..10);
        found += usize::from(wanted.is_some());
        behind += usize::from(wanted.is_some_and(|(at, _)| at > 8192));
        for window in [0, 12_288, WINDOW] {
            let memory =
                Memory { bytes: bytes.clone(), unreadable: bad.clone(), ..Memory::default() };
            let extent = memory.extent();
            let it = Search::new(&extent, SALT, window).find(3..10).unwrap();
            assert_eq!(it.map(|(at, header)| (at as usize, header)), wanted, "seed {seed}");
            let mut copy = Vec::new();
            extent
                .pieces(|piece, at| {
                    assert_eq!(at, copy.len() as u64);
                    copy.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            assert!(copy == seen, "seed {seed}: a copy has the same bytes");
        }
    }
    assert!(found > 40 && behind > 30, "{found}, {behind}");
}

/// A scan of a segment that holds these bytes behind its header, its file, and how long that is.
fn scan(content: &[u8]) -> (Scan, Arc<Memory>, u64) {
    let header = segment::Header {
        epoch: Epoch(1),
        lane: Lane(0),
        sequence: 1,
        first: 1,
        salt: SALT,
        before: None,
        rewritten: None,
        figures: None,
    };
    let bytes = [&header.encode()[..], content].concat();
    let len = bytes.len() as u64;
    let memory = Arc::new(Memory { bytes, ..Memory::default() });
    let file: Arc<dyn File> = Arc::<Memory>::clone(&memory);
    (Scan::new(file, &header), memory, len)
}

/// Bytes of damage in these tests.
const DAMAGE: usize = 16 << 20;

#[test]
fn damage_is_passed_over_in_small_pieces_however_much_there_is() {
    let last = frame(9, 1, b"last");
    // Of frames that were; of zeros; and a header that says that all of it is one frame.
    let mut announced = vec![7; DAMAGE];
    announced[..HEADER_LEN].copy_from_slice(&fake(1, (DAMAGE - HEADER_LEN) as u32));
    let mut frames = frame(1, 1, &[7; 3000]);
    frames[50] ^= 1;
    let frames = frames.repeat(DAMAGE / frames.len());
    for damage in [frames, vec![0; DAMAGE], announced] {
        let (mut scan, memory, len) = scan(&[&damage[..], &last].concat());
        let mut read = Frames::default();
        assert_eq!(scan.step(len, 10, &mut read, 1 << 20).unwrap(), Step::Damage);
        assert!(read.bytes.capacity() <= LARGEST_UNCHECKED, "{}", read.bytes.capacity());
        let skipped = scan.skip(len, 10).unwrap();
        assert_eq!((skipped.resumed, skipped.lsns), (true, Some(1..=8)));
        assert_eq!((skipped.extent.offset, skipped.extent.len), (1024, damage.len() as u64));
        let mut copy = Vec::with_capacity(damage.len());
        skipped
            .extent
            .pieces(|piece, _| {
                copy.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert!(copy == damage);
        let largest = memory.largest.load(std::sync::atomic::Ordering::Relaxed);
        assert!(largest <= 1 << 20, "{largest} bytes at once");
        assert_eq!(scan.step(len, 10, &mut read, 1 << 20).unwrap(), Step::Frames);
        assert_eq!(read.spans[0].1.first, 9);
    }
}

#[test]
fn a_frame_larger_than_what_is_held_unchecked_is_read() {
    let large = frame(1, 1, &vec![7; 2 * LARGEST_UNCHECKED]);
    let (mut scan, _, len) = scan(&large);
    let mut read = Frames::default();
    assert_eq!(scan.step(len, 2, &mut read, 4096).unwrap(), Step::Frames);
    assert!(read.bytes == large);
    // One that is cut short has no end.
    let (mut scan, ..) = super::tests::scan(&large[..large.len() - 1]);
    assert_eq!(scan.step(len, 2, &mut read, 4096).unwrap(), Step::Damage);
}
