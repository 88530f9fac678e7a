// SPDX-License-Identifier: Apache-2.0
//! What a storm does and when: a pure function of its seed and its length.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use loadgen::random::Random;

/// The devices of the VM, in the order of its driver: two disks and a NIC.
pub const DEVICES: [&str; 3] = ["disk0", "disk1", "net0"];
/// The disks among them.
const DISKS: u64 = 2;
/// A guest that reboots five times in a row, each time less than 30 s after the last, is given up.
const LONG_RUN: Duration = Duration::from_secs(40);
const SHORT_RUNS_MAX: u32 = 3;
/// The most that all growth adds to an image.
const GROWTH_MAX_KIB: u64 = 256 << 10;

/// What a program is replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Build {
    /// The file that it was started from.
    Same,
    /// Another file: another version if there is one, or a longer one that does the same.
    Other,
    /// A program that dies at its first request or frame.
    Faulty,
}

/// One thing that a user can do, or that happens to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL for a backend, counted from the oldest.
    Kill {
        /// Which; as many as there are.
        nth: usize,
    },
    /// SIGSTOP for a backend, counted from the oldest; without a time it is for ever.
    Stop {
        /// Which.
        nth: usize,
        /// SIGCONT after so long.
        ms: Option<u64>,
    },
    /// `bulkhead restart`.
    Restart {
        /// Which device.
        device: usize,
    },
    /// `bulkhead upgrade`.
    Upgrade {
        /// Which device.
        device: usize,
        /// To what.
        build: Build,
    },
    /// The guest reboots, with requests outstanding.
    Reboot,
    /// The driver resets a device, with requests outstanding.
    Reset {
        /// Which device.
        device: usize,
    },
    /// `bulkhead pause`, and `bulkhead resume` after so long.
    Pause {
        /// How long.
        ms: u64,
    },
    /// `bulkhead link … down`, and up again after so long.
    Link {
        /// How long.
        ms: u64,
    },
    /// `truncate --size +N` of an image.
    Grow {
        /// Which disk's.
        disk: usize,
        /// By how much.
        kib: u64,
    },
    /// The storage below both disks accepts no write for so long.
    StandStill {
        /// How long.
        ms: u64,
    },
    /// A question to the API.
    Ask {
        /// Which; as many as there are.
        nth: usize,
    },
    /// A client that attaches for a moment, to the console or to the events.
    Attach,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = |at: &usize| DEVICES.get(*at).copied().unwrap_or("?");
        match self {
            Self::Kill { nth } => write!(f, "kill backend {nth}"),
            Self::Stop { nth, ms: Some(ms) } => write!(f, "stop backend {nth} for {ms} ms"),
            Self::Stop { nth, ms: None } => write!(f, "stop backend {nth}"),
            Self::Restart { device: at } => write!(f, "restart {}", device(at)),
            Self::Upgrade { device: at, build } => {
                write!(f, "upgrade {} to {build:?}", device(at))
            }
            Self::Reboot => f.write_str("reboot"),
            Self::Reset { device: at } => write!(f, "reset {}", device(at)),
            Self::Pause { ms } => write!(f, "pause for {ms} ms"),
            Self::Link { ms } => write!(f, "link down for {ms} ms"),
            Self::Grow { disk, kib } => write!(f, "grow {} by {kib} KiB", device(disk)),
            Self::StandStill { ms } => write!(f, "storage stands still for {ms} ms"),
            Self::Ask { nth } => write!(f, "ask {nth}"),
            Self::Attach => f.write_str("attach"),
        }
    }
}

impl Action {
    /// One word for what it is.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Upgrade {
                build: Build::Same, ..
            } => "upgrade_same",
            Self::Upgrade {
                build: Build::Other,
                ..
            } => "upgrade_other",
            Self::Upgrade {
                build: Build::Faulty,
                ..
            } => "upgrade_faulty",
            Self::Reboot => "reboot",
            Self::Reset { .. } => "reset",
            Self::Pause { .. } => "pause",
            Self::Link { .. } => "link",
            Self::Grow { .. } => "grow",
            Self::StandStill { .. } => "stand_still",
            Self::Ask { .. } => "ask",
            Self::Attach => "attach",
        }
    }
}

/// An action, and how long after the one before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How long after.
    pub delay: Duration,
    /// What.
    pub action: Action,
}

/// The plan of a storm of this length.
#[must_use]
pub fn plan(seed: u64, length: Duration) -> Vec<Step> {
    let mut planner = Planner {
        random: Random::new(seed),
        now: Duration::ZERO,
        booted: Duration::ZERO,
        short_runs: 0,
        grown_kib: BTreeMap::new(),
        rush: 0,
    };
    let mut steps = Vec::new();
    loop {
        let delay = planner.delay();
        planner.now += delay;
        if planner.now >= length {
            return steps;
        }
        let action = planner.action();
        steps.push(Step { delay, action });
    }
}

