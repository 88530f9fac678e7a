// SPDX-License-Identifier: Apache-2.0
//! The shell of a guest that has a login.

use anyhow::{Result, anyhow, ensure};

use super::{PATIENCE, Vm};

impl Vm {
    /// Waits for the login prompt of the Debian guest and logs in.
    ///
    /// # Errors
    /// When it does not come to a shell.
    pub fn log_in(&mut self) -> Result<()> {
        self.wait_for("login: ", PATIENCE)?;
        self.type_line("root")?;
        self.wait_for("Password: ", PATIENCE)?;
        self.type_line("bulkhead")?;
        self.wait_for("# ", PATIENCE)?;
        // A shell that neither echoes nor prompts nor edits lines.
        self.type_line("dmesg -n 1; stty -echo; PS1= exec sh; exec sh")?;
        self.type_line("PS1= PS2=; echo shell is ''ready")?;
        self.wait_for("shell is ready\r\n", PATIENCE)
    }

    /// Runs a command in the shell; returns what it said and its exit status.
    ///
    /// # Errors
    /// When it does not end.
    pub fn sh_status(&mut self, command: &str) -> Result<(String, i32)> {
        let start = self.seen;
        self.type_line(&format!("{{ {command}\n}} 2>&1; echo \"@$?@\""))?;
        self.wait_for("@\r\n", PATIENCE)?;
        let text = self.console.text();
        let said = text.get(start..self.seen).unwrap_or_default();
        let said = said.trim_end().trim_end_matches('@').replace('\r', "");
        let (said, status) = said
            .rsplit_once('@')
            .ok_or_else(|| anyhow!("{command}: no exit status in {said:?}"))?;
        Ok((said.trim().to_owned(), status.parse()?))
    }

    /// Runs a command in the shell, which must succeed; returns what it said.
    ///
    /// # Errors
    /// When it fails.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        let (said, status) = self.sh_status(command)?;
        ensure!(status == 0, "guest: {command}: status {status}: {said}");
        Ok(said)
    }
}
