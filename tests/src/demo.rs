// SPDX-License-Identifier: Apache-2.0
//! A scripted session in a stock guest's shell; every step must hold.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Places};
use crate::procs;
use crate::vm::{PATIENCE, Stock, Vm};

const PROMPT: &str = "guest# ";

/// Boots, looks around, powers off, and looks for anything left behind.
///
/// # Errors
/// When a step does not hold.
pub fn run(places: Places) -> Result<ExitCode> {
    procs::adopt_orphans().context("cannot become the parent of orphans")?;
    let context = Context::new(places)?;
    let mut vm = context
        .vm("demo")
        .boots(Stock::DEFAULT, "shell")
        .cpus(2)
        .mem_mib(512)
        .start()?;
    println!("bulkhead run --name {} …", vm.name());
    vm.wait_for(PROMPT, PATIENCE)?;
    println!(
        "the guest's shell answered after {:.1} s",
        vm.started().elapsed().as_secs_f32()
    );
    let uname = ask(&mut vm, "uname -a")?;
    ensure!(uname.starts_with("Linux "), "uname -a said {uname:?}");
    let cpus = ask(&mut vm, "nproc")?;
    ensure!(cpus == "2", "nproc said {cpus:?}");
    let memory = ask(&mut vm, "grep MemTotal /proc/meminfo")?;
    ensure!(memory.contains(" kB"), "meminfo said {memory:?}");
    println!("guest# poweroff -f");
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    println!("the guest powered off; bulkhead exited with status 0");
    let state = context.state_dir("demo");
    ensure!(!state.exists(), "{} was left behind", state.display());
    let left = procs::wait_for_none(Duration::from_secs(3));
    ensure!(left.is_empty(), "processes were left behind: {left:?}");
    println!("nothing was left behind");
    vm.hush();
    Ok(ExitCode::SUCCESS)
}

/// Types a command and returns the line it prints.
fn ask(vm: &mut Vm, command: &str) -> Result<String> {
    vm.type_line(command)?;
    // The terminal's echo comes first.
    vm.wait_for(&format!("{command}\r\n"), PATIENCE)?;
    let answer = vm.line()?;
    vm.wait_for(PROMPT, PATIENCE)?;
    println!("guest# {command}\n{answer}");
    Ok(answer)
}
