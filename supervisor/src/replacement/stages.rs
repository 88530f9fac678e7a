// SPDX-License-Identifier: Apache-2.0
//! How far a replacement of the vmm has come, and by when it must have come further. Pure: no process, no
//! clock.

use std::os::fd::OwnedFd;

/// How long the old vmm may take to save; it gives up earlier.
pub(super) const SAVE_NS: u64 = 20_000_000_000;
/// How long the next vmm, or the old program in its place, may take to have every device fit.
pub(super) const RESTORE_NS: u64 = 10_000_000_000;

/// How far a replacement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The old vmm stops guest and devices, and saves.
    Saving,
    /// The old vmm was killed.
    Ending,
    /// The next vmm takes up the state, or will.
    Restoring,
    /// The old program takes up the state, or will.
    RollingBack,
    /// The guest was told to go on.
    Resuming,
}

/// A replacement of the vmm.
#[derive(Debug)]
pub(crate) struct Replacement {
    pub(super) stage: Stage,
    /// The next program; the same one again if there is none.
    pub(super) program: Option<OwnedFd>,
    state: OwnedFd,
    pub(super) since_ns: u64,
    pub(super) until_ns: Option<u64>,
    /// Why the next vmm has failed.
    pub(super) why: Option<String>,
    /// The guest was asked to power off meanwhile.
    pub(super) press: bool,
}

impl Replacement {
    /// One that begins: the old vmm was told to save.
    pub(super) fn new(program: Option<OwnedFd>, state: OwnedFd, now_ns: u64) -> Self {
        Self {
            stage: Stage::Saving,
            program,
            state,
            since_ns: now_ns,
            until_ns: Some(now_ns + SAVE_NS),
            why: None,
            press: false,
        }
    }

    /// When [`Supervisor::tick_replacement`](super::Supervisor::tick_replacement) must be called at the
    /// latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.until_ns
    }

    /// The state, for a vmm that is started now.
    pub(crate) fn state(&self) -> &OwnedFd {
        &self.state
    }

    /// The program to start now, if it is not the usual one.
    pub(crate) fn program(&self) -> Option<&OwnedFd> {
        self.program
            .as_ref()
            .filter(|_| self.stage == Stage::Restoring)
    }

    /// The next vmm was started, or the old program in its place.
    pub(crate) fn started(&mut self, now_ns: u64) {
        if matches!(self.stage, Stage::Restoring | Stage::RollingBack) {
            self.until_ns = Some(now_ns + RESTORE_NS);
        }
    }

    /// The next vmm has failed: the old program is the next. False if that has failed, too.
    pub(super) fn roll_back(&mut self, why: &str) -> bool {
        if self.stage != Stage::Restoring {
            return false;
        }
        self.why.get_or_insert_with(|| why.to_owned());
        (self.stage, self.until_ns) = (Stage::RollingBack, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose next vmm is to be started.
    fn replacement() -> Replacement {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut replacement = Replacement::new(Some(null()), null(), 5);
        (replacement.stage, replacement.until_ns) = (Stage::Restoring, None);
        replacement
    }

    #[test]
    fn old_program_has_its_own_time_to_take_the_guest_up() {
        let mut replacement = replacement();
        replacement.started(100);
        assert_eq!(replacement.deadline_ns(), Some(100 + RESTORE_NS));
        assert!(replacement.roll_back("it died"));
        // Before it is started, the last backends' I/O must end.
        assert_eq!(replacement.deadline_ns(), None);

        replacement.started(700);

        assert_eq!(replacement.deadline_ns(), Some(700 + RESTORE_NS));
        assert!(replacement.program().is_none());
    }

    #[test]
    fn old_program_that_fails_is_not_tried_again() {
        let mut replacement = replacement();
        assert!(replacement.program().is_some());
        assert!(replacement.roll_back("the first"));
        assert!(!replacement.roll_back("the second"));
        assert_eq!(replacement.why.as_deref(), Some("the first"));
    }
}
