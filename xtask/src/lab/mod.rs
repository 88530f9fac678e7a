// SPDX-License-Identifier: Apache-2.0
//! The lab: an inner host with a real `/dev/kvm`, for machines without hardware virtualisation.
//!
//! QEMU emulates, in software, a machine whose processor can run guests; [`hosts`] has all of them. The
//! root file system is a cached image under a layer in memory; our binaries go in by a second, small image made for every boot, and
//! guests to test with by a third, cached one.

mod channels;
mod emulator;
mod foreign;
mod guest_image;
mod hosts;
mod images;
mod payload;
mod qemu;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::compile;
use crate::guests::Kernels;
pub(crate) use hosts::{InnerHost, find, of_arch};

/// Where guest kernels and initrds are in the inner host.
pub(crate) const GUESTS: &str = "/opt/bulkhead/guests";

/// A command somebody typed may take its time.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);
const SHELL_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What to run in an inner host booted for it.
pub(crate) struct Job {
    pub(crate) host: &'static InnerHost,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Binaries to put in the inner host's `PATH`.
    pub(crate) binaries: Vec<PathBuf>,
    /// When to give up.
    pub(crate) limit: Duration,
    /// How long a command that always has something to say may say nothing.
    pub(crate) silence: Option<Duration>,
}

/// How a [`Job`] ended.
pub(crate) struct Finished {
    /// The command's exit status, or what became of the inner host.
    pub(crate) status: Result<u8>,
    /// What it wrote to standard output, which went to ours as well.
    pub(crate) stdout: String,
}

/// Boots an inner host and runs `job` there, its output streamed to ours line by line where `show` says so.
pub(crate) fn run(job: &Job, show: fn(&str) -> bool) -> Result<Finished> {
    let images = images(job.host)?;
    qemu::run(&images, job, show)
}

/// Boots an inner host and runs `job` there on this terminal.
pub(crate) fn run_on_terminal(job: &Job) -> Result<u8> {
    let images = images(job.host)?;
    qemu::run_on_terminal(&images, job)
}

fn images(host: &'static InnerHost) -> Result<images::Images> {
    let kernels = Kernels::ready(host.arch)?;
    let guests = guest_image::ready(host, &kernels)?;
    images::ready(host, &kernels, images::Third::Guests(guests))
}

/// `cargo xtask lab run -- CMD…`
pub(crate) fn run_command(
    host: &'static InnerHost,
    bare: bool,
    command: &[String],
) -> Result<ExitCode> {
    let binaries = match bare {
        true => Vec::new(),
        false => compile::all(host.arch)?,
    };
    let job = Job {
        host,
        command: command.to_vec(),
        binaries,
        limit: COMMAND_LIMIT,
        silence: None,
    };
    Ok(ExitCode::from(run(&job, |_| true)?.status?))
}

/// `cargo xtask lab shell`
pub(crate) fn shell(host: &'static InnerHost) -> Result<ExitCode> {
    let binaries = compile::all(host.arch)?;
    eprintln!("==> a shell in the inner host; Ctrl-] or exit leaves it");
    let job = Job {
        host,
        command: vec!["bash".to_owned(), "-i".to_owned()],
        binaries,
        limit: SHELL_LIMIT,
        silence: None,
    };
    Ok(ExitCode::from(run_on_terminal(&job)?))
}
