// SPDX-License-Identifier: Apache-2.0
//! Carries out the actions of a plan: what is done at once is done here, what takes its time gets a
//! thread.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Scene;
use super::book::{Outcome, Single};
use super::plan::{Action, Build, DEVICES};
use super::storage::Level;
use crate::context::Context;
use crate::procs;

/// The most commands that are under way.
const COMMANDS_MAX: usize = 12;
/// Names the kinds of action that are left out, with commas between them: what a fault needs to show
/// is found out so.
pub(super) const WITHOUT: &str = "STORM_WITHOUT";
/// How long a client stays.
const ATTACHED: Duration = Duration::from_millis(300);

/// Other words for why a good program does not take over. What has to do with what it is are none
/// that a storm explains.
const UNEXPLAINED: [&str; 4] = ["configuration", "features", "seccomp filter", "panicked"];

/// Another file that does the same as the program: that of another version, if there is one.
pub(super) fn other_build(context: &Context, dir: &Path, program: &str) -> Result<()> {
    let other = dir.join(format!("{program}-other"));
    match context.previous() {
        Ok(previous) => fs::copy(previous.join(program), &other).map(drop)?,
        Err(_) => {
            fs::copy(context.program(program), &other)?;
            // Behind its last section.
            let mut file = fs::File::options().append(true).open(&other)?;
            file.write_all(b"another build\n")?;
        }
    }
    Ok(())
}

/// The processes of all backends, the oldest first; one that is being tried, too.
pub(super) fn backends() -> Vec<Pid> {
    let mut found: Vec<_> = procs::living_descendants()
        .into_iter()
        .filter(|process| {
            let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
            let name = exe.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("blk-backend")
                || name.starts_with("net-backend")
                || name.starts_with("backend-that-")
        })
        .map(|process| process.pid)
        .collect();
    found.sort_unstable();
    found
}

fn backend(nth: usize) -> Option<Pid> {
    let all = backends();
    all.get(nth.checked_rem(all.len())?).copied()
}

