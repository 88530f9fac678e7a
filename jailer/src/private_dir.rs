// SPDX-License-Identifier: Apache-2.0
//! Directories for what the VMs of one user share, such as their state and their locks.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Makes a directory for this user alone, if there is none.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(dir)
}
