// SPDX-License-Identifier: Apache-2.0
//! Where the state of running VMs is: one directory per VM, which the jailer makes and removes and
//! the CLI reads.

use std::path::{Path, PathBuf};

use crate::SpecError;

/// The API's socket.
pub const API_SOCKET: &str = "api.sock";
/// The console's socket, with `console: stdio` and `console: socket`.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// The log of the VM's processes.
pub const LOG: &str = "log";
/// What was in the log before that became too long.
pub const LOG_OLD: &str = "log.old";
/// The spec as it is run.
pub const SPEC: &str = "vm.json";
/// The directories of the VM's control groups, one on each line.
pub const CGROUPS: &str = "cgroups";
/// The path of the console's socket, with `console: socket=F`: it must go with the VM.
pub const CONSOLE_PATH: &str = "console.path";
/// What must be undone on the host after the VM's end.
pub const DEBTS: &str = "debts.json";
/// The same file while it is being written.
pub const DEBTS_FRESH: &str = "debts.new";
/// All the files of a state directory.
pub const FILES: [&str; 9] = [
    API_SOCKET,
    CGROUPS,
    CONSOLE_PATH,
    CONSOLE_SOCKET,
    DEBTS,
    DEBTS_FRESH,
    LOG,
    LOG_OLD,
    SPEC,
];

/// The directory, beside the state directories, of what is kept of VMs that have ended: a file of the
/// VM's name for each. No VM can have this name.
pub const ENDED: &str = ".ended";
/// How many ended VMs are remembered: the last ones.
pub const ENDED_MAX: usize = 64;
/// The longest record of an ended VM, in bytes.
pub const ENDED_MAX_BYTES: usize = 4096;

/// The longest path a unix socket can have, in bytes: `sockaddr_un`, less its NUL.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// What the supervisor sends a console client while another one is connected, before it closes.
pub const CONSOLE_IN_USE: &str = "bulkhead: the console is in use\r\n";

/// The directory that holds the state directories: `chosen`, if the user chose one, otherwise
/// `/run/bulkhead` for root and `bulkhead` in `$XDG_RUNTIME_DIR` for other users.
pub fn base(
    chosen: Option<&Path>,
    is_root: bool,
    runtime_dir: Option<&Path>,
) -> Result<PathBuf, SpecError> {
    match (chosen, is_root, runtime_dir) {
        (Some(chosen), _, _) if chosen.as_os_str().is_empty() => {
            Err(SpecError::new("state-dir", "", "must name a directory"))
        }
        (Some(chosen), _, _) => Ok(chosen.to_path_buf()),
        (None, true, _) => Ok("/run/bulkhead".into()),
        (None, false, Some(dir)) if dir.is_absolute() => Ok(dir.join("bulkhead")),
        (None, false, _) => Err(SpecError::new(
            "state-dir",
            "",
            "XDG_RUNTIME_DIR names no directory: log in through PAM, or pass --state-dir",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_follows_choice_then_root_then_session() {
        let run = Some(Path::new("/run/user/7"));
        let at = |chosen, root, run| base(chosen, root, run).unwrap();
        assert_eq!(at(Some(Path::new("x")), true, run), Path::new("x"));
        assert_eq!(at(None, true, run), Path::new("/run/bulkhead"));
        assert_eq!(at(None, false, run), Path::new("/run/user/7/bulkhead"));
    }

    #[test]
    fn base_of_a_user_without_a_session_is_refused_with_the_remedy() {
        for runtime_dir in [None, Some(Path::new("")), Some(Path::new("relative"))] {
            let error = base(None, false, runtime_dir).unwrap_err();
            assert!(error.reason.contains("--state-dir"), "{error}");
        }
        assert!(base(Some(Path::new("")), true, None).is_err());
    }
}
