//! A layer file whose pages cannot be read for a while: reads that may not wait do not, all others
//! do.
//!
//! The file is in memory (tmpfs) with a hole in it, and the test answers the hole's page faults
//! (`man 2 userfaultfd`). So a page arrives when the test decides, and a thread that touches it
//! earlier is stopped until then.

use std::{
    env,
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use pagestrata::{Key, Lsn, Options, Ready, Scratch, Store, Timeline, Value};

const PAGE: usize = 4096;
const PAGES: u32 = 64;

fn key(block: u32) -> Key {
    Key::new(1, block)
}

fn image(block: u32) -> Vec<u8> {
    (0..8192).map(|at| (at * 3 + block * 7) as u8).collect()
}

/// Where a file is mapped in this process.
fn mapping_of(path: &Path) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with(path.to_str().unwrap())).unwrap();
    let (start, rest) = line.split_once('-').unwrap();
    let (end, _) = rest.split_once(' ').unwrap();
    let number = |hex| usize::from_str_radix(hex, 16).unwrap();
    (number(start), number(end) - number(start))
}

/// Faults of one mapping, answered by this process.
struct Faults(File);

impl Faults {
    /// None where the system does not let us.
    fn of(start: usize, len: usize) -> Option<Faults> {
        const API: libc::c_ulong = 0xC018_AA3F;
        const REGISTER: libc::c_ulong = 0xC020_AA00;
        const MISSING: u64 = 1;
        // SAFETY: makes a file descriptor, which the file then owns.
        let faults = unsafe {
            let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK);
            (fd >= 0).then(|| File::from_raw_fd(fd as i32))?
        };
        let mut api = [0xAA_u64, 0, 0];
        let mut register = [start as u64, len as u64, MISSING, 0];
        // SAFETY: each call reads and writes the structure that it is given, which has the size
        // that the number says.
        let done = unsafe {
            libc::ioctl(faults.as_raw_fd(), API, api.as_mut_ptr()) == 0
                && libc::ioctl(faults.as_raw_fd(), REGISTER, register.as_mut_ptr()) == 0
        };
        assert!(done, "{}", io::Error::last_os_error());
        Some(Faults(faults))
    }

    /// The next fault's page, if there is one soon.
    fn next(&mut self) -> Option<usize> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure is given, and one is said to be.
        if unsafe { libc::poll(&raw mut poll, 1, 20) } != 1 {
            return None;
        }
        let mut message = [0; 32];
        match self.0.read_exact(&mut message) {
            // Another thread was faster: a thread that faulted may continue.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            read => read.unwrap(),
        }
        assert_eq!(message[0], 0x12, "a page fault");
        Some(u64::from_le_bytes(*message[16..].first_chunk().unwrap()) as usize / PAGE * PAGE)
    }

    /// Puts a page where one is missing.
    fn answer(&self, address: usize, page: &[u8; PAGE]) {
        const COPY: libc::c_ulong = 0xC028_AA03;
        let mut copy = [address as u64, page.as_ptr().addr() as u64, PAGE as u64, 0, 0];
        // SAFETY: the destination is a page of a mapping that faults were registered for, the
        // source is a page.
        let failed = unsafe { libc::ioctl(self.0.as_raw_fd(), COPY, copy.as_mut_ptr()) };
        let error = io::Error::last_os_error();
        assert!(failed == 0 || error.raw_os_error() == Some(libc::EEXIST), "{error}");
    }
}

fn written(dir: &Path) -> (Store, Timeline, PathBuf) {
    let (store, _) = Store::open(dir, Options::default()).unwrap();
    let timeline = store.create_timeline("main", Lsn(1)).unwrap();
    let mut lease = timeline.write_lease().unwrap();
    for block in 0..PAGES {
        lease.put(key(block), Lsn(2), Value::Image(&image(block))).unwrap();
    }
    lease.commit(Lsn(2)).unwrap();
    drop(lease);
    timeline.flush().unwrap();
    let path = timeline.layers().remove(0).path;
    (store, timeline, path)
}

