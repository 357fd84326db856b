//! Integers of 7 bits a byte, the low ones first; bit 7 says that more follow. The encoding of MQTT's
//! variable byte integer (MQTT 5.0 section 1.5.5), which ends at 4 bytes; here they may be longer.

/// Bytes of the longest: a `u64`.
pub const MAX_BYTES: usize = 10;

/// Appends `value`, in as few bytes as it takes: 1 to 10.
#[inline]
pub fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`write()`] appends.
#[inline]
pub fn len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Takes one of at most `most` bytes (up to [`MAX_BYTES`]) off `input`. None if there is none.
#[inline]
pub fn read(input: &mut &[u8], most: usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..7 * most).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_as_the_value_takes() {
        let mut out = Vec::new();
        for (value, expected) in [(0, 1), (0x7f, 1), (0x80, 2), (0x3fff, 2), (0x4000, 3)] {
            out.clear();
            write(value as u64, &mut out);
            assert_eq!((out.len(), len(value)), (expected, expected), "{value:#x}");
        }
        for bits in 0..usize::BITS {
            for value in [1 << bits, (1 << bits) - 1, usize::MAX >> bits] {
                out.clear();
                write(value as u64, &mut out);
                assert_eq!(out.len(), len(value), "{value:#x}");
                let mut rest = &out[..];
                assert_eq!(read(&mut rest, MAX_BYTES), Some(value as u64), "{value:#x}");
                assert_eq!(read(&mut &out[..], out.len() - 1), None, "{value:#x}");
                assert_eq!(read(&mut &out[..out.len() - 1], MAX_BYTES), None, "{value:#x}");
                assert!(rest.is_empty());
            }
        }
        out.clear();
        write(321, &mut out);
        assert_eq!(out, [0xc1, 0x02], "the standard's own example");
    }
}
