// SPDX-License-Identifier: Apache-2.0
//! One case in a process of its own.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use host::clock::boot_id;
use serde_json::Value;

use super::SKIPPED;
use super::kernel_log::KernelLog;
use crate::cases::Case;
use crate::context::{Places, name_prefix, state_root};
use crate::procs;

/// How long what a case started may take to go once the case has ended. What nobody ends stays for
/// longer; what has ended may have to wait for a busy processor or disk.
const GRACE: Duration = Duration::from_secs(20);

/// The directory of what is kept of ended VMs, and how many short records it may hold.
const ENDED: &str = ".ended";
const ENDED_MAX: usize = 64;
const ENDED_MAX_BYTES: usize = 4096;

/// How the reason begins when a case took longer than it may.
pub(super) const HUNG: &str = "hung for ";

/// How a case went.
#[derive(Debug)]
pub(super) enum Verdict {
    Passed,
    Failed(String),
    Skipped,
}

/// Runs `case`; returns the verdict and everything it said.
pub(super) fn run(case: &Case, places: &Places) -> Result<(Verdict, String)> {
    let mut log = tempfile::tempfile().context("a file for the case's log")?;
    let mut command = Command::new(std::env::current_exe().context("the runner's own path")?);
    command.args(["one", &case.name, "--bin"]).arg(&places.bin);
    if let Some(assets) = &places.assets {
        command.arg("--assets").arg(assets);
    }
    if let Some(previous) = &places.previous {
        command.arg("--previous").arg(previous);
    }
    if let Some(seed) = places.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    command.args(["--machine", places.machine.name()]);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    let kernel_log = KernelLog::from_here();
    let mut child = command
        .process_group(0)
        .spawn()
        .context("cannot start the case")?;
    let verdict = judge(&mut child, case.limit)?;
    let verdict = and_nothing_left(verdict, &child);
    let mut said = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut said)?;
    let mut said = String::from_utf8_lossy(&said).into_owned();
    if matches!(verdict, Verdict::Failed(_)) {
        for record in kernel_log.of_filters() {
            said += &format!("kernel: {record}\n");
        }
    }
    Ok((verdict, said))
}

fn judge(child: &mut Child, limit: Duration) -> Result<Verdict> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match status.code() {
                Some(0) => Verdict::Passed,
                Some(code) if code == i32::from(SKIPPED) => Verdict::Skipped,
                Some(1) => Verdict::Failed("a step did not hold".to_owned()),
                _ => Verdict::Failed(format!("the case's process ended with {status}")),
            });
        }
        if Instant::now() >= deadline {
            let ran: Vec<String> = names(&procs::living_descendants());
            child.kill()?;
            child.wait()?;
            procs::kill_descendants();
            let why = format!("{HUNG}{} s; killed: {}", limit.as_secs(), ran.join(", "));
            return Ok(Verdict::Failed(why));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whatever the verdict, nothing of the case may be left; what is, is removed.
fn and_nothing_left(verdict: Verdict, child: &Child) -> Verdict {
    let left = procs::wait_for_none(GRACE);
    procs::kill_descendants();
    let mut left = names(&left);
    for path in left_state(child) {
        left.push(path.display().to_string());
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    match verdict {
        Verdict::Failed(_) => verdict,
        _ if left.is_empty() => verdict,
        _ => Verdict::Failed(format!("left behind: {}", left.join(", "))),
    }
}

/// State directories of the case's VMs. When not root they are in the case's own directory.
fn left_state(child: &Child) -> Vec<PathBuf> {
    let prefix = i32::try_from(child.id())
        .map(name_prefix)
        .unwrap_or_default();
    let root = state_root(&std::env::temp_dir());
    let mut left = of_the_case(&root, &prefix);
    // How VMs ended is kept, in few short files; those of the case go with it.
    let kept = root.join(ENDED);
    let too_many = fs::read_dir(&kept).is_ok_and(|all| all.count() > ENDED_MAX);
    for path in of_the_case(&kept, &prefix) {
        let text = fs::read(&path).unwrap_or_default();
        let record: Value = serde_json::from_slice(&text).unwrap_or_default();
        let is_record = record["reason"].is_string() && record["boot"] == boot_id();
        if is_record && text.len() <= ENDED_MAX_BYTES && !too_many {
            let _ = fs::remove_file(path);
        } else {
            left.push(path);
        }
    }
    left
}

fn of_the_case(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

fn names(processes: &[procs::Process]) -> Vec<String> {
    processes
        .iter()
        .map(|process| format!("{} {} ({})", process.name, process.pid, process.state))
        .collect()
}
