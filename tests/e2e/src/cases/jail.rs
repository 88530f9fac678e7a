// SPDX-License-Identifier: Apache-2.0
//! Escape probes in the jails: a program that tries every system call and reaches for everything takes
//! the place of each process of ours. What gets through is what is meant to, call for call.
//!
//! Filters are switched off for the second half, by a tracer that only the host's root can be: what is
//! refused then is refused by namespaces, users, Landlock, MDWE, seals and limits alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::seccomp::{OWN, concerns};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::Case;
use crate::context::{Context, Skip, need_root};
use crate::inspect;
use crate::procs;
use crate::vm::PATIENCE;

/// The roles of a VM's own processes.
const ROLES: [&str; 4] = ["vmm", "blk-backend", "net-backend", "input-backend"];
/// Tables of filters: by whom they are installed, what they are called there, the table.
const TABLES: [(&str, &str); 5] = [
    (
        "supervisor",
        include_str!("../../../../supervisor/seccomp.json"),
    ),
    ("vmm", include_str!("../../../../vmm/seccomp.json")),
    (
        "blk-backend",
        include_str!("../../../../blk-backend/seccomp.json"),
    ),
    (
        "net-backend",
        include_str!("../../../../net-backend/seccomp.json"),
    ),
    (
        "input-backend",
        include_str!("../../../../input-backend/seccomp.json"),
    ),
];
/// What a supervisor may have of its own, however much it is told.
const SUPERVISOR_MAX_KIB: u64 = 8 << 10;
/// What the tests listen on, outside of all jails.
const HOST_SOCKET: &str = "bulkhead-probe";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("jail_of_each_process_holds_an_escape_probe", processes),
        Case::native("jail_of_the_supervisor_holds_an_escape_probe", supervisor),
        Case::native("jail_with_a_vmm_that_says_anything_goes_on", |context| {
            random_messages(context, 20_000)
        }),
        Case::native(
            "jail_with_a_vmm_that_says_anything_for_long_goes_on",
            |context| random_messages(context, 1_000_000),
        )
        .soak(Duration::from_secs(900)),
    ]
}

/// The host that must not be reached: a network with listeners that would answer.
struct Bait {
    _abstract: UnixListener,
    _loopback: TcpListener,
}

impl Bait {
    fn lay() -> Result<Self> {
        need_root()?;
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        ensure!(up.context("ip")?.success(), "there is no loopback");
        let address = SocketAddr::from_abstract_name(HOST_SOCKET)?;
        Ok(Self {
            _abstract: UnixListener::bind_addr(&address)?,
            _loopback: TcpListener::bind("127.0.0.1:22")?,
        })
    }
}

fn processes(context: &Context) -> Result<()> {
    let _bait = Bait::lay()?;
    let dir = context.dir();
    for name in ["bulkhead", "jailer"] {
        fs::copy(context.program(name), dir.join(name)).context(name)?;
    }
    for name in ROLES {
        fs::copy(context.program("escape-probe"), dir.join(name)).context("escape-probe")?;
    }
    let kernel = context.file("kernel", b"none")?;
    let image = context.sparse_file("image", 1 << 20)?;
    let name = context.name_of("probed");
    let mut command = Command::new(dir.join("bulkhead"));
    context.prepare(&mut command);
    command.args(["run", "--name", &name, "--mem", "64M", "--net", "tap=t0"]);
    command.args(["--power-button", "virtio"]);
    command.arg("--kernel").arg(kernel);
    command
        .arg("--disk")
        .arg(format!("path={}", image.display()));
    let mut vm = Killed(command.stdout(Stdio::null()).spawn().context("bulkhead")?);
    let log = context.state_dir("probed").join("log");
    let read = || Ok(fs::read_to_string(&log).unwrap_or_default());

    for role in ROLES {
        wait_for(&format!("PROBE {role} waits"), &mut vm.0, &read)?;
    }
    let listed = inspect::processes(context, &name)?;
    for role in ROLES {
        // A backend is listed with its device.
        let kind = role.trim_end_matches("-backend");
        let process = listed.iter().find(|process| process.role.starts_with(kind));
        let process = process.with_context(|| format!("no {role} among {listed:?}"))?;
        let pid = inspect::process(context, &name, &process.role)?;
        let done = format!("PROBE {role} done");
        without_filters(pid, || Ok(read()?.contains(&done)))?;
    }

    let report = read()?;
    for role in ROLES {
        judge(&report, role)?;
    }
    context.run_ok(&["stop", "--force", &name]).map(drop)
}

