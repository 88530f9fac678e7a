// SPDX-License-Identifier: Apache-2.0
//! A command in a place where io_uring is forbidden, as it is in many containers.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use seccompiler::SeccompAction;

use crate::faulty::forbid;

/// Becomes `command`, below which io_uring_setup(2) answers EPERM.
///
/// # Errors
/// When it cannot.
pub fn run(command: &[OsString]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command")?;
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    forbid(&[libc::SYS_io_uring_setup], denied)?;
    let error = Command::new(program).args(args).exec();
    Err(anyhow!(error).context(format!("cannot run {}", program.display())))
}
