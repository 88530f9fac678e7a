// SPDX-License-Identifier: Apache-2.0
//! A supervisor that was taken over, and the jailer, which alone has the host's privileges: it is told
//! anything, answers nothing that it should not, and leaves nothing behind.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Case;
use super::kills::cgroups;
use crate::context::{Context, need_root};
use crate::procs;
use crate::vm::PATIENCE;

/// What a jailer may have of its own, however much it is told.
const JAILER_MAX_KIB: u64 = 4 << 10;
/// The descriptors that a jailer has, and those of what it puts off.
const DESCRIPTORS_MAX: usize = 64;
/// What a jailer answers, with a little to spare.
const ANSWERS_AT_ONCE: u64 = 260;
const ANSWERS_A_SECOND: u64 = 110;
/// What it does that no jailer can make anything of, and what is said of it.
const MALICES: [(&str, Option<&str>); 4] = [
    ("raves", Some("the supervisor was killed")),
    ("rambles", Some("the supervisor was killed")),
    ("hangs-up", Some("the supervisor was killed")),
    ("lingers", None),
];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("jailer_told_anything_by_its_supervisor_goes_on", babble),
        Case::native("jailer_flooded_with_questions_answers_a_few", flood),
        Case::native(
            "jailer_told_nonsense_ends_the_vm_and_leaves_nothing",
            nonsense,
        ),
    ]
}

/// A VM with an escape probe for a supervisor.
struct Compromised {
    name: String,
    child: Child,
}

impl Drop for Compromised {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Compromised {
    fn start(context: &Context, malice: &str) -> Result<Self> {
        need_root()?;
        let dir = context.dir();
        for (program, takes) in [
            ("bulkhead", "bulkhead"),
            ("escape-probe", "jailer"),
            ("vmm", "vmm"),
            ("blk-backend", "blk-backend"),
            ("input-backend", "input-backend"),
        ] {
            fs::copy(context.program(program), dir.join(takes)).context(program)?;
        }
        let kernel = context.file("kernel", b"none")?;
        let image = context.sparse_file("image", 1 << 20)?;
        let mut command = Command::new(dir.join("bulkhead"));
        context.prepare(&mut command);
        let name = context.name_of(malice);
        command.args(["run", "--name", &name, "--mem", "64M", "--cmdline", malice]);
        command.arg("--kernel").arg(kernel);
        let disk = format!("path={}", image.display());
        command.args(["--console", "none", "--disk", &disk]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().context("bulkhead")?;
        Ok(Self { name, child })
    }

    /// Waits for its end; its exit status, and what was said on standard error.
    fn end(mut self) -> Result<(Option<i32>, String)> {
        let stderr = self.child.stderr.take().context("no standard error")?;
        let said = std::io::read_to_string(stderr)?;
        println!("{}: {said}", self.name);
        let status = self.child.wait()?.code();
        let living = procs::wait_for_none(PATIENCE);
        ensure!(living.is_empty(), "processes are left: {living:?}");
        let groups = cgroups(&self.name);
        ensure!(groups.is_empty(), "control groups are left: {groups:?}");
        Ok((status, said))
    }
}

fn babble(context: &Context) -> Result<()> {
    let vm = Compromised::start(context, "babbles")?;
    let log = context.state_dir("babbles").join("log");
    let begun = Instant::now();
    let (mut most_kib, mut most_open) = (0, 0);
    while !fs::read_to_string(&log).is_ok_and(|said| said.contains("has said everything")) {
        ensure!(begun.elapsed() < PATIENCE, "it talks and talks");
        if let Some(jailer) = jailer() {
            most_kib = most_kib.max(procs::anonymous_kib(jailer).unwrap_or(0));
            let open = fs::read_dir(format!("/proc/{jailer}/fd"));
            most_open = most_open.max(open.map_or(0, Iterator::count));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("SEEN babble jailer_kib={most_kib} descriptors={most_open}");
    ensure!(most_kib > 0 && most_open > 0, "nobody looked");
    ensure!(most_kib < JAILER_MAX_KIB, "the jailer grew");
    ensure!(most_open < DESCRIPTORS_MAX, "the jailer kept descriptors");

    kill(jailer().context("the jailer is gone")?, Signal::SIGTERM)?;
    let (status, said) = vm.end()?;

    ensure!(status == Some(0), "the exit status is {status:?}");
    let clean = said.chars().all(|c| c == '\n' || !c.is_control());
    ensure!(clean, "the terminal was commanded");
    Ok(())
}

/// However fast it is asked, it answers a burst and then so many a second: what a supervisor can have
/// of the host's processors is bounded.
fn flood(context: &Context) -> Result<()> {
    let vm = Compromised::start(context, "floods")?;
    let log = context.state_dir("floods").join("log");
    let begun = Instant::now();
    let said = loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains(" ms=") {
            break said;
        }
        ensure!(begun.elapsed() < PATIENCE, "it asks and asks");
        std::thread::sleep(Duration::from_millis(10));
    };
    let number = |name: &str| {
        let (_, rest) = said.split_once(name).context("no figure")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().context("no number")
    };
    let (answers, ms) = (number(" answers=")?, number(" ms=")?);

    println!("SEEN flood answers={answers} ms={ms}");
    let most = ANSWERS_AT_ONCE + ms * ANSWERS_A_SECOND / 1000;
    ensure!(answers <= most, "{answers} answers in {ms} ms");
    ensure!(answers >= ANSWERS_AT_ONCE / 2, "an honest one is held up");

    kill(jailer().context("the jailer is gone")?, Signal::SIGTERM)?;
    let (status, _) = vm.end()?;
    ensure!(status == Some(0), "the exit status is {status:?}");
    Ok(())
}

/// The jailer below this process.
fn jailer() -> Option<Pid> {
    let all = procs::living_descendants();
    let found = all.iter().find(|process| process.name == "jailer");
    found.map(|process| process.pid)
}

fn nonsense(context: &Context) -> Result<()> {
    for (malice, complaint) in MALICES {
        let vm = Compromised::start(context, malice)?;
        let (status, said) = vm.end()?;
        match complaint {
            Some(words) => {
                ensure!(status == Some(1), "{malice}: the exit status is {status:?}");
                ensure!(
                    said.lines().count() == 1 && said.contains(words),
                    "{malice}"
                );
            }
            None => ensure!(status == Some(0) && said.is_empty(), "{malice}: {status:?}"),
        }
        let state = context.state_dir(malice);
        ensure!(!state.exists(), "{} is left", state.display());
    }
    Ok(())
}
