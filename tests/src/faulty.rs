// SPDX-License-Identifier: Apache-2.0
//! A disk backend that is found fit and does no I/O, as a new program may be whose filter of system
//! calls lacks one. All else is the real backend's code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use blk_backend::program::BlkBackend;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// By which engines have requests done. libc makes preadv of preadv2 without flags, and likewise.
pub const ENGINES: [libc::c_long; 6] = [
    libc::SYS_io_uring_enter,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fdatasync,
];

/// What `main` does; `first` is what comes of the first I/O.
#[must_use]
pub fn main(first: SeccompAction) -> ExitCode {
    if let Err(error) = forbid(&ENGINES, first) {
        eprintln!("faulty backend: {error:#}");
        return ExitCode::FAILURE;
    }
    backend::program::main::<BlkBackend>()
}

/// Has each of these system calls end so from now on, in this thread and all it makes.
///
/// # Errors
/// When there is no such filter.
pub fn forbid(calls: &[libc::c_long], ends: SeccompAction) -> Result<()> {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, ends, arch)?;
    let filter: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}
