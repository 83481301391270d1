//! S21 and S22: one store, one owner. What a fork leaves in a child does nothing, and an open store
//! stays in the directory that it opened.
#![allow(unsafe_code)]

use std::{
    fs,
    future::Future,
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use pagestrata::{
    Access, Background, Durability, Error, Key, LayersError, Lsn, Options, Scratch, Store,
    Timeline, Value,
};

use super::{check, child, commit, options, write};

fn made(dir: &Path, options: Options) -> (Store, Timeline) {
    let (store, _) = Store::open(dir, options).unwrap();
    let main = store.create_timeline("main", Lsn(1)).unwrap();
    (store, main)
}

fn reopened(dir: &Path, options: Options) -> u64 {
    let (store, _) = Store::open(dir, options).unwrap();
    check(&store.timeline("main").unwrap())
}

/// Does something in a forked process, which then ends without running anything else. Panics with
/// what it says is wrong.
#[track_caller]
fn in_child(work: impl FnOnce() -> Result<(), String>) {
    // SAFETY: the child ends in `_exit`, whatever its work does; glibc's allocator can be used in
    // it.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let status = match done {
                Ok(Ok(())) => 0,
                Ok(Err(wrong)) => {
                    let wrong = format!("in the child: {wrong}\n");
                    // SAFETY: the buffer is as long as is said.
                    unsafe { libc::write(2, wrong.as_ptr().cast(), wrong.len()) };
                    1
                }
                Err(_) => 2,
            };
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(status) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: waits for the child and stores its status.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "the child has found something wrong");
        }
    }
}

/// The copy of a value that a forked child has.
///
/// # Safety
/// Only in a child that never uses `value` again.
unsafe fn copy_of<T>(value: &T) -> T {
    // SAFETY: the caller does not use the value again, so this is its only owner.
    unsafe { ptr::read(value) }
}

fn must_be_closed<T>(what: &str, result: pagestrata::Result<T>) -> Result<(), String> {
    match result {
        Err(Error::Closed) => Ok(()),
        Err(error) => Err(format!("{what}: expected that it is closed, found: {error}")),
        Ok(_) => Err(format!("{what}: expected that it is closed, but it was done")),
    }
}

/// How a child gets rid of its copy.
#[derive(Clone, Copy)]
enum Close {
    Now,
    Later,
    Never,
}

/// What a future comes to at once.
fn now<T>(future: impl Future<Output = T>) -> Result<T, String> {
    match Box::pin(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Ok(outcome),
        Poll::Pending => Err("it would wait".to_owned()),
    }
}

#[test]
fn s21_a_fork_leaves_a_child_nothing_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    child::run("forks_with_a_store_open", dir.path(), "").assert_success();
}

/// In a process of its own.
pub(super) fn forks_with_a_store_open(dir: &Path) {
    let threads = Options { background: Background::Threads, ..options() };
    let external = Options { durability: Durability::External, ..threads.clone() };
    for (name, options) in [("callers", options()), ("threads", threads), ("external", external)] {
        forks(&dir.join(name), &options);
        forks_in_an_import(&dir.join(format!("{name} importing")), &options);
    }
}

/// The file that is being written stays, and gets nothing of the child's.
fn forks_in_an_import(dir: &Path, options: &Options) {
    let (store, main) = made(dir, options.clone());
    let mut lease = main.write_lease().unwrap();
    let mut import = lease.import_images(Lsn(10)).unwrap();
    import.put(Key::new(1, 1), &[1; 9000]).unwrap();
    for drops in [true, false] {
        in_child(|| {
            // SAFETY: the child uses this copy alone.
            let mut import = unsafe { copy_of(&import) };
            must_be_closed("put", import.put(Key::new(1, 2), &[2; 9000]))?;
            if drops {
                drop(import);
                return Ok(());
            }
            must_be_closed("finish", import.finish())
        });
    }
    import.put(Key::new(1, 3), &[3; 9000]).unwrap();
    assert_eq!(import.finish().unwrap().images, 2);
    drop(lease);
    drop((main, store));
    let (store, _) = Store::open(dir, options.clone()).unwrap();
    let (snapshot, mut scratch) = (store.timeline("main").unwrap().snapshot(), Scratch::new());
    let mut has = |block| {
        let found = snapshot.guard().versions(Key::new(1, block), Lsn(10), &mut scratch).unwrap();
        found.newest().map(|version| version.bytes.to_vec())
    };
    assert_eq!([has(1), has(2), has(3)], [Some(vec![1; 9000]), None, Some(vec![3; 9000])]);
}

