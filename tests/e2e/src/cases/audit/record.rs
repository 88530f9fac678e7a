// SPDX-License-Identifier: Apache-2.0
//! What /proc tells of the processes of a VM, as text that is the same at every run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::context::name_prefix;

/// The namespaces that no two processes of a VM share with anybody.
pub(super) const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// All of it, for each process by its role.
pub(super) fn record(processes: &[(String, u64)]) -> Result<String> {
    let namespaces = |pid: u64| -> Result<BTreeMap<&str, String>> {
        let mut all = BTreeMap::new();
        for kind in NAMESPACES {
            let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            all.insert(kind, link.display().to_string());
        }
        Ok(all)
    };
    let all: Vec<_> = processes
        .iter()
        .map(|(_, pid)| namespaces(*pid))
        .collect::<Result<_>>()?;
    let (_, supervisor) = processes.get(1).context("no supervisor")?;
    let first_user = user(*supervisor)?;
    let (_, jailer) = processes.first().context("no jailer")?;
    let mut text = self::jailer(*jailer)?;
    for ((role, pid), mine) in processes.iter().zip(&all).skip(1) {
        let shared = |kind: &&str| {
            all.iter()
                .filter(|theirs| theirs[kind] == mine[kind])
                .count()
                > 1
        };
        let shared: Vec<_> = NAMESPACES.into_iter().filter(shared).collect();
        writeln!(text, "{role}")?;
        writeln!(
            text,
            "  user          first + {}",
            user(*pid)?.wrapping_sub(first_user)
        )?;
        writeln!(text, "  namespaces    shared: {shared:?}")?;
        for line in status(*pid)? {
            writeln!(text, "  {line}")?;
        }
        writeln!(text, "  dumpable      {}", dumpable(*pid)?)?;
        writeln!(text, "  relocations   {}", relocations(*pid)?)?;
        writeln!(text, "  guest memory  {}", guest_memory(*pid)?)?;
        let environment = fs::read(format!("/proc/{pid}/environ"))?;
        let environment = environment.iter().filter(|byte| **byte != 0).count();
        writeln!(text, "  environment   {environment} bytes")?;
        writeln!(text, "  root          {}", root(*pid)?)?;
        writeln!(text, "  limits        {}", limits(*pid)?)?;
        writeln!(
            text,
            "  badness       {}",
            read(*pid, "oom_score_adj")?.trim()
        )?;
        writeln!(text, "  cgroups       {}", cgroups(*pid)?)?;
        writeln!(text, "  descriptors   {}", descriptors(*pid, |_| true)?)?;
    }
    Ok(text)
}

/// Of the jailer what is not simply that of whoever started it, which is this process.
fn jailer(pid: u64) -> Result<String> {
    let this = u64::from(std::process::id());
    let mut text = String::from("jailer\n");
    let strange = |kind: &&str| {
        let link = |pid| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        link(pid).ok() != link(this).ok()
    };
    let strange: Vec<_> = NAMESPACES.into_iter().filter(strange).collect();
    writeln!(text, "  namespaces    not the host's: {strange:?}")?;
    for (line, ours) in status(pid)?.into_iter().zip(status(this)?) {
        let field = line.split(' ').next().unwrap_or_default();
        match line == ours {
            true => writeln!(text, "  {field:<13} as it was started")?,
            false => writeln!(text, "  {line}")?,
        }
    }
    // What belongs to root does so either way.
    if user(pid).ok() != Some(0) {
        writeln!(text, "  dumpable      {}", dumpable(pid)?)?;
    }
    writeln!(text, "  relocations   {}", relocations(pid)?)?;
    writeln!(text, "  cgroups       {}", cgroups(pid)?)?;
    // What this process was started with is handed down.
    let own = |number: &Path| {
        let link = |pid| fs::read_link(Path::new(&format!("/proc/{pid}/fd")).join(number));
        let is_standard = ["0", "1", "2"].map(Path::new).contains(&number);
        is_standard || link(pid).ok() != link(this).ok()
    };
    writeln!(text, "  descriptors   {}", descriptors(pid, own)?)?;
    Ok(text)
}

fn read(pid: u64, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("/proc/{pid}/{file}"))
}

/// The one user and group that a process is; it has no other.
pub(super) fn user(pid: u64) -> Result<u32> {
    let status = read(pid, "status")?;
    let mut numbers = BTreeSet::new();
    for field in ["Uid:", "Gid:", "Groups:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field}"))?;
        for number in line.split_whitespace() {
            numbers.insert(number.parse::<u32>()?);
        }
    }
    ensure!(
        numbers.len() == 1,
        "process {pid} is more than one user: {numbers:?}"
    );
    numbers.first().copied().context("no user")
}

fn status(pid: u64) -> Result<Vec<String>> {
    const FIELDS: [&str; 8] = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ];
    let status = read(pid, "status")?;
    let line = |field: &str| {
        let begin = format!("{field}:");
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(begin.as_str()))?;
        Some(
            format!("{field:<13} {}", value.trim())
                .trim_end()
                .to_string(),
        )
    };
    let shorten = |line: String| line.replace("Seccomp_filters", "Filters      ");
    Ok(FIELDS
        .iter()
        .filter_map(|field| line(field))
        .map(shorten)
        .collect())
}