/// A probe in place of a vmm sends its supervisor so many messages of all kinds, and listens to
/// none; a disk and its backend are real. Whoever asks the supervisor is answered meanwhile.
fn random_messages(context: &Context, count: u32) -> Result<()> {
    let dir = context.dir();
    for name in ["bulkhead", "jailer", "blk-backend", "input-backend"] {
        fs::copy(context.program(name), dir.join(name)).context(name)?;
    }
    fs::copy(context.program("escape-probe"), dir.join("vmm")).context("escape-probe")?;
    let kernel = context.file("kernel", b"none")?;
    let image = context.sparse_file("image", 1 << 20)?;
    let name = context.name_of("messages");
    let mut command = Command::new(dir.join("bulkhead"));
    context.prepare(&mut command);
    command.args(["run", "--name", &name, "--mem", "64M", "--cmdline"]);
    command.arg(format!("messages={count} seed=7"));
    command.arg("--kernel").arg(kernel);
    command
        .arg("--disk")
        .arg(format!("path={}", image.display()));
    let mut vm = Killed(command.stdout(Stdio::null()).spawn().context("bulkhead")?);
    let log = context.state_dir("messages").join("log");
    let read = || anyhow::Ok(fs::read_to_string(&log).unwrap_or_default());
    let all_said = || anyhow::Ok(read()?.contains("has said everything"));

    let (mut asked, mut most_kib) = (0, 0);
    let begun = Instant::now();
    while !all_said()? {
        ensure!(vm.0.try_wait()?.is_none(), "the VM has ended: {}", read()?);
        ensure!(begun.elapsed() < 14 * PATIENCE, "it talks and talks");
        let Ok(info) = context.run_quietly(&["inspect", &name, "--json"]) else {
            continue;
        };
        asked += u32::from(info.status.success());
        // Refused or not, whatever the probe claims to be doing.
        context.run_quietly(&["restart", &name, "disk0"])?;
        context.run_quietly(&["events", &name])?;
        most_kib = most_kib.max(supervisor_kib());
    }
    let len = fs::metadata(&log)?.len();
    println!(
        "SEEN random messages={count} answers={asked} supervisor_kib={most_kib} log_bytes={len}"
    );
    ensure!(asked > 0, "nobody was answered");
    ensure!(!read()?.contains("panicked"), "somebody panicked");
    ensure!(most_kib < SUPERVISOR_MAX_KIB, "the supervisor grew");
    context.run_ok(&["stop", "--force", &name])?;
    let status = vm.0.wait()?;
    ensure!(status.success(), "bulkhead: {status}");
    Ok(())
}

/// What the supervisor below this process has of its own.
fn supervisor_kib() -> u64 {
    let all = procs::living_descendants();
    let found = all.iter().find(|process| process.name == "supervisor");
    let kib = found.and_then(|process| procs::anonymous_kib(process.pid));
    kib.unwrap_or(0)
}

fn supervisor(context: &Context) -> Result<()> {
    let _bait = Bait::lay()?;
    let log = context.file("log", b"")?;
    let mut command = Command::new(context.program("escape-probe"));
    context.prepare(&mut command);
    command.arg("supervisor").stdout(Stdio::null());
    let writer = fs::OpenOptions::new().append(true).open(&log)?;
    let mut probe = Killed(command.stderr(writer).spawn().context("escape-probe")?);
    let read = || Ok(fs::read_to_string(&log)?);

    wait_for("PROBE supervisor waits", &mut probe.0, &read)?;
    let parent = Pid::from_raw(i32::try_from(probe.0.id())?);
    let born = procs::below(parent);
    let pid = born.first().context("there is no supervisor")?.pid;
    let done = without_filters(pid, || Ok(read()?.contains("PROBE supervisor done")));
    // Having become somebody else, it does not go with its parent any more.
    kill(pid, Signal::SIGKILL)?;
    done?;

    judge(&read()?, "supervisor")
}

/// A process that is killed when it is not needed any more.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for(marker: &str, child: &mut Child, read: &dyn Fn() -> Result<String>) -> Result<()> {
    let begun = Instant::now();
    while !read()?.contains(marker) {
        let ended = child.try_wait()?;
        ensure!(
            ended.is_none() && begun.elapsed() < PATIENCE,
            "no {marker:?}: {}",
            read()?
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Switches a process's filters off, wakes it with a signal and lets it go on until it is done.
fn without_filters(pid: Pid, done: impl Fn() -> Result<bool>) -> Result<()> {
    // Since Linux 4.4; not in the library.
    const SUSPEND_SECCOMP: i32 = 1 << 21;
    let options = ptrace::Options::from_bits_retain(SUSPEND_SECCOMP);
    if let Err(errno) = ptrace::seize(pid, options) {
        let why = format!("filters cannot be switched off here: {}", errno.desc());
        return Err(Skip(why).into());
    }
    kill(pid, Signal::SIGUSR1)?;
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < PATIENCE, "the probe is stuck");
        match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal)?,
            WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(5)),
            other => ensure!(false, "the probe is gone: {other:?}"),
        }
    }
    // Its parent hears of its end only if nobody traces it.
    ptrace::interrupt(pid)?;
    waitpid(pid, None)?;
    Ok(ptrace::detach(pid, None)?)
}

