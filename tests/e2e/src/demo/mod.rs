// SPDX-License-Identifier: Apache-2.0
//! A scripted session with a stock Debian guest, on a disk and a NIC of its own; every
//! step must hold.

mod map;
mod minute;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::context::{Context, Places};
use crate::procs;
use crate::runner::blame;
use crate::vm::Vm;

/// The exit status by which it says that emulation, if there is any, may have lost the guest.
const LOST: u8 = 75;
/// How long a VM that has ended may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
    if let Err(error) = steps(&context, &mut vm) {
        let why = format!("{error:#}");
        // If the VM has ended, it says why.
        vm.log().wait_for_end(LAST_WORDS);
        let Some(sign) = blame(&why, &vm.log().text()) else {
            return Err(error);
        };
        println!("{why}\nif the processor is emulated: {}", sign.how);
        return Ok(ExitCode::from(LOST));
    }
    stage::check_image(&image)?;
    println!("the file system on its disk is clean");
    let left = procs::wait_for_none(Duration::from_secs(3));
    ensure!(left.is_empty(), "processes were left behind: {left:?}");
    before.compare(&stage::Traces::now(&context)?)?;
    println!("nothing was left behind: no process, mount, cgroup, tap, socket or state");
    vm.hush();
    Ok(ExitCode::SUCCESS)
}

/// What the guest is there for, from its login to its power-off.
fn steps(context: &Context, vm: &mut Vm) -> Result<()> {
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
        show(vm, command)?;
    }
    stage::set_up_network(vm)?;
    show(vm, "ip -brief address show scope global")?;

    println!("the processes of the VM, as the host sees them:\n");
    map::print(context, vm)?;

    minute::run(context, vm)?;

    println!("guest# poweroff");
    vm.type_line("poweroff")?;
    vm.expect_exit(0)?;
    println!("the guest powered off; bulkhead exited with status 0");
    Ok(())
}

/// The same VM, its console on this terminal.
///
/// # Errors
/// When it cannot be started.
pub fn shell(places: Places) -> Result<ExitCode> {
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
