use proptest::prelude::*;

use super::*;

const BOTH: [Compression; 2] = [Compression::Lz4, Compression::Deflate];
const TEXT: &[u8] =
    b"plant/boiler-7 {\"value\":71.5} plant/boiler-7 {\"value\":71.6} plant/boiler-7";
/// What version 3 of the format stores for it: what is on disk has to be readable for good.
const STORED: [&str; 2] = [
    "4a000000ff0f706c616e742f626f696c65722d37207b2276616c7565223a37312e357d201e000816361e0060696c65722d37",
    "4a0000002bc849cc2bd14fcacfcc492dd23557a8562a4bcc294d55b23237d433ad5528c02d6b862e0b00",
];

fn pack(compression: Compression, payload: &[u8]) -> Option<Vec<u8>> {
    let plain = [&[0; HEADER_LEN], payload].concat();
    let mut packer = Packer::new(compression);
    packer.pack(&plain).map(|(bytes, _)| bytes[HEADER_LEN..].to_vec())
}

fn unpack(compression: Compression, stored: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = b"before".to_vec();
    let result = Unpacker::default().unpack(compression, stored, &mut out);
    assert!(out.starts_with(b"before"));
    assert!(result.is_ok() || out.len() == 6, "an error leaves nothing");
    result.map(|()| out.split_off(6))
}

fn sensor_data() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let event = |number: u32| {
        let value = 60.0 + 30.0 * random.f64();
        format!("plant/boiler-{}{{\"seq\":{number},\"value\":{value:.3},\"ok\":true}}", number % 20)
    };
    (0..1000).map(event).collect::<String>().into_bytes()
}

#[test]
fn what_was_packed_comes_back() {
    let data = sensor_data();
    for compression in BOTH {
        let stored = pack(compression, &data).unwrap();
        assert!(stored.len() * 2 < data.len(), "{compression:?}: {}", stored.len());
        assert_eq!(unpack(compression, &stored).unwrap(), data);
        for cut in [0, 3, 4, 5, stored.len() / 2, stored.len() - 1] {
            assert!(unpack(compression, &stored[..cut]).is_err(), "{compression:?} {cut}");
        }
        let longer = [&stored[..], b"x"].concat();
        assert!(unpack(compression, &longer).is_err(), "{compression:?}");
    }
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    let mut noise = vec![0; 10_000];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    for compression in BOTH {
        for payload in [&noise[..], b"", b"x", b"short"] {
            assert_eq!(pack(compression, payload), None, "{compression:?} {}", payload.len());
        }
    }
    assert_eq!(pack(Compression::None, &[0; 1000]), None);
}

#[test]
fn what_an_older_release_stored_is_read() {
    for (compression, stored) in BOTH.into_iter().zip(STORED) {
        let (pairs, _) = stored.as_bytes().as_chunks::<2>();
        let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        let stored: Vec<u8> = pairs.iter().map(|pair| byte(pair).unwrap()).collect();
        assert_eq!(unpack(compression, &stored).as_deref(), Ok(TEXT), "{compression:?}");
    }
}

#[test]
fn no_length_makes_it_take_more_than_the_bound() {
    let huge = (LARGEST as u32 + 1).to_le_bytes();
    for compression in BOTH {
        let mut out = Vec::new();
        assert!(Unpacker::default().unpack(compression, &huge, &mut out).is_err());
        assert_eq!(out.capacity(), 0, "{compression:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_inflated_or_refused(
        length in 0..100_000u32,
        packed in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let stored = [&length.to_le_bytes()[..], &packed].concat();
        for compression in BOTH {
            if let Ok(payload) = unpack(compression, &stored) {
                prop_assert_eq!(payload.len(), length as usize);
            }
        }
    }

    #[test]
    fn any_payload_comes_back(
        words in prop::collection::vec(0..40u8, 1..2000),
        deflate in any::<bool>(),
    ) {
        let compression = BOTH[usize::from(deflate)];
        if let Some(stored) = pack(compression, &words) {
            prop_assert_eq!(unpack(compression, &stored), Ok(words));
        }
    }
}
