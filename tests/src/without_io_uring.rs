// SPDX-License-Identifier: Apache-2.0
//! A command in a place where io_uring is forbidden, as it is in many containers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Becomes `command`, below which io_uring_setup(2) answers EPERM.
///
/// # Errors
/// When it cannot.
pub fn run(command: &[OsString]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command")?;
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?;
    let filter: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&filter)?;
    let error = Command::new(program).args(args).exec();
    Err(anyhow!(error).context(format!("cannot run {}", program.display())))
}
