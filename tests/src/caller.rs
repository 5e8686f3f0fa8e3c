//! Calling the command line as a user or a script does: arguments in, exit code and text out.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;
use haltline_server::{Launch, spawn_bound};
use serde_json::Value;

/// No call of a test takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(100);

/// Who calls: knows the command and the installation. Cheap to clone.
#[derive(Clone)]
pub struct Caller {
    command: PathBuf,
    /// Flags that every call gets: where the installation is.
    site: Vec<String>,
    folder: PathBuf,
}

/// What a call told.
#[derive(Debug)]
pub struct Told {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Told {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("no JSON: {self:?}"))
    }
}

impl Caller {
    /// Calls `command`, with files in `folder`.
    pub fn new(command: &Path, site: Vec<String>, folder: &Path) -> Self {
        Self { command: command.into(), site, folder: folder.into() }
    }

    /// Calls with `args`.
    ///
    /// # Errors
    /// When it cannot be called, or does not end.
    pub async fn call(&self, args: &[&str]) -> anyhow::Result<Told> {
        self.call_with(args, &[]).await
    }

    /// Calls with `args` and environment variables.
    ///
    /// # Errors
    /// When it cannot be called, or does not end.
    pub async fn call_with(&self, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Told> {
        let (out, err) = (self.file("out"), self.file("err"));
        let mut launch = Launch::new(&self.command).args(args).args(&self.site).stdout(File::create(&out)?).stderr(File::create(&err)?);
        for (name, value) in env {
            launch = launch.env(name, value);
        }
        let mut child = spawn_bound(launch)?;
        let status = tokio::time::timeout(LIMIT, child.wait()).await.with_context(|| format!("does not end: {args:?}"))??;
        Ok(Told { code: status.code(), out: std::fs::read_to_string(out)?, err: std::fs::read_to_string(err)? })
    }

    /// A new file with `text`, to be named in arguments.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, text: &str) -> anyhow::Result<String> {
        let path = self.file("json");
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn file(&self, ending: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.folder.join(format!("call-{}.{ending}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}
