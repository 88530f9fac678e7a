// SPDX-License-Identifier: Apache-2.0
//! Huge pages that are not there: a VM for which the host's pool is too small is refused, and one whose
//! pages are withheld while it runs ends and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Case;
use super::bad_input::{ERROR, complains};
use crate::context::{Context, Skip, need_root};
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::PATIENCE;

/// The host's pages of 2 MiB.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// How many the guest's memory takes.
const PAGES: u32 = 32;
/// How many of them its group may have.
const ALLOWED: u32 = 8;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("hugepages_that_run_out_end_the_vm_which_says_so", withheld)
            .only_on_x86("its guest, which fills its memory, is written for x86_64"),
    ]
}

/// The host's pool, as large as a case needs it, and then as it was.
struct Pool {
    before: u32,
}

impl Pool {
    fn of_free_pages(pages: u32) -> Result<Self> {
        let before = read("nr_hugepages")?;
        let pool = Self { before };
        let used = before - read("free_hugepages")?;
        fs::write(
            Path::new(POOL).join("nr_hugepages"),
            (used + pages).to_string(),
        )?;
        let free = read("free_hugepages")?;
        match free < pages {
            true => Err(Skip(format!("this host has {free} free huge pages, not {pages}")).into()),
            false => Ok(pool),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(
            Path::new(POOL).join("nr_hugepages"),
            self.before.to_string(),
        );
    }
}

fn read(file: &str) -> Result<u32> {
    let path = Path::new(POOL).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

/// A control group that may have few huge pages. Where the controller is one of version 1, no manager has it,
/// and it is mounted here.
struct Group {
    dir: PathBuf,
    mounted: Option<PathBuf>,
}

impl Group {
    fn new(context: &Context, pages: u32) -> Result<Self> {
        let unified = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(unified.join("cgroup.controllers"));
        let has_it = controllers.is_ok_and(|all| all.split_whitespace().any(|c| c == "hugetlb"));
        let (top, mounted, limit) = match has_it {
            true => {
                fs::write(unified.join("cgroup.subtree_control"), "+hugetlb")?;
                (unified.to_owned(), None, "hugetlb.2MB.max")
            }
            false => {
                let top = context.dir().join("hugetlb");
                fs::create_dir(&top)?;
                let mut mount = Command::new("mount");
                mount.args(["-t", "cgroup", "-o", "hugetlb", "none"]);
                if !mount.arg(&top).output()?.status.success() {
                    return Err(Skip("this host's kernel limits no huge pages".to_owned()).into());
                }
                (top.clone(), Some(top), "hugetlb.2MB.limit_in_bytes")
            }
        };
        let dir = top.join(context.name_of("pages"));
        let group = Self { dir, mounted };
        fs::create_dir(&group.dir)?;
        let bytes = u64::from(pages) << 21;
        fs::write(group.dir.join(limit), bytes.to_string()).context(limit)?;
        Ok(group)
    }

    /// Moves this process into it, and what it starts from now on.
    fn enter(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("cgroup.procs"), "0")?)
    }

    fn leave(&self) -> Result<()> {
        let parent = self.dir.parent().context("a group has a parent")?;
        Ok(fs::write(parent.join("cgroup.procs"), "0")?)
    }
}

/// A case that fails leaves no group either.
impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.leave();
        let _ = fs::remove_dir(&self.dir);
        if let Some(top) = &self.mounted {
            let _ = Command::new("umount").arg(top).status();
        }
    }
}

fn withheld(context: &Context) -> Result<()> {
    need_root()?;
    let kernel = NoOsKernel::new().say("up\n").echo_until_q();
    let kernel = kernel.fill((48 << 20) / 4096).say("full\n").spin();
    let builder = |name| {
        let builder = context
            .vm(name)
            .boots_no_os(&kernel)
            .mem_mib(u64::from(2 * PAGES));
        builder.arg("--hugepages", "2M")
    };
    let small = Pool::of_free_pages(PAGES - 1)?;
    complains(
        &mut builder("refused").command()?,
        ERROR,
        &["hugepages", "takes 32 pages", "31 are free", "nr_hugepages"],
    )?;
    drop(small);
    let pool = Pool::of_free_pages(PAGES)?;
    let group = Group::new(context, ALLOWED)?;
    group.enter()?;
    let started = builder("withheld").start();
    group.leave()?;
    let mut vm = started?;
    vm.wait_for("up\n", PATIENCE)?;
    vm.type_text("q")?;
    let status = vm.wait_exit(PATIENCE)?;
    let output = context.run(&["inspect", vm.name(), "--json"])?;
    let ended: Value = serde_json::from_slice(&output.stdout).context("how it ended")?;
    println!("it ended with status {status}: {ended}");
    let detail = ended["detail"].as_str().context("no detail")?;
    ensure!(status == 1 && ended["reason"] == "host-error", "{ended}");
    ensure!(detail.contains("no huge page left"), "{detail}");
    ensure!(!vm.console().text().contains("full"), "all of it was there");
    let living = procs::wait_for_none(PATIENCE);
    ensure!(living.is_empty(), "processes are left: {living:?}");
    ensure!(read("free_hugepages")? >= PAGES, "pages are left");
    drop((group, pool));
    Ok(())
}
