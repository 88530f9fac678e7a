// SPDX-License-Identifier: Apache-2.0
//! Where the state directories of this user's VMs are.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use spec::SpecError;

/// The directory that holds them; whether it exists is another question.
pub(crate) fn base(chosen: Option<&Path>) -> Result<PathBuf, SpecError> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    spec::state::base(chosen, geteuid().is_root(), runtime_dir.as_deref())
}
