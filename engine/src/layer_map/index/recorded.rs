//! Recorded layer maps, or generated ones of the same shape.

use std::{fs, io, io::Write, path::PathBuf};

use pagestrata_layers::{Key, KeyRange, Lsn};

use super::{LayerKind, LayerShape};

/// Returns the recorded maps, by name.
pub fn recorded_maps(out: &mut impl Write) -> io::Result<Vec<(String, Vec<LayerShape>)>> {
    let Some(captures) = std::env::var_os("PAGESTRATA_CAPTURES").map(PathBuf::from) else {
        writeln!(out, "PAGESTRATA_CAPTURES is not set: a generated map of the recorded shape")?;
        return Ok(vec![("generated".to_owned(), generated())]);
    };
    let read = |name: &str| {
        let text =
            fs::read_to_string(captures.join("layer_names").join(name).with_extension("txt"))?;
        let shapes = text.lines().map(parse).collect::<Option<Vec<_>>>();
        Ok((name.to_owned(), shapes.ok_or_else(|| io::Error::other("not a layer's name"))?))
    };
    ["odd-brook", "large"].into_iter().map(read).collect()
}

/// `<start key>-<end key>__<Lsn>[-<Lsn>]`: keys of 18 bytes, the last four of them a block number.
fn parse(name: &str) -> Option<LayerShape> {
    let key = |hex: &str| {
        let (object, block) = hex.split_at_checked(28)?;
        let object = u128::from_str_radix(object, 16).ok()?;
        Some(Key { object, block: u32::from_str_radix(block, 16).ok()? })
    };
    let lsn = |hex| u64::from_str_radix(hex, 16).ok().map(Lsn);
    let (keys, lsns) = name.split_once("__")?;
    let (start, end) = keys.split_once('-')?;
    let kind = match lsns.split_once('-') {
        Some((start, end)) => LayerKind::Delta { start: lsn(start)?, end: lsn(end)? },
        None => LayerKind::Image { lsn: lsn(lsns)? },
    };
    Some(LayerShape { key_range: KeyRange { start: key(start)?, end: Some(key(end)?) }, kind })
}

/// 26,000 layers over 7,700 stripes: many narrow images, some deltas, a few wide ones of both.
pub fn generated() -> Vec<LayerShape> {
    let mut random = fastrand::Rng::with_seed(3);
    let key = |stripe: u64| Key::new(u128::from(stripe / 180) << 8, (stripe % 180 * 16_384) as u32);
    (0..26_000)
        .map(|at| {
            let wide = at % 100 == 0;
            let start = random.u64(..7_700);
            let width = 1 + random.u64(..if wide { 7_000 } else { 3 });
            let key_range = KeyRange { start: key(start), end: Some(key(start + width)) };
            let lsn = Lsn((1 + random.u64(..269)) << 24);
            let kind = if at % 10 == 0 {
                LayerKind::Delta { start: lsn, end: Lsn(lsn.0 + (1 << 24)) }
            } else {
                LayerKind::Image { lsn }
            };
            LayerShape { key_range, kind }
        })
        .collect()
}