/// The kernel gives what belongs to a process that may be looked at to its user, and everything
/// else to root.
fn dumpable(pid: u64) -> Result<&'static str> {
    let owner = fs::metadata(format!("/proc/{pid}/environ"))?.uid();
    Ok(if owner == user(pid)? { "yes" } else { "no" })
}

/// Whether guest memory is mapped, and whether it would be in a core dump.
fn guest_memory(pid: u64) -> Result<&'static str> {
    let maps = read(pid, "smaps")?;
    let mut lines = maps.lines();
    let mut found = "not mapped";
    while lines.any(|line| line.contains("/memfd:guest-ram")) {
        let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
        let mut flags = flags.context("no VmFlags")?.split_whitespace();
        if !flags.any(|flag| flag == "dd") {
            return Ok("mapped, to be dumped");
        }
        found = "mapped, not to be dumped";
    }
    Ok(found)
}

/// The permissions of what only the relocation of the program writes, such as tables of functions.
fn relocations(pid: u64) -> Result<String> {
    // From <elf.h>: the sizes of the file's header and a program's, and what is where in them.
    const PT_GNU_RELRO: u64 = 0x6474_e552;
    const ET_EXEC: u64 = 2;
    let exe = format!("/proc/{pid}/exe");
    let program = fs::read(&exe)?;
    let number = |at: usize, bytes: usize| -> Result<u64> {
        let field = program.get(at..at + bytes).context("no program")?;
        Ok(field
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let (first, count) = (number(32, 8)?, number(56, 2)?);
    let headers = (0..count).map(|index| usize::try_from(first + index * 56));
    let mut relro = None;
    for header in headers {
        let header = header?;
        if number(header, 4)? == PT_GNU_RELRO {
            relro = Some(number(header + 16, 8)?);
        }
    }
    let inode = fs::metadata(&exe)?.ino().to_string();
    let maps = read(pid, "maps")?;
    // Debian's glibc for riscv64 has nothing to start a static program with that is not where it was
    // linked to.
    let is_fixed = number(16, 2)? == ET_EXEC;
    let mut program = maps.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (from, to) = words.first()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        (words.get(4)? == &inode).then_some((number(from)?, number(to)?, *words.get(1)?))
    });
    let (base, ..) = program.clone().next().context("no program in memory")?;
    let base = if is_fixed { 0 } else { base };
    let place = base + relro.context("nothing is to be read-only")?;
    let found = program.find(|(from, to, _)| (*from..*to).contains(&place));
    let (.., permissions) = found.context("no relocations in memory")?;
    Ok(permissions.to_owned())
}

fn root(pid: u64) -> Result<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root/"))?.count();
    let mounts = read(pid, "mountinfo")?;
    let options = |line: &str| line.split(' ').nth(5).unwrap_or("?").to_string();
    let mounts: Vec<_> = mounts.lines().map(options).collect();
    Ok(format!("{entries} entries, mounts {mounts:?}"))
}

fn limits(pid: u64) -> Result<String> {
    let limits = read(pid, "limits")?;
    let one = |name: &str| {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("");
        let both: Vec<_> = line.split_whitespace().take(2).collect();
        both.join("/")
    };
    let (core, files) = (one("Max core file size"), one("Max open files"));
    Ok(format!(
        "core {core}, descriptors {files}, file size {}",
        one("Max file size")
    ))
}

/// The last part of its group in each hierarchy that has one of ours; `vm` for the VM's own.
fn cgroups(pid: u64) -> Result<String> {
    let mut groups = BTreeSet::new();
    for line in read(pid, "cgroup")?.lines() {
        let (hierarchy, path) = line.split_once(":/").context("an odd cgroup")?;
        let names = hierarchy.split_once(':').map_or("", |(_, names)| names);
        if let Some((_, below)) = path.split_once("bulkhead/") {
            let leaf = below.split_once('/').map_or("vm", |(_, leaf)| leaf);
            groups.insert(format!(
                "{}={leaf}",
                if names.is_empty() { "v2" } else { names }
            ));
        }
    }
    match groups.is_empty() {
        true => Ok("none".to_owned()),
        false => Ok(groups.into_iter().collect::<Vec<_>>().join(" ")),
    }
}

/// What its descriptors that count lead to, and how many to each.
fn descriptors(pid: u64, counts: impl Fn(&Path) -> bool) -> Result<String> {
    let prefix = name_prefix(nix::unistd::getpid().as_raw());
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if !counts(Path::new(&entry.file_name())) {
            continue;
        }
        let target = target.display().to_string();
        let target = target.trim_end_matches(" (deleted)");
        let kind = match target.rsplit_once('/') {
            Some((_, "")) => "procfs".to_string(),
            // What bears the VM's name does without the part that is another one each time.
            Some((_, name)) => name.replace(&prefix, "").replace(':', "-"),
            // `socket:[1234]`, but `anon_inode:[eventfd]` or `anon_inode:kvm-vm`.
            None => match target.strip_prefix("anon_inode:") {
                Some(name) => name.replace(['[', ']'], ""),
                None => target.split(':').next().unwrap_or(target).to_string(),
            },
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let each = kinds.iter().map(|(kind, count)| format!("{kind}*{count}"));
    Ok(each.collect::<Vec<_>>().join(" "))
}
