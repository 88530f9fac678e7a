// SPDX-License-Identifier: Apache-2.0
//! A program under test: killed with its test, which prints what it said last if it fails.

use std::io::{self, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A program that runs.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it, with a pipe for its standard error.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.stderr(Stdio::piped()).spawn()?;
        Ok(Self { child })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end: its status, and what it said on standard error.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        Ok((self.child.wait()?, said))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let said = self.end();
        if std::thread::panicking() {
            eprintln!("the program under test: {ended:?} before it was killed; {said:?}");
        }
    }
}
