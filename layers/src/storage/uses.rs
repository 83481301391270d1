//! Which files of this process are mapped and which are being written: none is both at once.
//!
//! The bytes of a mapping are lent as `&[u8]`, so nothing may change them. Through a
//! [`RealStorage`](super::RealStorage) nothing can: a file is told apart by its device and inode,
//! whatever it is called and however often it is open.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Tells apart all files of a machine: device and inode.
pub(super) type Identity = (u64, u64);

/// Files in use, each with its number of uses.
static USES: Mutex<BTreeMap<Identity, Uses>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy, Debug)]
enum Uses {
    Mapped(usize),
    Written(usize),
}

/// A mapping of a file: as long as it lives, nobody writes to the file.
#[derive(Debug)]
pub(super) struct Mapping(Identity);

/// The right to write to a file: as long as it lives, nobody maps the file.
#[derive(Debug)]
pub(super) struct Writing(Identity);

impl Mapping {
    /// An error says what the file is used for.
    pub(super) fn begin(file: Identity) -> Result<Mapping, &'static str> {
        match USES.lock().entry(file).or_insert(Uses::Mapped(0)) {
            Uses::Mapped(count) => *count += 1,
            Uses::Written(_) => return Err("being written"),
        }
        Ok(Mapping(file))
    }
}

impl Writing {
    /// An error says what the file is used for.
    pub(super) fn begin(file: Identity) -> Result<Writing, &'static str> {
        match USES.lock().entry(file).or_insert(Uses::Written(0)) {
            Uses::Written(count) => *count += 1,
            Uses::Mapped(_) => return Err("mapped"),
        }
        Ok(Writing(file))
    }
}

fn end(file: Identity) {
    let mut uses = USES.lock();
    if let Some(Uses::Mapped(count) | Uses::Written(count)) = uses.get_mut(&file) {
        *count -= 1;
        if *count == 0 {
            uses.remove(&file);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        end(self.0);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        end(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_or_written_but_never_both() {
        // No device has this number.
        let (one, other) = ((u64::MAX, 1), (u64::MAX, 2));
        let maps = [Mapping::begin(one).unwrap(), Mapping::begin(one).unwrap()];
        assert_eq!(Writing::begin(one).unwrap_err(), "mapped");
        let writers = [Writing::begin(other).unwrap(), Writing::begin(other).unwrap()];
        assert_eq!(Mapping::begin(other).unwrap_err(), "being written");
        let [first, second] = maps;
        drop(first);
        assert_eq!(Writing::begin(one).unwrap_err(), "mapped");
        drop(second);
        drop(writers);
        Writing::begin(one).unwrap();
        Mapping::begin(other).unwrap();
        assert!(!USES.lock().contains_key(&one) && !USES.lock().contains_key(&other));
    }
}
