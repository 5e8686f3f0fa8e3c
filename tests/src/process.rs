//! A service as a real process, which a supervisor starts again when it has died.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, ensure};
use haltline_server::{Bound, Launch, spawn_bound};

/// More than any crash explains: then it cannot start.
const RESTARTS_MAX: u32 = 20;

/// The process.
pub struct Process {
    name: String,
    command: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Bound,
    restarts: u32,
    killed: u32,
    /// Whether it was told to end, so that its end is no death.
    told: bool,
}

impl Process {
    /// Starts `command` with `args`, its log in `logs`, with a fault point armed or not; `planted:<bug>` makes that bug, where
    /// this build can.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &Path, args: Vec<String>, logs: &Path, fault: Option<&str>) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let child = launch(command, &args, &log, fault)?;
        Ok(Self { name: name.into(), command: command.into(), args, log, child, restarts: 0, killed: 0, told: false })
    }

    /// Starts it again, with the same arguments but without the fault, if it has died.
    ///
    /// # Errors
    /// When it dies again and again.
    pub fn tend(&mut self) -> anyhow::Result<()> {
        if self.told {
            return Ok(());
        }
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        self.killed += u32::from(status.signal() == Some(9));
        self.restarts += 1;
        ensure!(self.restarts <= RESTARTS_MAX, "the {} dies again and again ({status}):\n{}", self.name, self.tail());
        self.child = launch(&self.command, &self.args, &self.log, None)?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// How often it was killed by SIGKILL, as far as [`Process::tend`] saw.
    pub fn killed(&self) -> u32 {
        self.killed
    }
    /// Kills it as `kill -9` does; [`Process::tend`] leaves it dead.
    pub fn kill(&mut self) {
        self.told = true;
        self.child.kill();
    }
    /// Asks it to end, by SIGTERM.
    pub fn terminate(&mut self) {
        self.told = true;
        self.child.terminate();
    }
    /// Suspends (`true`) or resumes it.
    pub fn pause(&mut self, paused: bool) {
        self.child.pause(paused);
    }
    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// The end of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

fn launch(command: &Path, args: &[String], log: &Path, fault: Option<&str>) -> anyhow::Result<Bound> {
    let file = File::options().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
    let mut launch = Launch::new(command).args(args).stdout(Stdio::null()).stderr(file);
    if let Some(fault) = fault {
        launch = match fault.strip_prefix("planted:") {
            Some(bug) => launch.env("HALTLINE_PLANTED", bug),
            None => launch.env("HALTLINE_FAULT", fault),
        };
    }
    Ok(spawn_bound(launch)?)
}