#[test]
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn a_read_that_may_not_wait_never_does() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no file system in memory at /dev/shm");
        return;
    };
    let (_store, timeline, path) = written(dir.path());
    let (start, len) = mapping_of(&path);
    let Some(mut faults) = Faults::of(start, len) else {
        eprintln!("skipped: {}", io::Error::last_os_error());
        return;
    };
    let bytes = std::fs::read(&path).unwrap();
    // The middle is gone: the index at the end is there.
    let (hole, hole_len) = (32 << 10, 256 << 10);
    let file = File::options().write(true).open(&path).unwrap();
    // SAFETY: makes a hole in a file that is open.
    let failed = unsafe {
        let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        libc::fallocate(file.as_raw_fd(), how, hole as i64, hole_len as i64)
    };
    assert_eq!(failed, 0);

    // Pages come when they are let to, or after a minute: a read that waits for one then fails the
    // test instead of hanging.
    let (let_go, going) = mpsc::channel::<()>();
    let (not_over, over) = mpsc::channel::<()>();
    let pages = thread::spawn(move || {
        let in_time = going.recv_timeout(Duration::from_secs(60)).is_ok();
        loop {
            match (faults.next(), over.try_recv()) {
                (Some(address), _) => {
                    let at = address - start;
                    let end = bytes.len().min(at + PAGE);
                    let mut page = [0; PAGE];
                    page[..end - at].copy_from_slice(&bytes[at..end]);
                    faults.answer(address, &page);
                }
                (None, Err(mpsc::TryRecvError::Disconnected)) => return in_time,
                (None, _) => {}
            }
        }
    });

    let (mut reader, mut scratch) = (timeline.reader(), Scratch::new());
    let guard = reader.pin();
    let cold = PAGES / 4;
    let Ready::Cold(mut fetch, _) = guard.try_versions(key(cold), Lsn(2), &mut scratch).unwrap()
    else {
        panic!("it is not there")
    };
    let extents = fetch.extents();
    assert!(extents.iter().all(|extent| extent.path == path));
    fetch.start();
    let delay = env::var("PAGESTRATA_DELAY_SECONDS").map_or(0.2, |text| text.parse().unwrap());
    let (began, mut reads, mut longest) = (Instant::now(), 0_u64, Duration::ZERO);
    let mut sum = Duration::ZERO;
    // The block's pages cannot be read all the while.
    while began.elapsed() < Duration::from_secs_f64(delay) || reads < 1000 {
        let one = Instant::now();
        match guard.try_versions(key(cold), Lsn(2), &mut scratch).unwrap() {
            Ready::Cold(again, _) => assert_eq!(again.extents(), extents),
            Ready::Hit(_) => panic!("nobody has let it go"),
        }
        let warm = guard.try_versions(key(PAGES - 1), Lsn(2), &mut scratch).unwrap();
        let Ready::Hit(found) = warm else { panic!("what is there is read") };
        assert_eq!(found.newest().unwrap().bytes[0], image(PAGES - 1)[0]);
        let took = one.elapsed();
        (reads, longest, sum) = (reads + 2, longest.max(took), sum + took);
    }
    println!(
        "{reads} reads in {:?} in which a page could not be read: {:?} for two, the longest {longest:?}",
        began.elapsed(),
        sum / (reads / 2) as u32,
    );
    let_go.send(()).unwrap();
    // A read that may wait does, and succeeds.
    let mut others = (0..PAGES).map(|block| (cold + block) % PAGES);
    assert!(others.all(|block| {
        let found = guard.versions(key(block), Lsn(2), &mut scratch).unwrap();
        found.newest().unwrap().bytes == image(block)
    }));
    drop(not_over);
    assert!(pages.join().unwrap(), "somebody waited for a page who may not");
}