impl Scene<'_> {
    /// Begins an action.
    pub(super) fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>, number: usize, action: Action) {
        let begun = Instant::now();
        if self.without.iter().any(|word| word == action.word()) {
            let outcome = Ok((Outcome::Skipped, WITHOUT.to_owned()));
            return self.end(number, action, begun, outcome);
        }
        let takes_time = !matches!(
            action,
            Action::Kill { .. }
                | Action::Reboot
                | Action::Reset { .. }
                | Action::Stop { ms: None, .. }
        );
        if !takes_time {
            self.end(number, action, begun, self.at_once(action));
        } else if self.book.enter(COMMANDS_MAX) {
            self.book.note(format_args!("#{number} {action} begins"));
            scope.spawn(move || {
                self.end(number, action, begun, self.take_time(action));
                self.book.leave();
            });
        } else {
            let outcome = Ok((Outcome::Skipped, "too much at once".to_owned()));
            self.end(number, action, begun, outcome);
        }
    }

    fn end(
        &self,
        number: usize,
        action: Action,
        begun: Instant,
        outcome: Result<(Outcome, String)>,
    ) {
        match outcome {
            Ok((outcome, said)) => {
                self.book.count(action.word(), outcome, begun);
                let ms = begun.elapsed().as_millis();
                self.book.note(format_args!(
                    "#{number} {action}: {outcome:?} after {ms} ms {said}"
                ));
            }
            Err(error) => self.fail(format_args!("#{number} {action}: {error:#}")),
        }
    }

    fn at_once(&self, action: Action) -> Result<(Outcome, String)> {
        let (nth, signal) = match action {
            Action::Reboot => return self.order(self.driver.reboot()),
            Action::Reset { device } => return self.order(&self.driver.reset(device)),
            Action::Kill { nth } => (nth, Signal::SIGKILL),
            Action::Stop { nth, .. } => (nth, Signal::SIGSTOP),
            _ => anyhow::bail!("it takes its time"),
        };
        Ok(match backend(nth) {
            Some(pid) if kill(pid, signal).is_ok() => (Outcome::Done, format!("{pid}")),
            _ => (Outcome::Skipped, "there is none".into()),
        })
    }

    /// Tells the driver something. It is told in vain if the guest is just rebooting.
    pub(super) fn order(&self, order: &str) -> Result<(Outcome, String)> {
        (&self.orders).write_all(order.as_bytes())?;
        Ok((Outcome::Done, String::new()))
    }

    fn take_time(&self, action: Action) -> Result<(Outcome, String)> {
        let nap = |ms| thread::sleep(Duration::from_millis(ms));
        let skipped = |why: &str| Ok((Outcome::Skipped, why.to_owned()));
        match action {
            Action::Stop { nth, ms } => {
                let Some(pid) = backend(nth) else {
                    return skipped("there is none");
                };
                let _ = kill(pid, Signal::SIGSTOP);
                nap(ms.unwrap_or(0));
                let goes_on = kill(pid, Signal::SIGCONT).is_ok();
                Ok((Outcome::Done, format!("{pid}, lives: {goes_on}")))
            }
            Action::Restart { device } => self.command("restart", &[DEVICES[device], "--wait"]),
            Action::Upgrade { device, build } => self.upgrade(device, build),
            Action::Pause { ms } => {
                if !self.book.claim(Single::Pause) {
                    return skipped("it is paused");
                }
                let outcome = self.command("pause", &[]);
                if matches!(outcome, Ok((Outcome::Done, _))) {
                    nap(ms);
                    let (_, said) = self.command("resume", &[])?;
                    self.book.note(format_args!("resumed {said}"));
                }
                self.book.release(Single::Pause);
                outcome
            }
            Action::Link { ms } => {
                let down = self.command("link", &[DEVICES[2], "down"])?;
                nap(ms);
                let up = self.command("link", &[DEVICES[2], "up"])?;
                Ok((up.0, down.1 + &up.1))
            }
            Action::Grow { disk, kib } => {
                if self.book.is(Single::StandStill) {
                    return skipped("the storage stands still");
                }
                let image = fs::File::options().write(true).open(&self.images[disk])?;
                let bytes = image.metadata()?.len() + (kib << 10);
                image.set_len(bytes)?;
                Ok((Outcome::Done, format!("to {bytes} bytes")))
            }
            Action::StandStill { ms } => self.stand_still(ms),
            Action::Ask { nth } => self.ask(nth),
            Action::Attach => self.attach(),
            Action::Kill { .. } | Action::Reboot | Action::Reset { .. } => self.at_once(action),
        }
    }

    /// The storage accepts no writes for so long.
    fn stand_still(&self, ms: u64) -> Result<(Outcome, String)> {
        if !self.book.claim(Single::StandStill) {
            return Ok((Outcome::Skipped, "it stands still already".to_owned()));
        }
        let level = match ms / 2 % 2 {
            0 => Level::Calls,
            _ => Level::Device,
        };
        let outcome = self.storage.freeze(level).and_then(|()| {
            thread::sleep(Duration::from_millis(ms));
            self.storage.thaw(level)
        });
        self.book.release(Single::StandStill);
        outcome.map(|()| (Outcome::Done, format!("{level:?}")))
    }

    /// `bulkhead` with these words, which may be refused: the VM does many things at once.
    fn command(&self, verb: &str, words: &[&str]) -> Result<(Outcome, String)> {
        let output = self.harness.bulkhead(verb, words)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok((Outcome::Done, said)),
            // It failed, was refused, or could not be asked.
            Some(1 | 5 | 6) => Ok((Outcome::Refused, said)),
            _ => anyhow::bail!("bulkhead {verb}: {}: {said}", output.status),
        }
    }

    /// The file of a program.
    pub(super) fn program(&self, device: usize, build: Build) -> PathBuf {
        let program = match device {
            2 => "net-backend",
            _ => "blk-backend",
        };
        match build {
            Build::Same => self.harness.dir().join(program),
            Build::Other => self.harness.dir().join(format!("{program}-other")),
            Build::Faulty => self.context.program("backend-that-dies"),
        }
    }

    fn upgrade(&self, device: usize, build: Build) -> Result<(Outcome, String)> {
        let binary = self.program(device, build).display().to_string();
        let words = [DEVICES[device], "--binary", &binary];
        let (outcome, said) = self.command("upgrade", &words)?;
        match (build, outcome) {
            (Build::Faulty, Outcome::Done) => {
                // Nothing was asked of it while it was tried.
                let good = self.program(device, Build::Same).display().to_string();
                let words = [DEVICES[device], "--binary", &good];
                while self.command("upgrade", &words)?.0 != Outcome::Done && !self.book.is_failed()
                {
                    thread::sleep(Duration::from_millis(200));
                }
                Ok((outcome, "and back".into()))
            }
            (Build::Same | Build::Other, Outcome::Refused) => {
                let unexplained = UNEXPLAINED.iter().find(|words| said.contains(**words));
                anyhow::ensure!(unexplained.is_none(), "{said}");
                Ok((outcome, said))
            }
            _ => Ok((outcome, said)),
        }
    }

    /// Asks something that is always answered.
    fn ask(&self, nth: usize) -> Result<(Outcome, String)> {
        let (verb, words): (_, &[&str]) = match nth {
            0 => ("inspect", &["--json"]),
            1 => ("stats", &["--json"]),
            2 => ("events", &["--json"]),
            3 => ("inspect", &[]),
            4 => return self.hang_up(b"GET /v1/vm HTTP/1.1\r\nHost: x\r\n\r\n"),
            _ => {
                return self
                    .hang_up(b"PUT /v1/vm/pause HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n");
            }
        };
        let (outcome, said) = self.command(verb, words)?;
        anyhow::ensure!(outcome == Outcome::Done, "bulkhead {verb}: {said}");
        Ok((outcome, verb.to_owned()))
    }

    /// A client that asks, and goes away before it is answered or is refused.
    fn hang_up(&self, request: &[u8]) -> Result<(Outcome, String)> {
        let mut stream = self.harness.api().context("the API")?;
        stream.write_all(request)?;
        Ok((Outcome::Done, String::new()))
    }

    /// A client that follows the events for a moment.
    fn attach(&self) -> Result<(Outcome, String)> {
        let mut stream = self.harness.api().context("the API")?;
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")?;
        stream.set_read_timeout(Some(ATTACHED))?;
        let (mut seen, mut bytes) = (0, [0; 4096]);
        let begun = Instant::now();
        while begun.elapsed() < ATTACHED {
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(len) => seen += len,
                Err(_) => break,
            }
        }
        Ok((Outcome::Done, format!("{seen} bytes")))
    }
}
