//! The protocol on real threads, and under `--cfg loom` in every interleaving.

use super::*;

#[cfg(not(loom))]
mod on_threads {
    use super::*;

    #[test]
    fn a_pin_is_stale_only_after_a_publication() {
        let published = Published::new(1);
        let mut cached = CachedVersion::new(&published);
        assert!(!cached.is_stale(&published));
        published.publish(|old| old + 1);
        assert!(cached.is_stale(&published));
        assert_eq!(*cached.value(), 1);
        assert!(published.reclaim().is_empty(), "held by the reader");
        assert_eq!(cached.refresh(&published), 1);
        assert_eq!((*cached.value(), published.reclaim()), (2, vec![1]));
    }

    #[test]
    fn held_values_stay_until_let_go() {
        let published = Published::new(0);
        let held: Vec<_> = (1..5)
            .map(|n| {
                let held = published.load();
                published.publish(|_| n);
                held
            })
            .collect();
        let mut retired = Vec::new();
        published.for_each_retired(|number, &value| retired.push((number, value)));
        assert_eq!(retired, [(0, 0), (1, 1), (2, 2), (3, 3)]);
        assert!(published.reclaim().is_empty());
        drop(held);
        assert_eq!(published.reclaim(), [0, 1, 2, 3]);
    }
}

#[cfg(loom)]
#[allow(unsafe_code, reason = "loom checks the accesses that its cells are for")]
mod in_every_interleaving {
    use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use super::*;

    loom::thread_local! {
        static RECLAIMS: std::cell::Cell<bool> = std::cell::Cell::new(false);
    }

    /// Stands for a layer: memory that readers read and that is reused once reclaimed.
    struct Layer {
        memory: Arc<Memory>,
        content: u64,
    }

    struct Memory(UnsafeCell<u64>);

    // SAFETY: not safe by itself: loom checks whether its accesses exclude each other.
    unsafe impl Sync for Memory {}
    // SAFETY: a number.
    unsafe impl Send for Memory {}

    impl Layer {
        fn new(content: u64) -> Layer {
            Layer { memory: Arc::new(Memory(UnsafeCell::new(content))), content }
        }

        fn read(&self) {
            // SAFETY: loom panics when it is written at the same time.
            let found = self.memory.0.with(|memory| unsafe { *memory });
            assert_eq!(found, self.content, "a pinned layer's memory was used again");
        }
    }

    impl Drop for Layer {
        fn drop(&mut self) {
            assert!(RECLAIMS.with(std::cell::Cell::get), "dropped by a reader");
            // The chunk returns to its pool and the next layer writes it: loom reports a reader
            // that still uses it. SAFETY: as above.
            self.memory.0.with_mut(|memory| unsafe { *memory = u64::MAX });
        }
    }

    fn as_reclaimer<R>(work: impl FnOnce() -> R) -> R {
        RECLAIMS.with(|reclaims| reclaims.set(true));
        let result = work();
        RECLAIMS.with(|reclaims| reclaims.set(false));
        result
    }

    #[test]
    fn pinned_layers_are_never_reclaimed() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let published = Arc::new(Published::new(Layer::new(0)));
            // A thread that learned of a publication by other means (such as the end of a flush)
            // must see it with its next pin.
            let told = Arc::new(AtomicUsize::new(0));
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (published, told) = (published.clone(), told.clone());
                    thread::spawn(move || {
                        let mut cached = CachedVersion::new(&published);
                        for _ in 0..2 {
                            let at_least = told.load(Ordering::Acquire) as u64;
                            if cached.is_stale(&published) {
                                cached.refresh(&published);
                            }
                            assert!(cached.value().content >= at_least);
                            cached.value().read();
                        }
                    })
                })
                .collect();
            for content in 1..3 {
                published.publish(|_| Layer::new(content));
                told.store(content as usize, Ordering::Release);
                as_reclaimer(|| drop(published.reclaim()));
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            as_reclaimer(|| {
                let reclaimed = published.reclaim();
                drop(reclaimed);
                let mut left = 0;
                published.for_each_retired(|_, _| left += 1);
                assert_eq!(left, 0, "nobody holds anything, so everything was reclaimed");
                drop(published);
            });
        });
    }

    /// A holder that releases a replaced value wakes the reclaimer, or the reclaimer was woken
    /// later and has seen the release.
    #[test]
    fn nothing_that_was_let_go_of_is_left() {
        loom::model(|| {
            let published = Arc::new(Published::new(Layer::new(0)));
            let holder = {
                let published = published.clone();
                thread::spawn(move || {
                    let held = published.load();
                    let number = held.number();
                    drop(held);
                    published.is_replaced(number)
                })
            };
            published.publish(|_| Layer::new(1));
            as_reclaimer(|| drop(published.reclaim()));
            let woken = holder.join().unwrap();
            as_reclaimer(|| {
                if woken {
                    drop(published.reclaim());
                }
                let mut left = 0;
                published.for_each_retired(|_, _| left += 1);
                assert_eq!(left, 0, "nobody holds it and nobody will look");
                drop(published);
            });
        });
    }

    #[test]
    fn a_snapshot_outlives_its_reader() {
        loom::model(|| {
            let published = Arc::new(Published::new(Layer::new(0)));
            let done = Arc::new(AtomicBool::new(false));
            let holder = {
                let (published, done) = (published.clone(), done.clone());
                thread::spawn(move || {
                    let held = published.load();
                    held.value().read();
                    drop(held);
                    done.store(true, Ordering::Release);
                })
            };
            published.publish(|_| Layer::new(1));
            as_reclaimer(|| drop(published.reclaim()));
            holder.join().unwrap();
            assert!(done.load(Ordering::Acquire));
            as_reclaimer(|| {
                drop(published.reclaim());
                drop(published);
            });
        });
    }
}
