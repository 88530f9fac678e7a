// SPDX-License-Identifier: Apache-2.0
//! One run of Spike: started, its console read, and ended by us, since it does not end when its machine
//! powers off.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Host;
use super::program::Spike;
use crate::command::{command, program};
use crate::signals;

/// The processor: what Debian's kernel takes, and H.
const ISA: &str = "rv64imafdch_zicntr_zihpm_zicbom_zicboz_sstc_svinval_zba_zbb_zbs";
const MEMORY_MIB: u32 = 1536;
const CMDLINE: &str = "console=ttyS0 earlycon=sbi quiet panic=-1";
/// What the host's init says last.
const END: &str = "HOST end";
/// What the kernel says when it does not come to that.
const PANIC: &str = "Kernel panic - not syncing";

/// Boots the kernel, shows what its console says, and returns that when the host's init has come to its end.
pub(super) fn run(
    spike: &Spike,
    host: &Host,
    kernel: &Path,
    initramfs: &Path,
    limit: Duration,
) -> Result<String> {
    let mut machine = command(program("setpriv"), ["--pdeathsig", "KILL", "--"]);
    machine
        .arg(&spike.program)
        .args([format!("-p{}", host.harts), format!("-m{MEMORY_MIB}")])
        .arg(format!("--isa={ISA}{}", host.extension))
        .arg(format!("--kernel={}", kernel.display()))
        .arg(format!("--initrd={}", initramfs.display()))
        .arg(format!("--bootargs={CMDLINE}"))
        .arg(&spike.firmware)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut machine = Running(machine.spawn().context("cannot start Spike")?);
    let console = machine.0.stdout.take().context("Spike has no output")?;
    let said = listen(&lines(console), limit);
    drop(machine);
    signals::wait_if_stopping();
    said
}

fn lines(console: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            println!("    {line}");
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn listen(lines: &Receiver<String>, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let mut said = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match lines.recv_timeout(left) {
            Ok(line) => {
                said += &format!("{line}\n");
                if line == END {
                    return Ok(said);
                }
                ensure!(
                    !line.contains(PANIC),
                    "the host in Spike has crashed: {line}"
                );
            }
            Err(RecvTimeoutError::Timeout) => bail!("Spike was stopped at its time limit"),
            Err(RecvTimeoutError::Disconnected) => bail!("Spike ended early"),
        }
    }
}

/// Ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
