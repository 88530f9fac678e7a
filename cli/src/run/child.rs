// SPDX-License-Identifier: Apache-2.0
//! The jailer as a child process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use host::child::set_apart;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spec::VmSpec;

use super::RunError;
use crate::error::Error;
use crate::jailer;

/// How to start a jailer.
#[derive(Debug, Default)]
pub(super) struct Start<'a> {
    /// The directory for state directories.
    pub(super) state_dir: Option<&'a Path>,
    /// A group whose members may use the VM's sockets.
    pub(super) api_gid: Option<u32>,
    /// The console's first client, for the jailer to inherit.
    pub(super) console: Option<OwnedFd>,
    /// The jailer's NOTIFY_SOCKET, instead of the one in our environment.
    pub(super) notify: Option<OsString>,
    /// The jailer's standard error, instead of ours.
    pub(super) stderr: Option<Stdio>,
    /// Whether the VM ends when we die.
    pub(super) bound: bool,
}

/// Starts the jailer beside this binary.
pub(super) fn start(spec: &VmSpec, start: Start<'_>) -> Result<Child, Error> {
    let path = jailer::path();
    let document = document(&spec.to_json()?).map_err(RunError::Document)?;
    let mut command = Command::new(&path);
    command.arg("--config");
    command.arg(format!("/proc/self/fd/{}", document.as_raw_fd()));
    if let Some(dir) = start.state_dir {
        command.arg("--state-dir").arg(dir);
    }
    if let Some(gid) = start.api_gid {
        command.arg("--api-gid").arg(gid.to_string());
    }
    if let Some(console) = &start.console {
        let number = console.as_raw_fd().to_string();
        command.arg("--console-fd").arg(number);
    }
    for number in super::tap_fds(spec) {
        command.arg("--tap-fd").arg(number.to_string());
    }
    if let Some(notify) = start.notify {
        command.env("NOTIFY_SOCKET", notify);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(start.stderr.unwrap_or_else(Stdio::inherit));
    set_apart(&mut command, start.bound);
    Ok(command.spawn().map_err(|e| RunError::Jailer(path, e))?)
}

/// The spec in a memfd that the jailer inherits.
fn document(text: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"vm.json", MFdFlags::empty())?);
    file.write_all(text)?;
    Ok(file)
}

/// Passes a signal on to the jailer.
pub(super) fn pass_on(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // The child is not reaped yet, so the id is still its own.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Our exit status is the jailer's.
pub(super) fn status(status: ExitStatus) -> Result<u8, Error> {
    let code = status.code().map(u8::try_from);
    match code {
        Some(Ok(code)) => Ok(code),
        _ => Err(RunError::Killed(status.signal().unwrap_or(0)).into()),
    }
}
