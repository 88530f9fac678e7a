// SPDX-License-Identifier: Apache-2.0
//! A scripted session with a stock Debian guest, on a disk and a network card of its own; every
//! step must hold.

mod map;
mod minute;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Places};
use crate::procs;
use crate::vm::Vm;

/// Boots, shows the processes, moves data while backends die, powers off, and looks for anything
/// left behind.
///
/// # Errors
/// When a step does not hold.
pub fn run(places: Places) -> Result<ExitCode> {
    procs::adopt_orphans().context("cannot become the parent of orphans")?;
    let context = Context::new(places)?;
    let before = stage::Traces::now(&context)?;
    let (builder, image) = stage::prepare(&context)?;
    let mut vm = builder.start()?;
    vm.log_in()?;
    println!(
        "a login, {:.1} s after the start\n",
        vm.started().elapsed().as_secs_f32()
    );
    for command in [
        "uname -srv",
        "lsblk -no NAME,SIZE,TYPE,MOUNTPOINTS",
        "nproc",
    ] {
        show(&mut vm, command)?;
    }
    stage::set_up_network(&mut vm)?;
    show(&mut vm, "ip -brief address show scope global")?;

    println!("the processes of the VM, as the host sees them:\n");
    map::print(&context, &vm)?;

    minute::run(&context, &mut vm)?;

    println!("guest# poweroff");
    vm.type_line("poweroff")?;
    vm.expect_exit(0)?;
    println!("the guest powered off; bulkhead exited with status 0");
    stage::check_image(&image)?;
    println!("the file system on its disk is clean");
    let left = procs::wait_for_none(Duration::from_secs(3));
    ensure!(left.is_empty(), "processes were left behind: {left:?}");
    before.compare(&stage::Traces::now(&context)?)?;
    println!("nothing was left behind: no process, mount, cgroup, tap, socket or state");
    vm.hush();
    Ok(ExitCode::SUCCESS)
}

/// The same VM, its console on this terminal.
///
/// # Errors
/// When it cannot be started.
pub fn session(places: Places) -> Result<ExitCode> {
    let context = Context::new(places)?;
    let (builder, _image) = stage::prepare(&context)?;
    println!("log in as root, password bulkhead; poweroff ends the guest, Ctrl-a x leaves");
    let status = builder.command()?.status().context("bulkhead")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Runs a command in the guest and shows what it says.
fn show(vm: &mut Vm, command: &str) -> Result<()> {
    let said = vm.sh(command)?;
    println!("guest# {command}\n{said}\n");
    Ok(())
}
