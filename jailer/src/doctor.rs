// SPDX-License-Identifier: Apache-2.0
//! Says item by item what this host has for VMs and their jails: `bulkhead doctor`, `jailer
//! --doctor`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::os::fd::AsFd;

use handover::outcome::Outcome;
use host::lacking;
use ipc::broker::Status;
use spec::HugePages;

use crate::host::Host;
use crate::resources::kvm_remedy;
use crate::run;
use crate::self_test::{self, SelfTest};

mod probe;

/// One item.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    /// What there is, or why it is missing and what to do about it.
    has: Result<String, String>,
    /// Whether a VM cannot run without it.
    needed: bool,
}

/// Checks every item, and builds jails by `self_test`; the lines are for standard output.
pub fn examine(host: &Host, self_test: SelfTest) -> (Vec<String>, Outcome) {
    let mut findings = vec![needed("KVM", kvm(host))];
    findings.extend(probe::namespaces().map(|(what, has)| needed(what, has)));
    findings.extend([
        needed("jails", self_test::jails(self_test)),
        needed("seccomp", probe::seccomp()),
        optional("users of a VM's own", self_test::user_range()),
        optional("Landlock", lacking::landlock(lacking::landlock_version())),
        optional("MDWE", probe::mdwe()),
        optional("core scheduling", probe::core_scheduling()),
        optional("io_uring", io_uring()),
    ]);
    findings.push(optional("cgroup versions", run::cgroup_versions()));
    findings.extend(cgroups());
    for (what, pages) in [
        ("huge pages of 2M", HugePages::Size2M),
        ("huge pages of 1G", HugePages::Size1G),
    ] {
        findings.push(optional(what, pool(host, pages)));
    }
    findings.push(optional("passt", passt(host)));
    let lines = findings.iter().map(Finding::line).collect();
    let fatal = findings.iter().filter(|f| f.needed && f.has.is_err());
    let fatal: Vec<_> = fatal.map(|f| f.what).collect();
    let outcome = match fatal.is_empty() {
        true => Outcome::ok(),
        false => {
            let line = format!("no VM can run here without {}", fatal.join(" and "));
            Outcome::new(Status::Error, [line])
        }
    };
    (lines, outcome)
}

fn needed(what: &'static str, has: Result<String, String>) -> Finding {
    let needed = true;
    Finding { what, has, needed }
}

fn optional(what: &'static str, has: Result<String, String>) -> Finding {
    let needed = false;
    Finding { what, has, needed }
}

impl Finding {
    fn line(&self) -> String {
        let (verdict, detail) = match &self.has {
            Ok(detail) => ("has", detail),
            Err(reason) => ("has not", reason),
        };
        format!("{verdict:<8} {:<20} {detail}", self.what)
    }
}

fn because(error: impl Display, remedy: &str) -> String {
    format!("{error}: {remedy}")
}

fn kvm(host: &Host) -> Result<String, String> {
    let opened = OpenOptions::new().read(true).write(true).open(&host.kvm);
    let path = host.kvm.display();
    match opened {
        Ok(_) => Ok(path.to_string()),
        Err(e) => Err(format!("{path} {}", kvm_remedy(&e))),
    }
}

fn io_uring() -> Result<String, String> {
    let file = templess().map_err(|e| e.to_string())?;
    match host::ring::create(16, file.as_fd()) {
        Ok(_) => Ok("engine=uring is possible".into()),
        Err(e) => Err(because(
            host::log::chain(&e),
            "sysctl kernel.io_uring_disabled=0, or engine=threads for every disk",
        )),
    }
}

fn templess() -> Result<std::os::fd::OwnedFd, ipc::memfd::MemfdError> {
    ipc::memfd::shared("doctor", 4096, ipc::memfd::Backing::Shmem)
}

fn cgroups() -> Vec<Finding> {
    let (found, missing) = run::cgroup_hierarchies();
    let mut findings: Vec<_> = found
        .into_iter()
        .map(|line| optional("cgroups", Ok(line)))
        .collect();
    findings.extend(missing.into_iter().map(|line| {
        let reason = because(line, "mount it, or start VMs as a user who may write there");
        optional("cgroups", Err(reason))
    }));
    findings
}

fn pool(host: &Host, pages: HugePages) -> Result<String, String> {
    let file = host.pool_dir(pages).join("nr_hugepages");
    match host.huge_page_pool(pages) {
        Some(pool) if pool.available() > 0 => Ok(format!("{} can be had", pool.available())),
        Some(_) => Err(format!(
            "none are free: write a number to {}",
            file.display()
        )),
        None => Err("this processor or kernel has none of that size".into()),
    }
}

fn passt(host: &Host) -> Result<String, String> {
    match &host.passt {
        Some(file) => Ok(file.display().to_string()),
        None => Err("it is not in PATH: install passt for networks without privileges".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passt_is_the_one_that_vms_are_started_with() {
        let mut host = Host::of_this_binary();
        for (there, verdict) in [(Some("/opt/passt"), "has "), (None, "has not ")] {
            host.passt = there.map(Into::into);
            let (lines, _) = examine(&host, |_, _, _| Ok(()));
            let passt = lines.iter().find(|line| line.contains("passt")).unwrap();
            assert!(passt.starts_with(verdict), "{passt}");
            assert!(passt.contains(there.unwrap_or("not in PATH")), "{passt}");
        }
    }

    #[test]
    fn host_without_kvm_can_run_nothing_and_is_told_what_to_do() {
        let mut host = Host::of_this_binary();
        host.kvm = "/nonexistent".into();
        let (lines, outcome) = examine(&host, |_, _, _| Ok(()));
        assert_eq!(outcome.status, Status::Error);
        let kvm = lines.iter().find(|line| line.contains("KVM")).unwrap();
        assert!(
            kvm.starts_with("has not")
                && kvm.contains(crate::arch::kvm_missing(std::env::consts::ARCH)),
            "{kvm}"
        );
    }
}
