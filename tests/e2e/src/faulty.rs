// SPDX-License-Identifier: Apache-2.0
//! Backends that are found fit and do no I/O, as a new program may be whose filter of system calls
//! lacks one. All else is the real backends' code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use blk_backend::program::BlkBackend;
use ipc::fd::net::TAP;
use net_backend::program::NetBackend;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// By which the engines of disks have requests done. libc makes preadv of preadv2 without flags, and
/// likewise.
const ENGINES: [libc::c_long; 6] = [
    libc::SYS_io_uring_enter,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fdatasync,
];
/// By which frames come from a tap and go to it.
const FRAMES: [libc::c_long; 4] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
];

/// Serves as the backend as which it was started.
#[must_use]
pub fn serve() -> ExitCode {
    match is_nic() {
        true => device_backend::program::main::<NetBackend>(),
        false => device_backend::program::main::<BlkBackend>(),
    }
}

fn is_nic() -> bool {
    std::env::args().next().as_deref() == Some("net-backend")
}

/// What `main` does of a backend; `first` is what comes of the first I/O.
#[must_use]
pub fn main(first: SeccompAction) -> ExitCode {
    if let Err(error) = forbid_io(first) {
        eprintln!("faulty backend: {error:#}");
        return ExitCode::FAILURE;
    }
    serve()
}

fn forbid_io(ends: SeccompAction) -> Result<()> {
    Ok(seccompiler::apply_filter(&io_filter(ends)?)?)
}

/// Has all I/O of the backend as which it was started end so. A disk's has no tap: another of its
/// descriptors may have that number.
///
/// # Errors
/// When there is no such filter.
pub fn io_filter(ends: SeccompAction) -> Result<BpfProgram> {
    let tap = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::try_from(TAP)?,
    )?;
    let on_tap = SeccompRule::new(vec![tap])?;
    let frames = FRAMES.map(|call| (call, vec![on_tap.clone()]));
    let requests = ENGINES.map(|call| (call, Vec::new()));
    match is_nic() {
        true => filter(frames.into(), ends),
        false => filter(requests.into(), ends),
    }
}

fn filter(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    ends: SeccompAction,
) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, ends, arch)?;
    Ok(filter.try_into()?)
}

/// Has each of these system calls end so from now on, in this thread and all it makes.
///
/// # Errors
/// When there is no such filter.
pub fn forbid(calls: &[libc::c_long], ends: SeccompAction) -> Result<()> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    Ok(seccompiler::apply_filter(&filter(rules, ends)?)?)
}
