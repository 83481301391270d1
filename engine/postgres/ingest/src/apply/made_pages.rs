//! [`MadePages`]: pages that were made of their records, kept so that the next record of a page is
//! redone on what is there.

use std::{collections::BTreeMap, ops::Range};

use pagestrata::Key;

/// Pages by their keys, up to a number; the one that was not used for the longest goes first.
#[derive(Debug)]
pub(crate) struct MadePages {
    pages: BTreeMap<Key, MadePage>,
    /// When a page was used last, in uses.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    pages_max: usize,
}

#[derive(Debug)]
struct MadePage {
    bytes: Vec<u8>,
    used: u64,
}

impl MadePages {
    /// Keeps at most `pages_max` pages.
    pub(crate) fn new(pages_max: usize) -> MadePages {
        let (pages, by_use) = (BTreeMap::new(), BTreeMap::new());
        MadePages { pages, by_use, uses: 0, pages_max }
    }

    /// Returns a page if it is kept, and counts that as a use.
    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Vec<u8>> {
        let page = self.pages.get_mut(&key)?;
        self.by_use.remove(&page.used);
        self.uses += 1;
        page.used = self.uses;
        self.by_use.insert(self.uses, key);
        Some(&mut page.bytes)
    }

    /// Keeps a page, in the place of what was kept of it.
    pub(crate) fn insert(&mut self, key: Key, bytes: Vec<u8>) {
        self.remove(key);
        while self.pages.len() >= self.pages_max.max(1) {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.pages.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key);
        self.pages.insert(key, MadePage { bytes, used: self.uses });
    }

    /// Forgets a page.
    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(page) = self.pages.remove(&key) {
            self.by_use.remove(&page.used);
        }
    }

    /// Forgets all pages in a range of keys.
    pub(crate) fn remove_range(&mut self, keys: Range<Key>) {
        while let Some(key) = self.pages.range(keys.clone()).next().map(|(key, _)| *key) {
            self.remove(key);
        }
    }

    /// All pages, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &[u8])> {
        self.pages.iter().map(|(key, page)| (*key, &page.bytes[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_page_goes_first() {
        let key = |object, block| Key::new(object, block);
        let mut pages = MadePages::new(3);
        for block in 0..3 {
            pages.insert(key(1, block), vec![block as u8]);
        }
        assert_eq!(pages.get(key(1, 0)), Some(&mut vec![0]));
        pages.insert(key(2, 7), vec![9]);
        let kept = |pages: &MadePages| pages.iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(kept(&pages), [key(1, 0), key(1, 2), key(2, 7)]);
        pages.insert(key(1, 2), vec![5]);
        assert_eq!(pages.get(key(1, 2)), Some(&mut vec![5]));
        pages.remove_range(key(1, 1)..key(2, 0));
        assert_eq!(kept(&pages), [key(1, 0), key(2, 7)]);
        assert_eq!((pages.by_use.len(), pages.get(key(1, 2))), (2, None));
        for block in 0..100 {
            pages.insert(key(3, block), vec![]);
            assert!(pages.pages.len() <= 3 && pages.by_use.len() == pages.pages.len());
        }
    }
}