/// How often each kind of action is in a plan.
#[must_use]
pub fn counts(plan: &[Step]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for step in plan {
        *counts.entry(step.action.word()).or_default() += 1;
    }
    counts
}

struct Planner {
    random: Random,
    now: Duration,
    booted: Duration,
    short_runs: u32,
    grown_kib: BTreeMap<usize, u64>,
    /// So many steps follow each other closely.
    rush: u64,
}

impl Planner {
    fn delay(&mut self) -> Duration {
        if self.rush == 0 && self.random.below(10) == 0 {
            self.rush = 2 + self.random.below(6);
        }
        let most_us = match self.rush.checked_sub(1) {
            Some(rush) => {
                self.rush = rush;
                8_000
            }
            None => 400_000,
        };
        Duration::from_micros(self.random.below(most_us))
    }

    fn number(&mut self, limit: u64) -> usize {
        usize::try_from(self.random.below(limit)).unwrap_or(0)
    }

    fn device(&mut self) -> usize {
        self.number(DEVICES.len() as u64)
    }

    /// A time below the limit, more often a short one.
    fn ms(&mut self, limit: u64) -> u64 {
        let limit = 1 + self.random.below(limit);
        self.random.below(limit)
    }

    fn action(&mut self) -> Action {
        match self.random.below(100) {
            0..20 => Action::Kill {
                nth: self.number(12),
            },
            20..25 => {
                let for_ever = self.random.below(4) == 0;
                Action::Stop {
                    nth: self.number(12),
                    ms: (!for_ever).then(|| self.ms(3000)),
                }
            }
            25..36 => Action::Restart {
                device: self.device(),
            },
            36..44 => self.upgrade(Build::Same),
            44..51 => self.upgrade(Build::Other),
            51..53 => self.upgrade(Build::Faulty),
            53..58 => self.reboot(),
            58..70 => Action::Reset {
                device: self.device(),
            },
            70..74 => Action::Pause { ms: self.ms(2000) },
            74..78 => Action::Link { ms: self.ms(1500) },
            78..82 => self.grow(),
            82..86 => Action::StandStill {
                ms: match self.ms(5000) {
                    // Longer than anybody waits who must not wait for storage.
                    long @ 3000.. => 2 * long,
                    short => short,
                },
            },
            86..97 => Action::Ask {
                nth: self.number(6),
            },
            _ => Action::Attach,
        }
    }

    fn upgrade(&mut self, build: Build) -> Action {
        let device = self.device();
        Action::Upgrade { device, build }
    }

    /// A reboot, if the guest may do that now: one that does it too often is given up. What follows
    /// comes soon, while the guest is on its way.
    fn reboot(&mut self) -> Action {
        let short = self.now.saturating_sub(self.booted) < LONG_RUN;
        if short && self.short_runs >= SHORT_RUNS_MAX {
            return Action::Kill {
                nth: self.number(12),
            };
        }
        self.short_runs = if short { self.short_runs + 1 } else { 0 };
        self.booted = self.now;
        self.rush = 4 + self.random.below(20);
        Action::Reboot
    }

    fn grow(&mut self) -> Action {
        let disk = self.number(DISKS);
        let kib = 4 * (1 + self.random.below(1024));
        let grown = self.grown_kib.entry(disk).or_default();
        if *grown + kib > GROWTH_MAX_KIB {
            return Action::Ask { nth: 0 };
        }
        *grown += kib;
        Action::Grow { disk, kib }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn plan_of_a_seed_is_always_the_same_and_another_seed_has_another() {
        assert_eq!(plan(7, MINUTE), plan(7, MINUTE));
        assert_ne!(plan(7, MINUTE), plan(8, MINUTE));
        let (short, long) = (plan(7, MINUTE), plan(7, 2 * MINUTE));
        assert_eq!(short, long[..short.len()]);
    }

    #[test]
    fn plan_of_a_minute_has_nearly_every_kind_of_action() {
        for seed in 0..50 {
            let counts = counts(&plan(seed, MINUTE));
            assert!(counts.len() >= 13, "{seed}: {counts:?}");
            assert!(counts["kill"] > 20, "{seed}: {counts:?}");
            assert!(counts["reboot"] >= 1, "{seed}: {counts:?}");
        }
    }

    #[test]
    fn reboots_of_a_plan_are_never_taken_for_those_of_a_guest_that_crashed() {
        for seed in 0..20 {
            let (mut now, mut booted, mut short_runs) = (Duration::ZERO, Duration::ZERO, 0);
            for step in plan(seed, 60 * MINUTE) {
                now += step.delay;
                if step.action == Action::Reboot {
                    short_runs = match now - booted < Duration::from_secs(30) {
                        true => short_runs + 1,
                        false => 0,
                    };
                    booted = now;
                    assert!(short_runs < 5, "seed {seed}");
                }
            }
        }
    }
}
