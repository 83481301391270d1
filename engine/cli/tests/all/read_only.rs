//! Commands that only read leave a store as it was, byte for byte, whatever a crash has left in it.

use std::fs;

use crate::support::{contents, copy_dir, files, imported, ingested, run};

const PAGE: &str = "1663/5/16384/main/44";
const LSN: &str = "0/D726C8";

/// Every command that only reads, but for those that need a file's name.
const READING: [&str; 9] = [
    "get --store {}/store PAGE --lsn LSN -o {}/page",
    "versions --store {}/store PAGE --lsn LSN",
    "scan --store {}/store --lsn LSN",
    "explain --store {}/store PAGE --lsn LSN",
    "layers --store {}/store",
    "layers --store {}/store --json",
    "verify --store {}/store",
    "restore --store {}/store --lsn LSN --out {}/out",
    "diff --store {}/store --lsn LSN --base {}/base",
];

#[test]
fn what_only_reads_changes_nothing() {
    let dir = ingested();
    let store = dir.path().join("store");
    let layers = store.join("timelines/1");
    // What flushes and imports leave that a crash has cut off.
    fs::write(layers.join("00000003.tmp"), b"half a layer").unwrap();
    fs::write(layers.join("00000003.unfinished"), b"").unwrap();
    let manifest = files(&store).into_iter().find(|path| path.to_str().unwrap().contains("MANI"));
    let manifest = manifest.unwrap();
    let mut torn = fs::read(&manifest).unwrap();
    torn.extend([0x55; 33]);
    fs::write(&manifest, torn).unwrap();
    // A copy of the store may lack the file that is there to be locked.
    fs::remove_file(store.join("LOCK")).unwrap();
    let before = contents(&store);
    for command in READING {
        let arguments = command.replace("PAGE", PAGE).replace("LSN", LSN);
        let ran = run(dir.path(), &arguments);
        assert!(ran.code == 0 || command.starts_with("diff"), "{command}: {}", ran.stderr);
        let after = contents(&store);
        let names = |files: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
            files.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect()
        };
        assert_eq!(names(&after), names(&before), "{command}");
        assert!(after == before, "{command}");
    }
    let layer = files(&layers).into_iter().find(|path| path.extension().unwrap() == "delta");
    let layer = layer.unwrap();
    run(dir.path(), &format!("dump-layer {}", layer.display())).good();
    run(dir.path(), &format!("verify {}", layer.display())).good();
    assert!(contents(&store) == before);
    // A command that writes removes what is of no use.
    run(dir.path(), "ingest --store {}/store --wal {}/wal").good();
    let names = files(&layers);
    assert!(!names.iter().any(|path| path.to_str().unwrap().contains("00000003.")), "{names:?}");
}

#[test]
fn an_older_manifest_beside_newer_layers_is_refused() {
    let dir = imported();
    let store = dir.path().join("store");
    let backup = dir.path().join("backup");
    copy_dir(&store, &backup);
    let old = files(&store.join("timelines/1"));
    run(dir.path(), "ingest --store {}/store --wal {}/wal").good();
    let newer = files(&store.join("timelines/1")).into_iter().find(|path| !old.contains(path));
    let newer = newer.unwrap();
    for file in files(&backup).into_iter().filter(|path| path.is_file()) {
        fs::copy(&file, store.join(file.file_name().unwrap())).unwrap();
    }
    let before = contents(&store);
    let name = newer.file_name().unwrap().to_str().unwrap();
    for command in READING.into_iter().chain(["ingest --store {}/store --wal {}/wal"]) {
        let arguments = command.replace("PAGE", PAGE).replace("LSN", LSN);
        run(dir.path(), &arguments).failed(1, &["manifest", name]);
        assert!(contents(&store) == before, "{command}");
    }
}
