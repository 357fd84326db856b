//! CRC-32C of parts that were summed apart: appenders sum their blocks where they lie in the cache, and the
//! writer has to sum no payload between one fdatasync and the next.
//!
//! The checksum of bytes is their polynomial modulo that of CRC-32C; so `front` followed by n bytes is
//! `front` times x to the 8n, plus what they are alone.

/// CRC-32C's polynomial, as checksums are: the highest bit stands for 1, the lowest for x to the 31.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the 8.
const BYTE: u32 = 1 << 23;

/// x to the 8 × 2 to the n.
const POWERS: [u32; usize::BITS as usize] = {
    let mut powers = [BYTE; usize::BITS as usize];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = product(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The checksum of bytes with the checksum `front`, followed by `len` bytes with the checksum `back`.
pub(super) fn joined(front: u32, back: u32, len: usize) -> u32 {
    let mut moved = front;
    for (bit, power) in POWERS.iter().enumerate() {
        if len >> bit & 1 == 1 {
            moved = product(*power, moved);
        }
    }
    moved ^ back
}

/// Modulo [`POLYNOMIAL`].
const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            sum ^= b;
        }
        let carry = if b & 1 == 0 { 0 } else { POLYNOMIAL };
        b = (b >> 1) ^ carry;
        bit >>= 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_sum_up_to_the_whole(
            front in proptest::collection::vec(any::<u8>(), 0..100),
            back in proptest::collection::vec(any::<u8>(), 0..10_000),
        ) {
            let whole = crc32c::crc32c(&[&front[..], &back].concat());
            let (front, sum) = (crc32c::crc32c(&front), crc32c::crc32c(&back));
            prop_assert_eq!(joined(front, sum, back.len()), whole);
        }
    }

    #[test]
    fn every_bit_of_a_length_counts() {
        for bit in 0..24 {
            let zeros = vec![0; 1 << bit];
            let whole = crc32c::crc32c_append(0x7eed, &zeros);
            assert_eq!(joined(0x7eed, crc32c::crc32c(&zeros), zeros.len()), whole, "2^{bit}");
        }
    }
}
