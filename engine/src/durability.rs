//! What an acknowledged commit survives, sentence by sentence, each with the tests that show it.
//!
//! A commit is acknowledged when [`CommitTicket::wait`](crate::CommitTicket::wait), or the awaited
//! ticket, has returned without an error. [`Options::durability`](crate::Options::durability) says
//! what that means:
//!
//! | | the process ends or is killed | the operating system stops, or the power fails |
//! |---|---|---|
//! | `Synced` | nothing is lost | nothing is lost |
//! | `Buffered { sync_interval }` | nothing is lost | what was committed since the last sync of the log may be |
//! | `External` | what was not flushed is lost | what was not flushed is lost |
//!
//! Test names are those of `cargo test -p pagestrata --test all` (`module::test`), unless another
//! place is named. A scenario runs once for each way to read layer files:
//! `scenarios::flush::s6_...` stands for `scenarios::flush::mmap::s6_...`,
//! `scenarios::flush::pread::s6_...` and `scenarios::flush::direct::s6_...`.
//!
//! # In every mode
//!
//! - A store opens with one commit of each timeline and everything before it, never with half of
//!   one: `crashes`, all of them, and the example `crash_explorer`, which goes on for as long as
//!   one likes.
//! - What was in layer files (at or below
//!   [`disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn)) is there whatever stops:
//!   `faults::every_fault_leaves_a_store_with_all_that_was_acknowledged`.
//! - A layer file that was being flushed is flushed again:
//!   `scenarios::flush::s6_crash_between_the_layer_and_the_manifest`; a commit that is in a layer
//!   file and in the log is there once:
//!   `scenarios::flush::s7_crash_between_the_manifest_and_the_log`.
//! - Opening is repeated safely, however often it is cut short:
//!   `scenarios::log::s1_power_cut_mid_append_then_kills_during_recovery`.
//! - A commit beside [`Store::close`](crate::Store::close) is flushed, or named in the report as
//!   not flushed, or refused:
//!   `stalls::a_commit_that_passes_just_before_close_is_reported_or_refused`.
//!
//! # `Synced`
//!
//! - An acknowledged commit survives the end of the process at any moment: the test `kill` of this
//!   package, on a real disk, with `SIGKILL`; `engine/rigs/inject_faults.sh`, at every system
//!   call.
//! - It survives that the operating system stops or the power fails at any moment, whatever was not
//!   synced of files and names: `crashes`, on a simulated disk that keeps any subset of unsynced
//!   sectors and names that POSIX allows.
//! - It survives a sync that fails: commits that wait for it get an error, nothing is written any
//!   more, and after a reopen what was acknowledged is there:
//!   `scenarios::log::s3_a_sync_of_the_log_fails`. Also when the system goes on showing bytes that
//!   never reached the disk: the same test, and `crashes`; and when it stops to while the store is
//!   being opened: `what_is_written_again_is_what_was_read` of the package `pagestrata-wal`.
//! - A commit that was not acknowledged may be there after a reopen, whole:
//!   `scenarios::log::s1_power_cut_mid_append_then_kills_during_recovery`.
//!
//! # `Buffered`
//!
//! - An acknowledged commit survives the end of the process at any moment: the test `kill`, which
//!   runs in this mode too; `log::what_was_acknowledged_is_there_after_every_reopen`.
//! - It does not survive a power failure before the log is synced, which happens every
//!   `sync_interval` and when the store is closed, or before it is flushed: `crashes` accepts the
//!   loss of such commits, from the end, and of no others.
//! - A commit that asked to be synced
//!   ([`CommitDurability::Synced`](crate::CommitDurability::Synced)) survives a power failure once
//!   it is acknowledged, with everything that was committed before it:
//!   `stalls::a_synced_commit_of_a_buffered_store_survives_a_power_failure`.
//!
//! # `External`
//!
//! - A commit cannot ask to be synced, and is refused:
//!   `stalls::a_store_without_a_log_refuses_a_synced_commit`.
//! - Commits survive when they are flushed, and only then; after a reopen the caller streams its
//!   own log again from [`disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn):
//!   `log::a_log_is_read_by_a_store_that_writes_none`,
//!   `faults::every_fault_leaves_a_store_with_all_that_was_acknowledged`.
//!
//! # When the disk lies
//!
//! - Damage in what was synced is an error that names the segment, the offset, what was expected
//!   and what was found, and the store does not open:
//!   `log_damage::every_bit_of_a_log_of_synced_commits`, `log_damage::zeroed_ranges_and_cut_files`,
//!   `log_damage::sectors_of_older_generations`,
//!   `log_damage::segments_swapped_removed_and_duplicated`. With
//!   [`Options::salvage_log`](crate::Options::salvage_log) it opens to be read only, up to the
//!   damage: `scenarios::log::s2_bit_flip_in_the_middle_of_the_log`.
//! - A full disk refuses a commit before anything of it is done, and when there is room again the
//!   same commit goes through: `scenarios::log::s4_no_space_to_append_to_the_log`,
//!   `scenarios::surroundings::a_small_disk_that_is_full`.
//! - A layer file that cannot be written stays in memory and in the log:
//!   `scenarios::flush::s5_no_space_for_a_layer_file`.
//! - A layer file that somebody cuts off is refused when the store is opened:
//!   `scenarios::damage::s14_a_layer_file_that_was_cut_is_not_opened`. While it is mapped, touching
//!   what is gone ends the process with `SIGBUS`, as with every memory map, so keep others from
//!   writing into a store that is open:
//!   `scenarios::surroundings::s14_a_layer_file_that_is_cut_while_it_is_open`. A read that does not
//!   wait looks before it touches, and files that are not mapped
//!   ([`Options::access`](crate::Options::access)) cannot do this: these get an error, the same
//!   test and `access::a_file_that_was_cut_is_an_error`.
//! - A damaged block of a layer file fails the reads that touch it, with file and offset; other
//!   pages stay readable, the file is named by
//!   [`StoreStats::quarantined`](crate::StoreStats::quarantined), and a reopen finds the same:
//!   `scenarios::damage::s12_bit_flip_in_a_block_of_a_layer_file`. A store with a layer file whose
//!   footer or index root is damaged is not opened.
//! - An older CURRENT or manifest that is put back beside newer layer files is an error that names
//!   what it does not explain, and nothing is removed:
//!   `scenarios::restored::s23_an_older_manifest_beside_newer_layers`.
//! - A store that is opened to be read only is left as it was, byte for byte:
//!   `scenarios::restored::s23_a_reading_open_changes_nothing`.
//! - Memory of 256 KiB and more that the allocator refuses is an error of that operation, and the
//!   store goes on: the test `large_allocations` of this package.
//!
//! # When its surroundings change
//!
//! - A second opening, by this process or another, is refused as long as the store is open:
//!   `scenarios::manifest::s17_two_processes_and_one_store`. So it is while a child made by `fork`
//!   has a copy of the store, and whatever the child does with it: its calls return
//!   [`Error::Closed`](crate::Error::Closed), and its drop gives nothing back, waits for nobody and
//!   touches no file: `scenarios::ownership`, the tests of `s21`.
//! - A store whose directory is moved goes on in it, and writes nothing into another that takes its
//!   place: `scenarios::ownership::s22_a_store_that_is_moved_away_while_it_is_open`. A directory
//!   that is emptied and made another store's is left alone:
//!   `scenarios::ownership::s22_a_directory_that_is_emptied_while_it_is_open`.
//! - A FIFO, socket, device, directory or link in the place of a file, or a file that may not be
//!   read, is an error that names it, at once: `scenarios::kinds`, the tests of `s24`.
//! - An opening that fails gives back every descriptor, mapping, thread and byte:
//!   `scenarios::failed_opens::s25_openings_that_fail_leave_nothing`.
//!
//! # What is assumed
//!
//! - A sector of 512 bytes is written whole or not at all, and a power failure in the middle of
//!   writing a sector does not harm what a sync had made durable in it. (SQLite calls it powersafe
//!   overwrite. The log goes on in the sector where it was synced last.)
//! - A sync that reports success has made everything durable. No program can do without that.
//! - Damage of what was synced last *and* a power failure at once pass for a torn tail: what the
//!   log knows of its last sync outside of the segment (the file `log/SYNCED`) may be older then.
//!   One of both alone is found.
//! - No other program writes into the store's directory.
