// SPDX-License-Identifier: Apache-2.0
//! Tasks that the jailer defers until nothing else is to be done: it moves processes into their
//! control groups, and after the VM's start it removes what dead VMs have left. Pure.

use std::os::fd::OwnedFd;

/// More than a VM has processes, restarts included.
const UNPLACED_MAX: usize = 256;

/// A deferred task.
#[derive(Debug)]
pub(super) enum Task {
    /// Move a process into its control group.
    Place(Unplaced),
    /// Clean up, once in a VM's life, after its start.
    Settle,
}

/// A process that is still in its parent's control group.
#[derive(Debug)]
pub(super) struct Unplaced {
    /// Which of the VM's users it is.
    pub(super) user: u8,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
}

/// How far the VM's start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    UnderWay,
    Over,
    Settled,
}

/// All deferred tasks.
#[derive(Debug)]
pub(super) struct Deferred {
    unplaced: Vec<Unplaced>,
    start: Start,
}

impl Deferred {
    /// The tasks of a VM that is about to start.
    pub(super) fn new(unplaced: impl IntoIterator<Item = Unplaced>) -> Self {
        Self {
            unplaced: unplaced.into_iter().collect(),
            start: Start::UnderWay,
        }
    }

    /// Adds a process to be placed. Beyond the limit a process stays where it is: a compromised
    /// supervisor must not make this list grow.
    pub(super) fn place(&mut self, process: Unplaced) {
        if self.unplaced.len() < UNPLACED_MAX {
            self.unplaced.push(process);
        }
    }

    /// The guest runs, for the first time or after it has rebooted.
    pub(super) fn started(&mut self) {
        if self.start == Start::UnderWay {
            self.start = Start::Over;
        }
    }

    /// Whether a task is left.
    pub(super) fn are_left(&self) -> bool {
        !self.unplaced.is_empty() || self.start == Start::Over
    }

    /// The next task; the caller does it now.
    pub(super) fn next(&mut self) -> Option<Task> {
        if let Some(process) = self.unplaced.pop() {
            return Some(Task::Place(process));
        }
        (self.start == Start::Over).then(|| {
            self.start = Start::Settled;
            Task::Settle
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32) -> Unplaced {
        Unplaced {
            user: 0,
            pid,
            pidfd: std::fs::File::open("/dev/null").unwrap().into(),
        }
    }

    #[test]
    fn vm_settles_once_however_often_it_starts_and_backends_follow() {
        let mut deferred = Deferred::new([process(1)]);
        assert!(matches!(deferred.next(), Some(Task::Place(p)) if p.pid == 1));
        assert!(
            !deferred.are_left() && deferred.next().is_none(),
            "no guest"
        );
        deferred.place(process(2));
        deferred.started();
        assert!(matches!(deferred.next(), Some(Task::Place(p)) if p.pid == 2));
        assert!(deferred.are_left());
        assert!(matches!(deferred.next(), Some(Task::Settle)));
        for pid in 3..10 {
            deferred.place(process(pid));
            deferred.started();
            assert!(matches!(deferred.next(), Some(Task::Place(p)) if p.pid == pid));
            assert!(!deferred.are_left() && deferred.next().is_none());
        }
    }

    #[test]
    fn vm_settles_with_nothing_to_place() {
        let mut deferred = Deferred::new([]);
        assert!(!deferred.are_left());
        deferred.started();
        assert!(deferred.are_left());
        assert!(matches!(deferred.next(), Some(Task::Settle)));
        assert!(!deferred.are_left());
    }

    #[test]
    fn processes_without_end_are_not_kept_in_mind() {
        let mut deferred = Deferred::new([]);
        (1..=1000).for_each(|pid| deferred.place(process(pid)));
        let placed = std::iter::from_fn(|| deferred.next()).count();
        assert_eq!(placed, UNPLACED_MAX);
    }
}
