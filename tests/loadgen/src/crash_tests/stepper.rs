// SPDX-License-Identifier: Apache-2.0
//! A thread of another process, run one instruction at a time. It takes the privilege to trace.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The thread. It stands still between steps, and is left behind when its process ends.
#[derive(Debug)]
pub(super) struct Stepper(Pid);

impl Stepper {
    /// Stops the thread with this name.
    pub(super) fn stop(process: u32, name: &str) -> io::Result<Self> {
        let thread = find(process, name)?;
        ptrace::seize(thread, ptrace::Options::empty())?;
        ptrace::interrupt(thread)?;
        let stepper = Self(thread);
        stepper.wait()?;
        Ok(stepper)
    }

    /// Lets it carry out one instruction, or come back from the system call in which it sleeps.
    pub(super) fn step(&self) -> io::Result<()> {
        ptrace::step(self.0, None)?;
        self.wait()
    }

    fn wait(&self) -> io::Result<()> {
        match waitpid(self.0, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP)
            | WaitStatus::PtraceEvent(_, Signal::SIGTRAP, _) => Ok(()),
            other => Err(io::Error::other(format!("the thread ended: {other:?}"))),
        }
    }

    /// Once its process was killed: takes leave of it, or that would never end.
    pub(super) fn bury(self) -> io::Result<()> {
        loop {
            match waitpid(self.0, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(Errno::ECHILD) => {
                    return Ok(());
                }
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn find(process: u32, name: &str) -> io::Result<Pid> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        let comm = fs::read_to_string(task.path().join("comm"))?;
        let number = task.file_name().to_string_lossy().parse();
        if let (true, Ok(number)) = (comm.trim() == name, number) {
            return Ok(Pid::from_raw(number));
        }
    }
    let missing = format!("process {process} has no thread {name}");
    Err(io::Error::new(io::ErrorKind::NotFound, missing))
}
