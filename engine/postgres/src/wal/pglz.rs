//! PostgreSQL's own compression, the reading half.
//!
//! A control byte, then 8 items, its lowest bit first. Bit 0: a literal byte. Bit 1: a match of two
//! bytes, `LLLL` in the low and `OOOO` in the high half of the first; its length is `LLLL + 3`, and
//! if that is 18 a third byte is added to it; its offset back is `OOOO` as bits 8..12 over the
//! second byte. A match may overlap what it writes.
//!
//! **Invariant:** exactly all of the input makes exactly all of the output, or it is refused.

/// Decompresses `source` into all of `target`; `None` if it is not the compression of that many
/// bytes.
///
/// The last match may be longer than what is left to fill: PostgreSQL cuts it, and so does this.
#[must_use]
pub fn decompress(source: &[u8], target: &mut [u8]) -> Option<()> {
    let (mut input, mut at) = (source, 0_usize);
    while let [control, rest @ ..] = input {
        input = rest;
        let mut control = *control;
        for _ in 0..8 {
            if input.is_empty() || at == target.len() {
                break;
            }
            if control & 1 == 0 {
                target[at] = input[0];
                at += 1;
                input = &input[1..];
            } else {
                let (offset, len, rest) = read_match(input)?;
                input = rest;
                let len = len.min(target.len() - at);
                copy_match(target, at, offset, len)?;
                at += len;
            }
            control >>= 1;
        }
        if at == target.len() {
            break;
        }
    }
    (input.is_empty() && at == target.len()).then_some(())
}

/// A match's offset and length, and the input behind it.
#[inline]
fn read_match(input: &[u8]) -> Option<(usize, usize, &[u8])> {
    let [first, second, rest @ ..] = input else { return None };
    let offset = usize::from(first & 0xF0) << 4 | usize::from(*second);
    match usize::from(first & 0x0F) + 3 {
        18 => {
            let (more, rest) = rest.split_first()?;
            Some((offset, 18 + usize::from(*more), rest))
        }
        len => Some((offset, len, rest)),
    }
}

/// Repeats `len` bytes from `offset` before `at`, which may run into what is being written.
#[inline]
fn copy_match(target: &mut [u8], at: usize, offset: usize, len: usize) -> Option<()> {
    let start = at.checked_sub(offset).filter(|_| offset != 0)?;
    let mut copied = 0;
    // Each round can copy all that is there since `start`, so that a short pattern doubles.
    while copied < len {
        let piece = (offset + copied).min(len - copied);
        target.copy_within(start..start + piece, at + copied);
        copied += piece;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A plain greedy compressor: a match wherever the last 4095 bytes have one of 3 bytes or more.
    fn compress(bytes: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let control = out.len();
            out.push(0);
            for bit in 0..8 {
                let Some(&byte) = bytes.get(at) else { break };
                let len_at = |from: usize| {
                    (0..273.min(bytes.len() - at))
                        .take_while(|i| bytes[from + i] == bytes[at + i])
                        .count()
                };
                let best = (at.saturating_sub(4095)..at).map(|from| (len_at(from), from)).max();
                match best.filter(|(len, _)| *len >= 3) {
                    Some((len, from)) => {
                        let offset = at - from;
                        out[control] |= 1 << bit;
                        out.push((offset >> 4) as u8 & 0xF0 | (len - 3).min(15) as u8);
                        out.push(offset as u8);
                        if len >= 18 {
                            out.push((len - 18) as u8);
                        }
                        at += len;
                    }
                    None => {
                        out.push(byte);
                        at += 1;
                    }
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..1500),
            copies in 1_usize..4,
        ) {
            let bytes = bytes.repeat(copies);
            let packed = compress(&bytes);
            let mut back = vec![0xAA; bytes.len()];
            prop_assert_eq!(decompress(&packed, &mut back), Some(()));
            prop_assert_eq!(&back, &bytes);
            let mut longer = vec![0; bytes.len() + 1];
            prop_assert_eq!(decompress(&packed, &mut longer), None, "too little input");
            if let Some(shorter) = packed.len().checked_sub(1) {
                prop_assert_eq!(decompress(&packed[..shorter], &mut back), None, "cut input");
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), len in 0_usize..9000) {
            let mut target = vec![0; len];
            let _ = decompress(&bytes, &mut target);
        }
    }

    #[test]
    fn offsets_must_point_into_what_is_there() {
        let mut target = [0; 4];
        assert_eq!(decompress(&[0b10, b'a', 0x00, 0], &mut target), None, "offset 0");
        assert_eq!(decompress(&[0b10, b'a', 0x00, 2], &mut target), None, "before the start");
        assert_eq!(decompress(&[0b10, b'a', 0x00, 1], &mut target), Some(()));
        assert_eq!(&target, b"aaaa");
    }
}
