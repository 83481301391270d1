//! Keeps the house in order: rules about the source text that no compiler checks, each with the
//! file and the line that breaks it.
//!
//! The rules are functions of a list of sources, so that the tests can plant a file that breaks
//! one and see it found. What each crate's rooms are is in [`HOUSES`]; CONTRIBUTING.md says why
//! the rules are there.

mod imports;
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A crate, or a part of one, whose imports are checked.
pub(crate) struct House {
    /// The sources of the crate, from the root of the repository.
    pub(crate) dir: &'static str,
    /// The module that is the house; empty for the whole crate.
    pub(crate) module: &'static [&'static str],
    /// Its rooms, the highest first: modules with all that is below them. A room may import from
    /// those behind it in the list, and from files in no room, which are at the very bottom.
    pub(crate) rooms: &'static [&'static str],
}

pub(crate) const HOUSES: &[House] = &[
    House {
        dir: "engine/src",
        module: &[],
        rooms: &[
            "testing",
            "store",
            "write",
            "jobs",
            "read",
            "state",
            "layer_map",
            "metrics",
            "options",
            "error_kind",
            "error",
            "reports",
        ],
    },
    House { dir: "wal/src", module: &[], rooms: &["log", "replay", "group", "spares", "segment"] },
    House {
        dir: "layers/src",
        module: &[],
        rooms: &["testing", "memory", "manifest", "layer_file", "storage"],
    },
    House {
        dir: "layers/src",
        module: &["layer_file"],
        rooms: &["write", "read", "access", "format"],
    },
    House {
        dir: "engine/postgres/src",
        module: &[],
        rooms: &["replication", "backup", "redo", "wal"],
    },
    // No files of these rooms import each other in a circle.
    House { dir: "engine/postgres/src", module: &["replication"], rooms: &[] },
    House { dir: "engine/postgres/src", module: &["backup"], rooms: &[] },
    House { dir: "engine/postgres/src", module: &["redo"], rooms: &[] },
    House { dir: "engine/postgres/src", module: &["wal"], rooms: &[] },
];

/// A file of the repository.
#[derive(Clone)]
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every source of the repository that is ours.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut dirs: Vec<PathBuf> =
        ["layers", "wal", "engine", "benches", "fuzz"].map(|dir| root.join(dir)).into();
    let mut sources = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the repository") {
            let path = entry.expect("an entry").path();
            let is_built = path.ends_with("target") || path.ends_with("peers");
            if path.is_dir() && !is_built {
                dirs.push(path);
            } else if path.extension().is_some_and(|of| of == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(&root).expect("below the root");
                sources.push(Source { path: path.to_string_lossy().into_owned(), text });
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

/// Each violation of a rule, as `file:line: what is wrong`.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found: Vec<String> = sources.iter().flat_map(rules::of_file).collect();
    found.extend(HOUSES.iter().flat_map(|of| imports::violations(of, sources)));
    found
}

