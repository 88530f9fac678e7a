// SPDX-License-Identifier: Apache-2.0
//! How the VM ended: the record that its jailer has left.

use std::fs;
use std::path::Path;

use spec::state::ENDED;
use spec::{Ended, VmName};

/// Takes the record: our own log tells it, and the client reads no other.
pub(crate) fn take(base: &Path, name: &VmName) -> Option<Ended> {
    let path = base.join(ENDED).join(name.as_str());
    let text = fs::read(&path).ok()?;
    let ended = Ended::from_json(&text, &host::clock::boot_id())?;
    let _ = fs::remove_file(path);
    Some(ended)
}
