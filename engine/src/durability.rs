//! What an acknowledged commit survives: each guarantee with the tests that check it.
//!
//! A commit is acknowledged when [`CommitTicket::wait`](crate::CommitTicket::wait), or the awaited
//! ticket, has returned without an error. [`Options::durability`](crate::Options::durability) says
//! what that means:
//!
//! | | the process exits or is killed | the operating system crashes, or power is lost |
//! |---|---|---|
//! | `Synced` | nothing is lost | nothing is lost |
//! | `Buffered { sync_interval }` | nothing is lost | commits since the last sync of the log may be lost |
//! | `External` | what was not flushed is lost | what was not flushed is lost |
//!
//! Test names are those of `cargo test -p pagestrata --test all` (`module::test`), unless another
//! place is named. A scenario runs once for each way to read layer files:
//! `scenarios::flush::s6_...` stands for `scenarios::flush::mmap::s6_...`,
//! `scenarios::flush::pread::s6_...` and `scenarios::flush::direct::s6_...`.
//!
//! # In every mode
//!
//! - A store opens with a prefix of each timeline's commits, never with half of a commit: all tests
//!   of `crashes`, and the example `crash_explorer`, which runs for as long as it is told to.
//! - Everything in layer files (at or below
//!   [`disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn)) survives every kind of crash:
//!   `faults::every_fault_leaves_a_store_with_all_that_was_acknowledged`.
//! - A flush that was interrupted is done again:
//!   `scenarios::flush::s6_crash_between_the_layer_and_the_manifest`. A commit that is both in a
//!   layer file and in the log is read once:
//!   `scenarios::flush::s7_crash_between_the_manifest_and_the_log`.
//! - An open that was interrupted can be repeated any number of times:
//!   `scenarios::log::s1_power_cut_mid_append_then_kills_during_recovery`.
//! - A commit that races with [`Store::close`](crate::Store::close) is flushed, listed in the
//!   report as not flushed, or refused:
//!   `stalls::a_commit_that_passes_just_before_close_is_reported_or_refused`.
//!
//! # `Synced`
//!
//! - An acknowledged commit survives a crash of the process at any moment: the test `kill` of this
//!   package, on a real disk, with `SIGKILL`; `engine/rigs/inject_faults.sh`, at every system call.
//! - It survives a crash of the operating system or a power loss at any moment, whichever unsynced
//!   data and directory entries are lost: `crashes`, on a simulated disk that keeps any subset of
//!   unsynced sectors and names that POSIX allows.
//! - It survives a failed sync: commits that wait for the sync get an error, the store refuses
//!   further writes, and after a reopen everything acknowledged is there:
//!   `scenarios::log::s3_a_sync_of_the_log_fails`. This holds even if the system keeps returning
//!   bytes that never reached the disk (the same test, and `crashes`), and if it stops returning
//!   them while the store is being opened (`what_is_written_again_is_what_was_read` of the package
//!   `pagestrata-wal`).
//! - A commit that was not acknowledged is, after a reopen, there as a whole or not at all:
//!   `scenarios::log::s1_power_cut_mid_append_then_kills_during_recovery`.
//!
//! # `Buffered`
//!
//! - An acknowledged commit survives a crash of the process at any moment: the test `kill`, which
//!   also runs in this mode; `log::what_was_acknowledged_is_there_after_every_reopen`.
//! - It survives a power loss only once the log is synced, which happens every `sync_interval` and
//!   when the store is closed, or once it is flushed. `crashes` accepts the loss of unsynced
//!   commits from the end of the log, and no other loss.
//! - A commit that asked to be synced
//!   ([`CommitDurability::Synced`](crate::CommitDurability::Synced)) survives a power loss once it
//!   is acknowledged, and so does everything committed before it:
//!   `stalls::a_synced_commit_of_a_buffered_store_survives_a_power_failure`.
//!
//! # `External`
//!
//! - A commit that asks to be synced is refused:
//!   `stalls::a_store_without_a_log_refuses_a_synced_commit`.
//! - A commit survives once it is flushed, and not before. After a reopen the caller must stream
//!   its own log again from [`disk_consistent_lsn`](crate::Timeline::disk_consistent_lsn):
//!   `log::a_log_is_read_by_a_store_that_writes_none`,
//!   `faults::every_fault_leaves_a_store_with_all_that_was_acknowledged`.
//!
//! # When the disk lies
//!
//! - Damage in synced data is an error that names the segment, the offset, what was expected and
//!   what was found, and the store does not open:
//!   `log_damage::every_bit_of_a_log_of_synced_commits`, `log_damage::zeroed_ranges_and_cut_files`,
//!   `log_damage::sectors_of_older_generations`,
//!   `log_damage::segments_swapped_removed_and_duplicated`. With
//!   [`Options::salvage_log`](crate::Options::salvage_log) the store opens read-only, with
//!   everything before the damage: `scenarios::log::s2_bit_flip_in_the_middle_of_the_log`.
//! - When the disk is full a commit is refused before it has any effect. Once there is space, the
//!   same commit succeeds: `scenarios::log::s4_no_space_to_append_to_the_log`,
//!   `scenarios::surroundings::a_small_disk_that_is_full`.
//! - If a layer file cannot be written, its layer stays in memory and in the log:
//!   `scenarios::flush::s5_no_space_for_a_layer_file`.
//! - Opening a store with a truncated layer file is refused:
//!   `scenarios::damage::s14_a_layer_file_that_was_cut_is_not_opened`. If another program truncates
//!   a mapped file of an open store, access to the missing part kills the process with `SIGBUS`, as
//!   with every memory map; no other program may write to the files of an open store:
//!   `scenarios::surroundings::s14_a_layer_file_that_is_cut_while_it_is_open`. Reads that do not
//!   wait check before they touch the mapping, and files that are not mapped
//!   ([`Options::access`](crate::Options::access)) are not affected: these reads return an error
//!   (the same test, and `access::a_file_that_was_cut_is_an_error`).
//! - A damaged block of a layer file fails the reads that touch it, with file and offset. Other
//!   pages stay readable, [`StoreStats::quarantined`](crate::StoreStats::quarantined) names the
//!   file, and a reopen finds the same damage:
//!   `scenarios::damage::s12_bit_flip_in_a_block_of_a_layer_file`. A store with a layer file whose
//!   footer or index root is damaged does not open.
//! - An older CURRENT or manifest that was restored beside newer layer files is an error that names
//!   the files the manifest does not explain; nothing is removed:
//!   `scenarios::restored::s23_an_older_manifest_beside_newer_layers`.
//! - Opening a store read-only changes no byte of it:
//!   `scenarios::restored::s23_a_reading_open_changes_nothing`.
//! - An operation whose allocation of 256 KiB or more fails returns an error, and the store stays
//!   usable: the test `large_allocations` of this package.
//!
//! # When the environment changes
//!
//! - While a store is open, a second open by this or another process is refused:
//!   `scenarios::manifest::s17_two_processes_and_one_store`. The same holds while a child made by
//!   `fork` has a copy of the store. In the child, every call returns
//!   [`Error::Closed`](crate::Error::Closed), and dropping the store releases nothing, waits for
//!   nothing and touches no file: `scenarios::ownership`, the tests of `s21`.
//! - A store whose directory is moved stays in that directory, and writes nothing to another one at
//!   the old path: `scenarios::ownership::s22_a_store_that_is_moved_away_while_it_is_open`. If the
//!   directory is emptied and another store is made in it, the first store leaves it alone:
//!   `scenarios::ownership::s22_a_directory_that_is_emptied_while_it_is_open`.
//! - A FIFO, socket, device, directory or link in the place of a file, or a file without read
//!   permission, is an immediate error that names it: `scenarios::kinds`, the tests of `s24`.
//! - A failed open releases every descriptor, mapping, thread and byte:
//!   `scenarios::failed_opens::s25_openings_that_fail_leave_nothing`.
//!
//! # What is assumed
//!
//! - A sector of 512 bytes is written whole or not at all, and a power loss while a sector is
//!   written does not damage bytes of it that were synced before. (SQLite calls this powersafe
//!   overwrite. The log continues in the sector where the last sync ended.)
//! - A sync that reports success has made everything durable. No program can do without this.
//! - Damage to the most recently synced data *together with* a power loss is taken for a torn tail:
//!   the file `log/SYNCED`, which records the last sync, may lag behind then. Either one alone is
//!   detected.
//! - No other program writes into the store's directory.
