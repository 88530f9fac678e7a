// SPDX-License-Identifier: Apache-2.0
//! Runs the user's programs for a tap, with the tap's name as their only argument.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::open::cause;

/// How long a program may run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has ended.
const INTERVAL: Duration = Duration::from_millis(5);

/// Runs a program to its end; an error says why it failed. If it takes too long, it is killed with
/// its process group.
pub(crate) fn run(program: &Path, tap: &str) -> Result<(), String> {
    run_within(PATIENCE, program, tap)
}

fn run_within(patience: Duration, program: &Path, tap: &str) -> Result<(), String> {
    let spawned = Command::new(program)
        .arg(tap)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn();
    let mut child = spawned.map_err(|e| cause(&e))?;
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return told(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(INTERVAL),
            outcome => {
                let group = i32::try_from(child.id()).map(Pid::from_raw);
                let _ = group.map(|group| killpg(group, Signal::SIGKILL));
                let _ = child.wait();
                return Err(match outcome {
                    Err(e) => cause(&e),
                    Ok(_) => format!("did not end within {patience:?}"),
                });
            }
        }
    }
}

fn told(status: ExitStatus) -> Result<(), String> {
    match (status.success(), status.code(), status.signal()) {
        (true, ..) => Ok(()),
        (_, Some(code), _) => Err(format!("ended with status {code}")),
        (_, None, signal) => Err(format!("was killed by signal {}", signal.unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(text: &str) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        // Closed, lest it be busy.
        file.into_temp_path()
    }

    #[test]
    fn program_gets_the_name_and_its_status_is_told() {
        assert_eq!(run(&script("test \"$1\" = tap7"), "tap7"), Ok(()));
        assert_eq!(
            run(&script("exit 7"), "t").unwrap_err(),
            "ended with status 7"
        );
        assert_eq!(
            run(&script("kill -9 $$"), "t").unwrap_err(),
            "was killed by signal 9"
        );
        assert!(run(Path::new("/nonexistent"), "t").is_err());
    }

    #[test]
    fn program_that_does_not_end_is_killed_with_what_it_started() {
        let slow = script("sleep 1000 & wait");
        let error = run_within(Duration::from_millis(50), &slow, "t").unwrap_err();
        assert_eq!(error, "did not end within 50ms");
    }
}
