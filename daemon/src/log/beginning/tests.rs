use super::*;

const LOG: Identity = Identity { epoch: Epoch(0xe), lane: Lane(3) };

#[test]
fn either_copy_will_do_and_no_flipped_bit_passes() {
    let whole = encode(LOG, 1 << 40);
    assert_eq!(decode(&whole[..COPY_LEN], LOG), Ok(1 << 40));
    assert_eq!(decode(&whole[COPY_LEN..], LOG), Ok(1 << 40));
    for bit in 0..(CRC_AT + 4) * 8 {
        let mut copy = whole[..COPY_LEN].to_vec();
        copy[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&copy, LOG), Err(Useless::Damaged), "bit {bit}");
    }
    let other = Identity { epoch: Epoch(0xf), ..LOG };
    assert_eq!(decode(&whole[..COPY_LEN], other), Err(Useless::Foreign));
    let other = Identity { lane: Lane(0), ..LOG };
    assert_eq!(decode(&whole[..COPY_LEN], other), Err(Useless::Foreign));
}