fn forks(dir: &Path, options: &Options) {
    let (store, main) = made(dir, options.clone());
    write(&main, 1..=20);
    main.flush().unwrap();
    write(&main, 21..=30);
    let (mut reader, snapshot) = (main.reader(), main.snapshot());
    let last = reader.pin().last_record_lsn();
    let mut lease = main.write_lease().unwrap();
    let ticket = commit(&mut lease, 31).unwrap();
    lease.put(Key::new(9, 9), Lsn(315), Value::Image(b"not committed")).unwrap();
    let mut waiting = Box::pin(main.wait_for(Lsn(9999)));
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut nobody).is_pending());
    for closes in [Close::Now, Close::Later, Close::Never] {
        in_child(|| {
            // SAFETY: the child uses this copy alone.
            let mut waiting = unsafe { copy_of(&waiting) };
            match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(done) => must_be_closed("wait_for", done)?,
                Poll::Pending => return Err("wait_for would wait".to_owned()),
            }
            drop(waiting);
            // SAFETY: the child uses these copies alone.
            let (store, main, mut reader, snapshot, mut lease, ticket) = unsafe {
                let of = (copy_of(&store), copy_of(&main), copy_of(&reader));
                (of.0, of.1, of.2, copy_of(&snapshot), copy_of(&lease), copy_of(&ticket))
            };
            must_be_closed("create_timeline", store.create_timeline("child", Lsn(1)))?;
            must_be_closed("timeline", store.timeline("main"))?;
            let found = store.open_or_create_timeline("main", Lsn(1));
            must_be_closed("open_or_create_timeline", found)?;
            must_be_closed("newest", lease.newest(Key::new(1, 1)))?;
            must_be_closed("flush of a lease", lease.flush())?;
            must_be_closed("flush_async", now(main.flush_async())?)?;
            let put = lease.put(Key::new(1, 1), Lsn(320), Value::Image(b"of the child"));
            must_be_closed("put", put)?;
            must_be_closed("commit", lease.commit(Lsn(320)))?;
            must_be_closed("roll", lease.roll())?;
            must_be_closed("import_images", lease.import_images(Lsn(400)))?;
            must_be_closed("write_lease", main.write_lease())?;
            must_be_closed("wait", ticket.wait())?;
            must_be_closed("flush", main.flush())?;
            must_be_closed("snapshot_at", main.snapshot_at(Lsn(20)))?;
            must_be_closed("prefetch", main.prefetch(&[Key::new(1, 1)], Lsn(20)))?;
            match Store::open(dir, options.clone()) {
                Err(Error::Locked { .. }) => {}
                other => return Err(format!("the parent has it open: {other:?}")),
            }
            if !store.timelines().is_empty() || !main.pins().is_empty() {
                return Err("a child has no timelines and no pins".to_owned());
            }
            let new = (main.reader(), main.snapshot(), store.stats(), main.stats(), main.layers());
            let mut scratch = Scratch::new();
            let read = new.1.guard().history(Key::new(1, 1), last, &mut scratch);
            must_be_closed("read", read.map(drop))?;
            drop(new);
            reader.unpin();
            drop((reader, snapshot, lease, main));
            match closes {
                Close::Now => must_be_closed("close", store.close(Duration::ZERO)),
                Close::Later => {
                    must_be_closed("close_async", now(store.close_async(Duration::ZERO))?)
                }
                Close::Never => {
                    drop(store);
                    Ok(())
                }
            }
        });
        assert!(matches!(Store::open(dir, options.clone()), Err(Error::Locked { .. })));
        child::run("opens_a_locked_store", dir, "").assert_success();
    }
    // Nothing of it has happened here.
    assert!(waiting.as_mut().poll(&mut nobody).is_pending());
    drop(waiting);
    lease.abort();
    ticket.wait().unwrap();
    drop(lease);
    write(&main, 32..=60);
    main.flush().unwrap();
    write(&main, 61..=70);
    assert_eq!(check(&main), 70);
    assert_eq!(main.pins().len(), 2, "those of this process are counted still");
    drop((reader, snapshot));
    let (main_lsn, report) = (main.last_record_lsn(), store.close(Duration::ZERO).unwrap());
    assert_eq!((main_lsn, report.pins.len()), (Lsn(700), 0));
    assert_eq!(reopened(dir, options.clone()), 70);
}

#[test]
fn s21_forks_while_the_store_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    child::run("forks_with_a_busy_store", dir.path(), "").assert_success();
}

