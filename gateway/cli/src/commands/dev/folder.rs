//! Where `dev` keeps its data: a folder of the user's, or a temporary one that goes with it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The folder; a temporary one is removed with this value.
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// The one that was named, or a new temporary one.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn open(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let (path, temporary) = match named {
            Some(path) => (path, false),
            None => (std::env::temp_dir().join(format!("haltline-dev-{}", uuid::Uuid::new_v4().simple())), true),
        };
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, temporary })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What becomes of it, in words.
    pub fn fate(&self) -> &'static str {
        if self.temporary { "removed at exit; --data-dir keeps it" } else { "kept" }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "the temporary folder could not be removed");
        }
    }
}
