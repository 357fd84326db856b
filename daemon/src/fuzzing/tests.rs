//! The fuzz targets with seeded random bytes, and with changed ones of the corpus: what a machine
//! without the fuzzer's toolchain can run. `FUZZ_SECONDS` says how long each runs (1), `FUZZ_SEED` with
//! what it begins.

use std::path::Path;
use std::time::{Duration, Instant};

use super::TARGETS;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The files of a target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 if at < bytes.len() => bytes[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap(),
            2 => bytes.insert(at, random.u8(..)),
            3 if at < bytes.len() => _ = bytes.remove(at),
            4 => bytes.truncate(at),
            _ => bytes.extend(random.choice(others).cloned().unwrap_or_default()),
        }
    }
    bytes.truncate(8192);
}

fn run(target: &str, entry: fn(&[u8])) {
    let seed = setting("FUZZ_SEED", 1);
    let until = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS", 1));
    let mut random = fastrand::Rng::with_seed(seed);
    let corpus = corpus(target);
    corpus.iter().for_each(|bytes| entry(bytes));
    let mut runs = 0_u64;
    while Instant::now() < until {
        let mut bytes = match random.bool() {
            true => random.choice(&corpus).cloned().unwrap_or_default(),
            false => (0..random.usize(0..300)).map(|_| random.u8(..)).collect(),
        };
        change(&mut bytes, &corpus, &mut random);
        if std::panic::catch_unwind(|| entry(&bytes)).is_err() {
            panic!("{target}, seed {seed}, run {runs}: {bytes:02x?}");
        }
        runs += 1;
    }
    println!("{target}: {runs} inputs, seed {seed}");
}

#[test]
fn no_bytes_break_a_target() {
    std::thread::scope(|scope| {
        for (target, entry) in TARGETS {
            scope.spawn(move || run(target, entry));
        }
    });
}