/// What an escape probe is granted with no filter, and what good it does: a user namespace to be root in,
/// of an empty root, an empty network and nobody else. Filters refuse it all the same.
const GRANTED: &[&str] = &["have a user namespace"];
/// A supervisor is, besides, all of the VM's own users, and no Landlock keeps it from mounting an empty
/// file system in the empty root.
const GRANTED_TO_SUPERVISOR: &[&str] = &[
    "read the root",
    "join a group",
    "become another group",
    "become another user",
    "have a user namespace",
    "mount a tmpfs with the rights of that",
];
/// What a kernel before Linux 6.3 refuses nobody.
const IN_MEMORY: &[&str] = &[
    "map memory to write and execute",
    "make written memory executable",
];
/// Calls that the kernel lets past every filter, because it makes them itself, from pages that it has
/// put into programs; from anywhere else they do nothing.
const BEYOND_FILTERS: [&str; 2] = ["uprobe", "uretprobe"];
/// What the probe calls otherwise than the filters' tables do, on architectures without `stat`.
const OTHER_NAMES: [(&str, &str); 1] = [("fstatat", "newfstatat")];

/// How the filters' tables name a call.
fn named(call: &str) -> &str {
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == call);
    other.map_or(call, |(_, other)| other)
}

/// Whether this kernel can keep what is executed apart from what is written.
#[allow(unsafe_code)] // nobody wraps it
fn kernel_keeps_memory_apart() -> bool {
    const GET_MDWE: libc::c_int = 66;
    // SAFETY: PR_GET_MDWE takes integers.
    (unsafe { libc::prctl(GET_MDWE, 0_u64, 0_u64, 0_u64, 0_u64) }) >= 0
}

fn judge(report: &str, role: &str) -> Result<()> {
    let begin = format!("PROBE {role} ");
    let lines = report.lines().filter_map(|line| line.strip_prefix(&begin));
    let lines: Vec<&str> = lines.collect();
    for line in &lines {
        println!("{role} {line}");
    }
    let find = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));

    let expected = expected_calls(role)?;
    for (filter, expected) in &expected {
        let found = find(&format!("calls {filter}:")).with_context(|| filter.clone())?;
        let found = found.split_whitespace();
        let found: BTreeSet<&str> = found
            .filter(|call| !BEYOND_FILTERS.contains(call))
            .map(named)
            .collect();
        let expected: BTreeSet<&str> = expected.iter().map(String::as_str).collect();
        ensure!(
            found == expected,
            "{role}, filter {filter}: {:?} got through, {:?} did not",
            &found - &expected,
            &expected - &found
        );
    }
    let entries = find("other entries:").context("no other entries")?;
    ensure!(
        entries.trim().is_empty(),
        "{role}: open other entries:{entries}"
    );

    let reached = lines.iter().filter_map(|line| line.strip_prefix("reach "));
    let outcomes: Vec<_> = reached.filter_map(|line| line.rsplit_once(": ")).collect();
    ensure!(
        outcomes.len() > 40,
        "{role}: only {} were tried",
        outcomes.len()
    );
    let granted = outcomes.iter().filter(|(_, outcome)| *outcome == "granted");
    let granted: Vec<&str> = granted.map(|(what, _)| *what).collect();
    let meant = match role {
        "supervisor" => GRANTED_TO_SUPERVISOR,
        _ => GRANTED,
    };
    let meant = match kernel_keeps_memory_apart() {
        true => meant.to_vec(),
        false => [IN_MEMORY, meant].concat(),
    };
    ensure!(
        granted == meant,
        "{role}: {granted:?} were granted, not {meant:?}"
    );
    Ok(())
}

/// The calls that each filter of a role lets through with any arguments, and what is inherited does,
/// too.
fn expected_calls(role: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let [(_, inherited), own @ ..] = TABLES;
    let inherited = unconditional(inherited)?;
    let inherited = inherited.get("supervisor").context("no such filter")?;
    let mut expected = BTreeMap::from([("inherited".to_owned(), inherited.clone())]);
    for (_, table) in own.iter().filter(|(whose, _)| *whose == role) {
        for (filter, calls) in unconditional(table)? {
            expected.insert(filter, calls.intersection(inherited).cloned().collect());
        }
    }
    Ok(expected)
}

/// Of each filter in a table, the calls with a rule without conditions.
fn unconditional(table: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let table: Value = serde_json::from_str(table)?;
    let filters = table.as_object().context("no table")?;
    let calls = |filter: &Value| {
        let rules = filter["filter"].as_array().into_iter().flatten();
        let rules = rules.filter(|rule| concerns(rule, OWN) && rule["args"].is_null());
        let names = rules.filter_map(|rule| rule["syscall"].as_str());
        names.map(str::to_owned).collect()
    };
    let each = filters.iter();
    Ok(each
        .map(|(name, filter)| (name.clone(), calls(filter)))
        .collect())
}
