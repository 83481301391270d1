//! `flame.sh` with programs that only look like perf and inferno: what it does when they are
//! missing, fail, or find nothing.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A directory with the script, a graph from before, and nothing but a few programs on its PATH.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("benches/flame")).unwrap();
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("flame.sh");
        fs::copy(script, dir.path().join("benches/flame.sh")).unwrap();
        let scene = Scene { dir };
        fs::write(scene.graph(), "the graph before").unwrap();
        let tools = [
            "bash", "basename", "cat", "cp", "dirname", "grep", "head", "mkdir", "mktemp", "mv",
            "rm", "sed", "tail", "true",
        ];
        for tool in tools {
            let found = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(tool));
            let found =
                found.iter().find(|path| path.exists()).expect("a tool that all systems have");
            std::os::unix::fs::symlink(found, scene.dir.path().join("bin").join(tool)).unwrap();
        }
        scene.program("cargo", "true");
        scene.program("git", "echo abc123");
        scene
    }

    fn graph(&self) -> PathBuf {
        self.dir.path().join("benches/flame/ingest.svg")
    }

    fn program(&self, name: &str, does: &str) {
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{does}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self) -> Output {
        Command::new("/bin/bash")
            .arg(self.dir.path().join("benches/flame.sh"))
            .arg("ingest")
            .env_clear()
            .env("PATH", self.dir.path().join("bin"))
            .output()
            .unwrap()
    }

    /// It fails with this code and text, and the graph is the one before.
    #[track_caller]
    fn fails(&self, code: i32, text: &str) {
        let output = self.run();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(text), "{text:?} is not in: {errors}");
        assert_eq!(fs::read_to_string(self.graph()).unwrap(), "the graph before");
    }
}

const SAMPLES: &str = "case $1 in script) echo samples;; esac";
const GRAPH: &str = "cat > /dev/null; echo '<svg><rect/></svg>'";

#[test]
fn it_says_what_to_install() {
    let scene = Scene::new();
    scene.fails(2, "perf is not on the PATH");
    scene.program("perf", SAMPLES);
    scene.fails(2, "cargo install inferno");
}

#[test]
fn a_graph_stays_unless_there_is_a_better_one() {
    let scene = Scene::new();
    let folds = "cat";
    for (perf, collapse, graph, text) in [
        ("exit 1", folds, GRAPH, "perf record failed"),
        ("case $1 in script) echo no samples >&2; exit 1;; esac", folds, GRAPH, "no samples"),
        ("true", folds, GRAPH, "perf has no samples of ingest"),
        (SAMPLES, "echo broken >&2; exit 1", GRAPH, "broken"),
        (SAMPLES, folds, "cat > /dev/null; exit 1", "inferno-flamegraph failed"),
        (SAMPLES, folds, "cat > /dev/null", "the graph of ingest is empty"),
    ] {
        scene.program("perf", perf);
        scene.program("inferno-collapse-perf", collapse);
        scene.program("inferno-flamegraph", graph);
        scene.fails(1, text);
    }
    scene.program("inferno-flamegraph", GRAPH);
    let output = scene.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(scene.graph()).unwrap(), "<svg><rect/></svg>\n");
    let files: Vec<_> = fs::read_dir(scene.graph().parent().unwrap()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
}
