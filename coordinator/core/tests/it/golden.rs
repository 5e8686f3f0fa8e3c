//! Histories recorded from real runs of earlier versions, and of this one: every later core must find
//! the end that was recorded. `tests/tests/it/replay.rs` records them.

use std::path::Path;

use haltline_core::replay::{Effect, History, Replay};

/// Fewer mean that files got lost.
const FILES_MIN: usize = 10;

#[test]
fn recorded_histories_end_as_they_did() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(&dir).expect("golden histories").map(|e| e.expect("readable").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    assert!(files.len() >= FILES_MIN, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let history = History::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(history.record.status.is_terminal(), "{} has not ended", file.display());
        let mut replay = Replay::new(history, true);
        let mut changed = 0;
        while let Some(step) = replay.step() {
            changed += usize::from(step.effect == Effect::Changed);
        }
        let verdict = replay.verdict();
        assert!(verdict.differences.is_empty() && verdict.decided.is_some(), "{}: {verdict:#?}", file.display());
        assert!(changed > 0, "{}: nothing was decided", file.display());
    }
}
