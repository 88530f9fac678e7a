// SPDX-License-Identifier: Apache-2.0
//! The state directories of this user's VMs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use spec::{SpecError, VmName};

use crate::client::ClientError;

/// The directory that holds them; it may not exist.
pub(crate) fn base(chosen: Option<&Path>) -> Result<PathBuf, SpecError> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    spec::state::base(chosen, geteuid().is_root(), runtime_dir.as_deref())
}

/// The names of all state directories, in order.
pub(crate) fn names(base: &Path) -> Result<Vec<VmName>, ClientError> {
    let failed = |e| ClientError::Base(base.into(), e);
    let listing = match fs::read_dir(base) {
        Ok(listing) => listing,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(failed)?;
        // Anything without a VM's name, or not a directory, is not ours.
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(name) = entry.file_name().to_str()
            && let Ok(name) = name.parse()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_directory_that_does_not_exist_are_none() {
        assert!(names(Path::new("/nonexistent")).unwrap().is_empty());
    }

    #[test]
    fn names_in_what_is_no_directory_are_refused_with_its_path() {
        let error = names(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "state-dir \"/dev/null\"");
    }
}
