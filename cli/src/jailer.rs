// SPDX-License-Identifier: Apache-2.0
//! The jailer's binary, and its tasks besides running VMs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use spec::VmName;

/// The path of the jailer: beside this binary.
pub(crate) fn path() -> PathBuf {
    beside("jailer")
}

/// The path of a program of ours, which is installed beside this one.
pub(crate) fn beside(name: &str) -> PathBuf {
    std::env::current_exe()
        .unwrap_or_default()
        .with_file_name(name)
}

/// Removes what is left of a VM whose jailer was killed; returns whether that succeeded. The jailer
/// reports on standard error what it did, or why it did not.
pub(crate) fn sweep(base: &Path, vm: &VmName) -> bool {
    let mut command = Command::new(path());
    command.arg("--sweep").arg(vm.as_str());
    command.arg("--state-dir").arg(base);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What the jailer reports of this host. The jailer sees the host as it does when it starts a VM.
#[derive(Debug)]
pub(crate) struct Examined {
    /// What it says on standard output, and on standard error.
    pub(crate) said: [String; 2],
    /// Its exit status.
    pub(crate) status: u8,
}

/// Makes the jailer report what this host supports.
pub(crate) fn doctor() -> io::Result<Examined> {
    let output = Command::new(path()).arg("--doctor").output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code();
    Ok(Examined {
        said: [text(&output.stdout), text(&output.stderr)],
        status: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    })
}
