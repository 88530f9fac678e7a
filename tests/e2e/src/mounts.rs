// SPDX-License-Identifier: Apache-2.0
//! Hosts that are not quite this one, for one command.

use std::process::Command;

/// `command`, of which only program and arguments count, in a mount namespace of its own, after `script`
/// has changed what is mounted. The script may put something in front of the command: it is in `$@`.
#[must_use]
pub fn after(script: &str, command: &Command) -> Command {
    within(&["--mount"], script, command)
}

/// The same in new namespaces of these kinds, as `unshare` calls them.
#[must_use]
pub fn within(kinds: &[&str], script: &str, command: &Command) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(kinds).args(["sh", "-c"]);
    outer.arg(format!("{script} && exec \"$@\"")).arg("sh");
    outer.arg(command.get_program()).args(command.get_args());
    outer
}
