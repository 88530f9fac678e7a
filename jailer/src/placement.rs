// SPDX-License-Identifier: Apache-2.0
//! Checks where the user wants the VM to run against what the host has, and what the control group of
//! the VM allows: processors, and the node that guest memory comes from.

use std::fs::read_to_string;

use spec::{ByteSize, CpuSet, HugePages, Memory, SpecError, Vm};

use crate::cgroups;
use crate::host::Host;

/// Refuses every set with a processor that the host lacks, or that the VM may not use.
pub(crate) fn check_affinity(vm: &Vm, host: &Host, errors: &mut Vec<SpecError>) {
    if vm.affinity.is_empty() {
        return;
    }
    let online = read_to_string(&host.cpus);
    let online = online.ok().and_then(|text| text.trim().parse().ok());
    let allowed = cgroups::cpus(vm).or_else(|| host::affinity::allowed().ok());
    let sets = vm.affinity.sets();
    errors.extend(sets.filter_map(|set| refusal(set, online, allowed)));
}

fn refusal(set: CpuSet, online: Option<CpuSet>, allowed: Option<CpuSet>) -> Option<SpecError> {
    let lacks = |there: &CpuSet| {
        let missing = set.without(there);
        (!missing.is_empty()).then_some(missing)
    };
    let reason = match (online, allowed) {
        (Some(online), _) if lacks(&online).is_some() => {
            let missing = lacks(&online)?;
            format!("this host has no processor {missing}: it has {online}")
        }
        (_, Some(allowed)) => {
            let missing = lacks(&allowed)?;
            format!(
                "the control group that the VM is started in does not allow {missing}: it allows \
                 {allowed} (cpuset)"
            )
        }
        (_, None) => return None,
    };
    Some(SpecError::new("affinity.cpus", set, reason))
}

/// Refuses a node that the host lacks, that our control group forbids, or that has too little memory.
pub(crate) fn check_node(memory: &Memory, host: &Host) -> Result<(), SpecError> {
    let Some(node) = memory.node() else {
        return Ok(());
    };
    let refused = |reason: String| Err(SpecError::new("host-numa-node", node, reason));
    let number = usize::try_from(node).unwrap_or(usize::MAX);
    let list = |file: &str| read_to_string(host.nodes.join(file)).ok();
    let Some(nodes) = list("has_memory").or_else(|| list("online")) else {
        return refused("this host has no nodes: leave it out".into());
    };
    // Nodes are written as processors are.
    let nodes = nodes.trim();
    if !nodes.parse::<CpuSet>().is_ok_and(|all| all.has(number)) {
        return refused(format!(
            "this host has no such node: those with memory are {nodes}"
        ));
    }
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|l| l.strip_prefix("Mems_allowed_list:"));
    let allowed = allowed.unwrap_or_default().trim();
    if allowed.parse::<CpuSet>().is_ok_and(|all| !all.has(number)) {
        return refused(format!(
            "the control group that the VM is started in allows {allowed} (cpuset)"
        ));
    }
    check_room(memory, host, node)
}

fn check_room(memory: &Memory, host: &Host, node: u32) -> Result<(), SpecError> {
    let size = ByteSize(memory.size_bytes());
    let dir = host.nodes.join(format!("node{node}"));
    let refused = |reason| Err(SpecError::new("mem", size, reason));
    let meminfo = read_to_string(dir.join("meminfo")).unwrap_or_default();
    if let Some(total) = total_bytes(&meminfo)
        && size.0 > total
    {
        return refused(format!("is more than node {node} has, {}M", total >> 20));
    }
    let pages = memory.huge_pages();
    if matches!(pages, HugePages::None | HugePages::Transparent) {
        return Ok(());
    }
    let needed = size.0 / pages.granule_bytes();
    let pool = dir.join(format!(
        "hugepages/hugepages-{}kB",
        pages.granule_bytes() >> 10
    ));
    let free = read_to_string(pool.join("free_hugepages")).unwrap_or_default();
    match free.trim().parse::<u64>() {
        Ok(free) if free < needed => refused(format!(
            "takes {needed} pages of {pages}, {free} are free on node {node}: write the number needed \
             to {}",
            pool.join("nr_hugepages").display()
        )),
        _ => Ok(()),
    }
}

/// `Node 0 MemTotal:  24683684 kB`.
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"))?;
    let (_, amount) = line.split_once("MemTotal:")?;
    let kib: u64 = amount.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        text.parse().unwrap()
    }

    #[test]
    fn processor_that_is_not_there_or_forbidden_is_refused_with_those_that_are() {
        let told = |cpus, online, allowed| {
            let error = refusal(set(cpus), Some(set(online)), Some(set(allowed)));
            error.map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(told("0-1", "0-3", "0-1"), "");
        let missing = told("2,7", "0-3", "0-1");
        assert!(missing.contains("no processor 7: it has 0-3"), "{missing}");
        let forbidden = told("1-2", "0-3", "0-1");
        assert!(
            forbidden.contains("not allow 2: it allows 0-1"),
            "{forbidden}"
        );
        assert_eq!(refusal(set("9"), None, None), None);
    }

    #[test]
    fn node_is_refused_with_the_list_and_memory_with_what_the_node_has() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            nodes: dir.path().into(),
            ..Host::of_this_binary()
        };
        let memory = |node| {
            let spec = spec::VmSpec {
                host_numa_node: Some(node),
                ..spec::VmSpec::new("/k")
            };
            Vm::try_from(spec).unwrap().memory
        };
        let told = |node| check_node(&memory(node), &host).unwrap_err().to_string();
        assert!(told(0).contains("has no nodes"));
        std::fs::write(dir.path().join("has_memory"), "0,2\n").unwrap();
        for node in [1, 3, u32::MAX] {
            assert!(
                told(node).ends_with("those with memory are 0,2"),
                "{}",
                told(node)
            );
        }
        std::fs::create_dir(dir.path().join("node0")).unwrap();
        let meminfo = dir.path().join("node0/meminfo");
        std::fs::write(
            &meminfo,
            "Node 0 MemTotal:  102400 kB\nNode 0 MemFree: 1 kB\n",
        )
        .unwrap();
        assert_eq!(told(0), "mem \"512M\": is more than node 0 has, 100M");
        std::fs::write(meminfo, "Node 0 MemTotal:  1024000 kB\n").unwrap();
        assert_eq!(check_node(&memory(0), &host), Ok(()));
    }
}