/// In a process of its own: whatever locks other threads hold at the moment of the fork, no child
/// waits for one.
pub(super) fn forks_with_a_busy_store(dir: &Path) {
    let busy = Options { background: Background::Threads, ..options() };
    let (store, main) = made(dir, busy.clone());
    let is_done = AtomicBool::new(false);
    let committed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut lease, mut last) = (main.write_lease().unwrap(), 0);
            while !is_done.load(Ordering::Relaxed) {
                last += 1;
                commit(&mut lease, last).unwrap().wait().unwrap();
            }
            last
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                drop((main.reader(), main.snapshot(), main.stats(), main.pins()));
            }
        });
        let snapshot = main.snapshot();
        for _ in 0..100 {
            in_child(|| {
                // SAFETY: the child uses these copies alone.
                let (store, main, snapshot) =
                    unsafe { (copy_of(&store), copy_of(&main), copy_of(&snapshot)) };
                must_be_closed("flush", main.flush())?;
                must_be_closed("create_timeline", store.create_timeline("child", Lsn(1)))?;
                drop((main.reader(), main.snapshot(), main.stats(), main.pins(), store.stats()));
                drop((snapshot, main, store));
                Ok(())
            });
        }
        is_done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert_eq!(check(&main), committed);
    drop(main);
    store.close(Duration::ZERO).unwrap();
    assert_eq!(reopened(dir, busy), committed);
}

/// Two stores with one path after the other; what the old one does after it was moved away, and
/// what each holds in the end.
fn moves_away(access: Access, background: Background, ids: [u128; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let (path, away) = (dir.path().join("store"), dir.path().join("away"));
    let [old, new] = ids.map(|id| Options {
        access,
        background,
        store_id: Some(id),
        // Pages are read from files that are opened when they are needed.
        open_files_max: 1,
        ..options()
    });
    let (store, main) = made(&path, old.clone());
    write(&main, 1..=300);
    main.flush().unwrap();
    write(&main, 301..=310);
    fs::rename(&path, &away).unwrap();
    let (new_store, new_main) = made(&path, new.clone());
    write(&new_main, 1..=7);
    new_main.flush().unwrap();
    write(&new_main, 8..=9);

    assert_eq!(check(&main), 310);
    write(&main, 311..=900);
    main.flush().unwrap();
    store.create_timeline("another", Lsn(1)).unwrap();
    write(&main, 901..=905);
    assert_eq!(check(&main), 905);
    write(&new_main, 10..=12);
    drop((main, store));

    assert_eq!(check(&new_main), 12);
    assert_eq!(new_store.timelines().len(), 1);
    drop((new_main, new_store));
    assert_eq!(reopened(&path, new), 12, "of the store that was made in its place");
    let (store, report) = Store::open(&away, old).unwrap();
    let is_spare = |name: &String| name.ends_with(".log");
    assert!(report.orphans_removed.iter().all(is_spare), "{report:?}");
    assert_eq!(store.timelines().len(), 2);
    assert_eq!(check(&store.timeline("main").unwrap()), 905, "of the store that was moved");
}

#[test]
fn s22_a_store_that_is_moved_away_while_it_is_open() {
    for access in [Access::MMAP, Access::Pread, Access::Direct] {
        moves_away(access, Background::Callers, [7, 8]);
    }
    moves_away(Access::MMAP, Background::Threads, [7, 8]);
    // Also when nothing tells them apart but their directories.
    moves_away(Access::MMAP, Background::Callers, [7, 7]);
}

/// The same directory, emptied, and another store made in it.
#[test]
fn s22_a_directory_that_is_emptied_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("store"), dir.path().join("aside"));
    let (store, main) = made(&path, options());
    write(&main, 1..=20);
    main.flush().unwrap();
    write(&main, 21..=30);
    fs::create_dir(&aside).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        fs::rename(entry.path(), aside.join(entry.file_name())).unwrap();
    }
    // Nothing is here: the first to look finds that out.
    assert!(store.create_timeline("another", Lsn(1)).is_err());
    let other = Options { store_id: Some(8), ..options() };
    let (new_store, new_main) = made(&path, other.clone());
    write(&new_main, 1..=9);
    new_main.flush().unwrap();
    let refused = store.create_timeline("another", Lsn(1)).unwrap_err();
    assert!(
        matches!(&refused, Error::Layers(LayersError::DirectoryReplaced { path: named })
            if *named == path.join("timelines")),
        "{refused}"
    );
    assert!(main.flush().is_err());
    assert_eq!(check(&main), 30);
    drop((main, store));
    write(&new_main, 10..=12);
    drop((new_main, new_store));
    assert_eq!(reopened(&path, other), 12);
    assert_eq!(reopened(&aside, options()), 30);
}