#[test]
fn the_tree_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 200, "{} sources", sources.len());
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// One file that breaks a rule, planted into the tree as it is, and what is to be said of it.
#[test]
fn each_rule_finds_a_planted_violation() {
    let sources = sources();
    let function = |lines: usize| format!("fn long() {{\n{}}}\n", "    f();\n".repeat(lines));
    let cases: &[(&str, String, &str)] = &[
        (
            "engine/src/layer_map/planted.rs",
            "use crate::store::Store;\n".into(),
            "engine/src/layer_map/planted.rs:1: layer_map imports from store, which is above it",
        ),
        (
            "engine/src/state/planted.rs",
            "\nfn f() -> crate::read::guard::Guard<'static> {\n    todo!()\n}\n".into(),
            "engine/src/state/planted.rs:2: state imports from read, which is above it",
        ),
        (
            "engine/src/jobs/planted.rs",
            "use super::super::write::lease::WriteLease;\n".into(),
            "engine/src/jobs/planted.rs:1: jobs imports from write, which is above it",
        ),
        (
            "engine/postgres/src/wal/planted.rs",
            "use crate::PageRedo;\n".into(),
            "engine/postgres/src/wal/planted.rs:1: wal imports from redo, which is above it",
        ),
        (
            "engine/postgres/src/redo/planted.rs",
            "fn f(of: &crate::backup::control_file::ControlFile) {}\n".into(),
            "engine/postgres/src/redo/planted.rs:1: redo imports from backup, which is above it",
        ),
        (
            "engine/postgres/src/bytes.rs",
            "use crate::wal::record::Record;\n".into(),
            "engine/postgres/src/bytes.rs:1: bytes imports from wal, which is above it",
        ),
        (
            "engine/postgres/src/wal/block.rs",
            "use crate::wal::record::Record;\n".into(),
            "engine/postgres/src/wal/block.rs:1: block imports from record, which imports from it",
        ),
        (
            "wal/src/planted.rs",
            "fn f(at: *const u8) -> u8 {\n    unsafe { *at }\n}\n".into(),
            "wal/src/planted.rs:2: unsafe code in a file that is not listed for it",
        ),
        (
            "layers/src/planted.rs",
            "use std::time::Instant;\n".into(),
            "layers/src/planted.rs:1: a clock (Instant): time comes from the engine's options",
        ),
        (
            "engine/src/planted.rs",
            "fn f() -> u64 {\n    fastrand::u64(..)\n}\n".into(),
            "engine/src/planted.rs:2: random numbers (fastrand) below the test kit",
        ),
        (
            "engine/src/planted.rs",
            "fn f() {\n    std::fs::remove_file(\"x\").ok();\n}\n".into(),
            "engine/src/planted.rs:2: std::fs: files are reached through the storage trait",
        ),
        (
            "engine/src/planted.rs",
            "use bumpalo::Bump;\n".into(),
            "engine/src/planted.rs:1: bumpalo is named in one file, layers/src/memory/arena.rs",
        ),
        (
            "layers/src/planted.rs",
            format!("// {}\n", "x ".repeat(49)),
            "layers/src/planted.rs:1: 101 columns",
        ),
        (
            "layers/src/planted.rs",
            "\n".repeat(801),
            "layers/src/planted.rs:801: a file of 801 lines",
        ),
        ("layers/src/planted.rs", function(69), "layers/src/planted.rs:1: a function of 71 lines"),
        (
            "layers/src/planted.rs",
            "#[path = \"elsewhere.rs\"]\nmod elsewhere;\n".into(),
            "layers/src/planted.rs:1: #[path]: a module is where its name says",
        ),
        (
            "layers/src/planted.rs",
            "#![expect(dead_code)]\n".into(),
            "layers/src/planted.rs:1: dead code is excused for a whole module",
        ),
    ];
    let before = violations(&sources);
    for (path, text, expected) in cases {
        let mut planted = sources.clone();
        planted.push(Source { path: (*path).to_owned(), text: text.clone() });
        let mut found = rules::of_file(&planted[sources.len()]);
        let houses = HOUSES.iter().filter(|of| path.starts_with(of.dir));
        found.extend(houses.flat_map(|of| imports::violations(of, &planted)));
        let new: Vec<_> = found.iter().filter(|found| !before.contains(found)).collect();
        assert_eq!(new, [expected], "planted in {path}");
    }
    // Lines, functions and files of the allowed size are not found.
    let allowed = format!("// {}\n{}{}", "x".repeat(97), function(68), "\n".repeat(720));
    let mut planted = sources;
    planted.push(Source { path: "layers/src/planted.rs".into(), text: allowed });
    assert_eq!(violations(&planted), before);
}

/// Two files of different rooms that import each other, without an arrow up.
#[test]
fn a_circle_of_files_in_no_room_is_found() {
    let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let planted = [
        file("engine/src/lib.rs", "mod a;\nmod b;\n"),
        file("engine/src/a.rs", "use crate::b::B;\n"),
        file("engine/src/b.rs", "use crate::a::A;\n"),
    ];
    let found = imports::violations(&HOUSES[0], &planted);
    assert_eq!(found, ["engine/src/a.rs:1: a imports from b, which imports from it"]);
}
