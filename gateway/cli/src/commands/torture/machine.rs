//! What this machine allows: a small disk that can be filled, clocks that can be moved. Where it does
//! not, these faults are left out, and that is told.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Enough for half an hour of a torture's messages, and quickly filled.
const DISK_BYTES: u64 = 512 << 20;
/// How much is written at once while filling.
const PIECE_BYTES: usize = 1 << 20;
/// Where packages put libfaketime.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// A file system in memory for one server's streams; taken away with this value.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one at `path`.
    ///
    /// # Errors
    /// In words, when this user or this system cannot.
    pub fn mount(path: &Path) -> Result<Self, String> {
        fs::create_dir_all(path).map_err(|e| e.to_string())?;
        let size = format!("size={DISK_BYTES}");
        let told = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "haltline-torture"]).arg(path).output();
        match told {
            Ok(told) if told.status.success() => Ok(Self { path: path.to_owned() }),
            Ok(told) => Err(String::from_utf8_lossy(&told.stderr).trim().to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When it cannot be written at all.
    pub async fn fill(&self) -> anyhow::Result<()> {
        let filler = self.filler();
        // Takes a moment: not on the thread that looks after the processes.
        tokio::task::spawn_blocking(move || {
            let mut file = fs::File::create(filler)?;
            let piece = vec![0; PIECE_BYTES];
            let mut size = PIECE_BYTES;
            while size > 0 {
                // The end is found in ever smaller pieces.
                if file.write_all(&piece[..size]).is_err() {
                    size /= 16;
                }
            }
            anyhow::Ok(())
        })
        .await?
    }

    /// Makes room again.
    pub fn clear(&self) {
        // Gone already is as good.
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let told = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !told.is_ok_and(|status| status.success()) {
            tracing::warn!(path = %self.path.display(), "the file system in memory is still mounted");
        }
    }
}

/// Moves the wall clocks of services by libfaketime; monotonic clocks stay.
pub struct Clocks {
    preload: PathBuf,
    folder: PathBuf,
}

impl Clocks {
    /// Ready, if libfaketime is there.
    pub fn find(folder: &Path) -> Option<Self> {
        let preload = LIBRARIES.iter().map(PathBuf::from).find(|p| p.exists())?;
        let folder = folder.join("clocks");
        fs::create_dir_all(&folder).ok()?;
        Some(Self { preload, folder })
    }

    /// The environment of the service `name`, whose clock is right at first.
    pub fn environment(&self, name: &str) -> Vec<(String, String)> {
        self.set(name, 0);
        let text = |p: &Path| p.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".into(), text(&self.preload)),
            ("FAKETIME_TIMESTAMP_FILE".into(), text(&self.folder.join(name))),
            ("FAKETIME_NO_CACHE".into(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
        ]
    }

    /// Moves the clock of `name` to so many seconds off.
    pub fn set(&self, name: &str, seconds: i64) {
        if let Err(error) = fs::write(self.folder.join(name), format!("{seconds:+}\n")) {
            tracing::warn!(name, %error, "the clock could not be moved");
        }
    }
}
