// SPDX-License-Identifier: Apache-2.0
//! Keeps the services of the packages that the case installs from running on this machine, where Debian
//! starts what it installs, and again with each boot. They are masked, so that a command that is killed
//! cannot leave them running.

use std::fs::symlink_metadata;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command::find;
use crate::progress;

/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";
/// The services, each with the program by which it is known to have been there before.
const SERVICES: [(&str, &str); 4] = [
    ("corosync.service", "corosync"),
    ("ipmievd.service", "ipmitool"),
    ("openipmi.service", "ipmi_sim"),
    ("pacemaker.service", "pacemakerd"),
];

/// Masks the services of packages that are not installed yet, and says so.
pub(super) fn keep_off() -> Result<()> {
    let new = SERVICES
        .iter()
        .filter(|(_, program)| find(program).is_none());
    let masked = mask(Path::new(UNITS), new.map(|(unit, _)| *unit))?;
    if !masked.is_empty() {
        let units = masked.join(" ");
        progress::say(format!(
            "{units}: only the test runs them here; to have them: systemctl unmask {units}"
        ));
    }
    Ok(())
}

/// Masks those units of which the directory has nothing yet; which these were.
fn mask<'a>(units: &Path, wanted: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
    if !units.is_dir() {
        return Ok(Vec::new());
    }
    let mut masked = Vec::new();
    for unit in wanted {
        let path = units.join(unit);
        if symlink_metadata(&path).is_err() {
            symlink("/dev/null", &path).with_context(|| format!("cannot mask {unit}"))?;
            masked.push(unit);
        }
    }
    Ok(masked)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn unit_is_masked_unless_the_administrator_has_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("own.service"), "[Service]").unwrap();
        let masked = mask(dir.path(), ["own.service", "new.service"].into_iter()).unwrap();
        assert_eq!(masked, ["new.service"]);
        let link = fs::read_link(dir.path().join("new.service")).unwrap();
        assert_eq!(link, Path::new("/dev/null"));
        let again = mask(dir.path(), ["new.service"].into_iter()).unwrap();
        assert!(again.is_empty());
        let nowhere = dir.path().join("nowhere");
        assert!(
            mask(&nowhere, ["new.service"].into_iter())
                .unwrap()
                .is_empty()
        );
    }
}
