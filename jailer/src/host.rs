// SPDX-License-Identifier: Apache-2.0
//! Where the jailer finds things on the host: binaries, KVM, memory, huge pages, processors and nodes.

use std::path::{Path, PathBuf};

use spec::HugePages;

/// Where things are on this host.
#[derive(Debug, Clone)]
pub struct Host {
    /// /dev/kvm.
    pub kvm: PathBuf,
    /// The vmm's binary.
    pub vmm: PathBuf,
    /// The disk backend's binary.
    pub blk: PathBuf,
    /// The network backend's binary.
    pub net: PathBuf,
    /// The power button's binary.
    pub input: PathBuf,
    /// passt, if it is installed.
    pub passt: Option<PathBuf>,
    /// /proc/meminfo.
    pub meminfo: PathBuf,
    /// /sys/kernel/mm/hugepages.
    pub hugepages: PathBuf,
    /// /sys/devices/system/cpu/online.
    pub cpus: PathBuf,
    /// /sys/devices/system/node.
    pub nodes: PathBuf,
}

/// A program in one of the directories of PATH.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|file| file.is_absolute() && file.is_file())
}

impl Host {
    /// The real host; the other binaries are beside this one.
    pub fn of_this_binary() -> Self {
        let here = std::env::current_exe().unwrap_or_default();
        Self {
            kvm: "/dev/kvm".into(),
            vmm: here.with_file_name("vmm"),
            blk: here.with_file_name("blk-backend"),
            net: here.with_file_name("net-backend"),
            input: here.with_file_name("input-backend"),
            passt: installed("passt"),
            meminfo: "/proc/meminfo".into(),
            hugepages: "/sys/kernel/mm/hugepages".into(),
            cpus: "/sys/devices/system/cpu/online".into(),
            nodes: "/sys/devices/system/node".into(),
        }
    }

    /// The host's memory in bytes, if the host says so.
    pub(crate) fn mem_total_bytes(&self) -> Option<u64> {
        mem_total_bytes(&std::fs::read_to_string(&self.meminfo).ok()?)
    }

    /// The hugetlb pool for pages of this size; `None` if the host has no such pages.
    pub(crate) fn huge_page_pool(&self, pages: HugePages) -> Option<Pool> {
        let dir = self.pool_dir(pages);
        let read = |file: &str| count(&dir.join(file));
        Some(Pool {
            total: read("nr_hugepages")?,
            free: read("free_hugepages")?,
            reserved: read("resv_hugepages").unwrap_or(0),
            overcommit: read("nr_overcommit_hugepages").unwrap_or(0),
            surplus: read("surplus_hugepages").unwrap_or(0),
        })
    }

    /// Where the pool for pages of this size is configured.
    pub(crate) fn pool_dir(&self, pages: HugePages) -> PathBuf {
        let kib = pages.granule_bytes() >> 10;
        self.hugepages.join(format!("hugepages-{kib}kB"))
    }
}

/// A hugetlb pool; sizes are in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Pages that exist.
    pub(crate) total: u64,
    /// Pages that are not in use.
    pub(crate) free: u64,
    /// Free pages that are reserved for mappings.
    pub(crate) reserved: u64,
    /// Pages that the kernel may add on demand.
    pub(crate) overcommit: u64,
    /// Pages that the kernel has added on demand.
    pub(crate) surplus: u64,
}

impl Pool {
    /// How many pages are available now.
    pub(crate) fn available(&self) -> u64 {
        let on_demand = self.overcommit.saturating_sub(self.surplus);
        self.free.saturating_sub(self.reserved) + on_demand
    }
}

fn count(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mem_total_is_read_in_bytes() {
        let text = "MemFree:  1 kB\nMemTotal:       24683684 kB\nX: 1\n";
        assert_eq!(mem_total_bytes(text), Some(24_683_684 << 10));
    }

    #[test]
    fn mem_total_missing_or_odd_is_not_guessed() {
        for text in ["", "MemTotal: 12 pages\n", "MemTotal:\n"] {
            assert_eq!(mem_total_bytes(text), None);
        }
    }

    #[test]
    fn pool_counts_what_is_free_unpromised_or_on_demand() {
        let pool = Pool {
            total: 12,
            free: 10,
            reserved: 4,
            overcommit: 8,
            surplus: 2,
        };
        assert_eq!(pool.available(), 12);
    }
}
