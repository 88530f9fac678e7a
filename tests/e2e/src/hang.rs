// SPDX-License-Identifier: Apache-2.0
//! Makes threads of another process run in circles for ever, as a bug would.

use std::fs;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::arch;

/// The type of a program's first instruction in the auxiliary vector. (`<linux/auxvec.h>`)
const AT_ENTRY: u64 = 9;

/// Sends the threads with this name, whatever they do, to an instruction that leads to itself. It takes
/// the place of the program's first: nobody else comes there any more.
///
/// # Errors
/// When there is no such thread, or we may not do that to it.
pub fn run_in_circles(pid: Pid, threads: &str) -> Result<()> {
    let place = entry(pid)?;
    let memory = fs::File::options()
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .context("its memory")?;
    memory
        .write_all_at(&arch::LOOP, place)
        .context("its code")?;
    let found = named(pid, threads)?;
    ensure!(!found.is_empty(), "process {pid} has no thread {threads}");
    for thread in found {
        send(thread, place).context("to send it there")?;
    }
    Ok(())
}

/// Has a thread go on somewhere else.
fn send(thread: Pid, place: u64) -> Result<()> {
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL))?;
    let mut registers = ptrace::getregs(thread)?;
    arch::go_on_at(&mut registers, place);
    ptrace::setregs(thread, registers)?;
    Ok(ptrace::detach(thread, None)?)
}

/// Where a process began.
fn entry(pid: Pid) -> Result<u64> {
    let auxv = fs::read(format!("/proc/{pid}/auxv")).context("its auxiliary vector")?;
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let words: Vec<u64> = auxv.chunks_exact(8).map(word).collect();
    let found = words.chunks_exact(2).find(|pair| pair[0] == AT_ENTRY);
    found.map(|pair| pair[1]).context("it began nowhere")
}

fn named(pid: Pid, name: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("its threads")? {
        let task = task?;
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let number = task.file_name().to_string_lossy().parse()?;
            found.push(Pid::from_raw(number));
        }
    }
    Ok(found)
}
