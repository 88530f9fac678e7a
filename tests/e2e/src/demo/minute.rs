// SPDX-License-Identifier: Apache-2.0
//! The minute in which backends die: the guest writes and verifies a file and downloads another over
//! TCP, and sees pauses.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use loadgen::stream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stage::HOST;
use crate::context::Context;
use crate::inspect::{events_of, processes, quietly, vmm_pauses_us};
use crate::machine::Machine;
use crate::traffic::TOOL;
use crate::vm::Vm;

/// For how long the guest is at work.
const WORK: Duration = Duration::from_secs(45);
/// How often both backends are killed, and the time from one to the next.
const KILLS: u32 = 10;
const PERIOD: Duration = Duration::from_millis(2500);
/// So many deaths within a minute are enough for the supervisor, unless somebody says otherwise.
const FORGIVEN_AFTER: u32 = 4;
/// What dies, and its program.
const DEVICES: [(&str, &str); 2] = [("root", "blk-backend"), ("nic", "net-backend")];
const SEED: u64 = 42;

/// Kills, replaces, upgrades; the guest must not notice more than pauses.
pub(super) fn run(context: &Context, vm: &mut Vm) -> Result<()> {
    let listener = TcpListener::bind((HOST, 0)).context("a server for the guest")?;
    let port = listener.local_addr()?.port();
    let server = thread::spawn(move || stream::serve(&listener, WORK, SEED));
    let seconds = WORK.as_secs();
    println!("the guest writes and verifies a file, and downloads another, for {seconds} s:\n");
    vm.sh(&format!(
        "({TOOL} file /root/probe --seconds {seconds} > /run/file 2>&1 &); \
         ({TOOL} stream {HOST}:{port} --seed {SEED} > /run/stream 2>&1 &)"
    ))?;
    for round in 1..=KILLS {
        thread::sleep(PERIOD);
        kill_backends(context, vm)?;
        if round % FORGIVEN_AFTER == 0 {
            thread::sleep(PERIOD);
            for (device, _) in DEVICES {
                say(context, &["restart", vm.name(), device, "--wait"])?;
            }
        }
    }
    thread::sleep(PERIOD);
    for (device, program) in DEVICES {
        let binary = context.program(program).display().to_string();
        say(
            context,
            &["upgrade", vm.name(), device, "--binary", &binary],
        )?;
    }
    if context.machine() == Machine::X86 {
        say(context, &["restart", vm.name(), "vmm", "--wait"])?;
        let pauses_us = vmm_pauses_us(&events_of(context, vm.name())?);
        let paused_ms = pauses_us.last().context("no pause")? / 1000;
        println!("# the guest stood still for {paused_ms} ms, and goes on in another vmm");
    }
    let served = server.join().map_err(|_| anyhow!("the server panicked"))?;
    let (sent, sum) = served.map_err(|error| match error.kind() {
        // A socket's deadline.
        ErrorKind::WouldBlock => anyhow!("the time ran out waiting for the guest to read"),
        _ => anyhow::Error::new(error).context("serving the stream"),
    })?;
    vm.sh("while pidof loadgen > /dev/null; do sleep 1; done")?;
    let file = vm.sh("cat /run/file")?;
    let received = vm.sh("cat /run/stream")?;
    judge(&file, &received, sent, sum)
}

/// Runs `bulkhead` and says that.
fn say(context: &Context, args: &[&str]) -> Result<()> {
    println!("$ bulkhead {}", args.join(" "));
    quietly(context, args).map(drop)
}

fn kill_backends(context: &Context, vm: &Vm) -> Result<()> {
    let listed = processes(context, vm.name())?;
    let backends: Vec<_> = listed
        .iter()
        .filter(|process| {
            DEVICES
                .iter()
                .any(|(id, _)| process.role.ends_with(&format!(" {id}")))
        })
        .collect();
    ensure!(backends.len() == DEVICES.len(), "backends: {backends:?}");
    for backend in backends {
        kill(Pid::from_raw(backend.pid), Signal::SIGKILL)?;
        println!("$ kill -9 {}    # {}", backend.pid, backend.role);
    }
    Ok(())
}

fn judge(file: &str, received: &str, sent: u64, sum: u64) -> Result<()> {
    println!("\nwhat the guest saw:\n  {file}\n  {received}");
    let holds = |text: &str, what: &str| text.split_whitespace().any(|word| word == what);
    ensure!(
        holds(file, "errors=0") && holds(file, "mismatches=0"),
        "the file: {file}"
    );
    let (bytes, sum) = (format!("bytes={sent}"), format!("sum={sum:016x}"));
    println!("sent:\n  {bytes} {sum}");
    let whole = holds(received, &bytes) && holds(received, &sum) && holds(received, "wrong=0");
    ensure!(whole, "the stream: {received}");
    println!("no error, no wrong byte, checksums equal\n");
    Ok(())
}
