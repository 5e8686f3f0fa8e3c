//! Children that die with us: of a normal exit, a panic, or `kill -9`.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How often a child is looked at while waiting for its end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to run. Standard input is closed; output goes nowhere unless told.
pub struct Launch {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdout: Stdio,
    stderr: Stdio,
}

impl Launch {
    /// Runs `program`, a path or a name on the PATH, with the environment of this process.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), env: Vec::new(), stdout: Stdio::null(), stderr: Stdio::null() }
    }
    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }
    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }
    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }
    /// Where standard output goes; read it by [`Bound::take_stdout`] if piped.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.stdout = to.into();
        self
    }
    /// Where standard error goes.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.stderr = to.into();
        self
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn command(self) -> Command {
        let mut command = Command::new(&self.program);
        crate::death::die_with_parent(&mut command);
        command.stdin(Stdio::null());
        self.fill(command)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn command(self) -> Command {
        let mut command = crate::wrapper::wrapped(&self.program);
        command.stdin(Stdio::piped());
        self.fill(command)
    }

    fn fill(self, mut command: Command) -> Command {
        command.args(self.args).envs(self.env).stdout(self.stdout).stderr(self.stderr);
        // A group of its own: ctrl-c is for us, who drain first and end the child then.
        command.process_group(0);
        command
    }
}

/// A running child that ends with this value, and with this process however that ends.
pub struct Bound {
    child: Child,
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `launch` as a child that cannot outlive this process.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn_bound(launch: Launch) -> io::Result<Bound> {
    // The kernel ends such a child with the THREAD that spawned it, so one thread that never ends
    // spawns them all.
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let gone = || io::Error::other("the spawning thread is gone");
    let spawner = SPAWNER.get_or_init(|| {
        let (tx, rx) = mpsc::channel::<Request>();
        let named = std::thread::Builder::new().name("spawner".into());
        // If the thread cannot be made, its receiver is dropped and every send below says so.
        let _ = named.spawn(move || {
            for (mut command, answer) in rx {
                let _ = answer.send(command.spawn()); // the asker waits for it
            }
        });
        tx
    });
    let (answer, outcome) = mpsc::channel();
    spawner.send((launch.command(), answer)).map_err(|_| gone())?;
    let child = outcome.recv().map_err(|_| gone())??;
    Ok(Bound { child })
}

impl Bound {
    /// Its process id; elsewhere than on Linux that of the shell that guards it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once, if it is piped.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// When the system does not tell.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks it to end, by SIGTERM. Does nothing if it has ended.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends it SIGUSR2, in which programs read what they like. Does nothing if it has ended.
    pub fn user_signal(&mut self) {
        self.signal(Signal::USR2);
    }

    /// Suspends (`true`) or resumes it, by SIGSTOP and SIGCONT.
    pub fn pause(&mut self, paused: bool) {
        self.signal(if paused { Signal::STOP } else { Signal::CONT });
    }

    fn signal(&mut self, signal: Signal) {
        // Only while it is not reaped: afterwards the id may be another process's.
        if let Ok(None) = self.child.try_wait() {
            // It may end in between; then there is nothing to signal.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    /// Ends it at once, by SIGKILL, and waits for that.
    pub fn kill(&mut self) {
        // Ends what the shell guards, elsewhere than on Linux, before the shell itself can go.
        if self.child.stdin.take().is_some() {
            let until = Instant::now() + Duration::from_secs(1);
            while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits up to `grace`, then ends it. How it ended.
    ///
    /// # Errors
    /// When the system does not tell.
    pub async fn stop(mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.terminate();
        if let Ok(ended) = tokio::time::timeout(grace, self.wait()).await {
            return ended;
        }
        self.kill();
        self.child.wait()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.kill();
    }
}
