//! Where the kernel does not end a child with its parent: a shell between the two that does so when
//! its standard input, a pipe that only the parent holds open, ends.

use std::process::Command;

/// Runs `"$@"`, passes SIGTERM and SIGUSR2 on, kills it when standard input ends, exits as it does.
const SCRIPT: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
( while read -r _ <&3; do :; done; kill -9 "$child" ) >/dev/null 2>&1 &
watch=$!
exec 3<&-
trap 'kill -TERM "$child"' TERM
trap 'kill -USR2 "$child"' USR2
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
kill -9 "$watch" 2>/dev/null
exit "$code"
"#;

/// `command`'s program and arguments behind the wrapper; its other settings are to be made anew.
pub fn wrapped(program: &std::ffi::OsStr) -> Command {
    let mut sh = Command::new("/bin/sh");
    sh.arg("-c").arg(SCRIPT).arg("haltline-child").arg(program);
    sh
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        process::Stdio,
        time::{Duration, Instant},
    };

    fn sleeper() -> std::process::Child {
        wrapped("sleep".as_ref()).arg("1000").stdin(Stdio::piped()).spawn().expect("sh runs")
    }

    fn ends(child: &mut std::process::Child) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if child.try_wait().expect("waits").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    #[test]
    fn ends_with_the_pipe_and_by_sigterm() {
        let mut child = sleeper();
        std::thread::sleep(Duration::from_millis(200));
        assert!(child.try_wait().expect("waits").is_none());
        drop(child.stdin.take());
        assert!(ends(&mut child));

        let mut child = sleeper();
        std::thread::sleep(Duration::from_millis(200));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).expect("signals");
        assert!(ends(&mut child));
    }

    #[test]
    fn exits_as_the_child_does() {
        let mut child = wrapped("sh".as_ref()).args(["-c", "exit 7"]).stdin(Stdio::piped()).spawn().expect("sh runs");
        // Before `wait`, which closes the pipe first.
        assert!(ends(&mut child));
        assert_eq!(child.wait().expect("waits").code(), Some(7));
    }
}
