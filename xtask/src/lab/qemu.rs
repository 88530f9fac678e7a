// SPDX-License-Identifier: Apache-2.0
//! One inner host: started, watched, and gone when its job is.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::channels::{LastHeard, Report};
use super::images::{Images, Third};
use super::{Finished, Job, channels, payload};
use crate::scratch::Scratch;
use crate::{progress, signals, terminal};

const CPUS: &str = "2";
/// How long the inner host may take to come up; it takes a few seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How often one that does not come up is tried.
const BOOTS: u32 = 3;
/// What QEMU says of each processor feature that it leaves out, and of modules for displays that belong
/// to another QEMU, this machine's; none matters here.
const NOISE: [&str; 3] = [
    "TCG doesn't support requested feature",
    "failed to initialize module",
    "Only modules from the same build can be loaded",
];
/// How QEMU is told of a disk that is not to be written.
const READ_ONLY: &str = "readonly=on";
/// Lines of the inner host's console to show when it fails.
const TAIL: usize = 40;

/// Runs `job` with its output streamed to ours.
pub(crate) fn run(images: &Images, job: &Job, show: fn(&str) -> bool) -> Result<Finished> {
    let mut boots = 1;
    loop {
        let dir = Scratch::new("lab")?;
        payload::write(job, "", &dir.path().join("payload.cpio"))?;
        let heard = LastHeard::now();
        let out = channels::listen(dir.path(), "out")?;
        let stdout = channels::stdout(out, show, heard.clone());
        let stderr = channels::stderr(channels::listen(dir.path(), "err")?);
        let reports = channels::reports(channels::listen(dir.path(), "exit")?);
        let _terminal = channels::listen(dir.path(), "tty")?;
        let mut machine = Machine::start(images, job, dir.path(), "")?;
        let status = machine.wait(&reports, None, job, &heard);
        machine.stop();
        signals::wait_if_stopping();
        let status = status.map_err(|error| error.context(console_tail(dir.path())));
        if let Err(error) = &status
            && !machine.began
            && boots < BOOTS
        {
            progress::say(format!("{error:#}"));
            progress::say("the inner host did not come up; once more");
            boots += 1;
            continue;
        }
        // Both end with QEMU, which held the other ends.
        let _ = stderr.join();
        let stdout = stdout.join().unwrap_or_default();
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        return Ok(Finished { status, stdout });
    }
}

/// Runs `job` on this terminal.
pub(crate) fn run_on_terminal(images: &Images, job: &Job) -> Result<u8> {
    let dir = Scratch::new("lab")?;
    payload::write(job, &terminal::preamble(), &dir.path().join("payload.cpio"))?;
    let _out = channels::listen(dir.path(), "out")?;
    let _err = channels::listen(dir.path(), "err")?;
    let reports = channels::reports(channels::listen(dir.path(), "exit")?);
    let left = channels::terminal(channels::listen(dir.path(), "tty")?);
    let mut machine = Machine::start(images, job, dir.path(), " lab.shell")?;
    let raw = terminal::Raw::enter()?;
    let status = machine.wait(&reports, Some(&left), job, &LastHeard::now());
    machine.stop();
    drop(raw);
    eprintln!();
    status.with_context(|| console_tail(dir.path()))
}

struct Machine {
    qemu: Child,
    /// Whether the command has begun.
    began: bool,
}

impl Machine {
    fn start(images: &Images, job: &Job, dir: &Path, extra: &str) -> Result<Self> {
        let mut qemu = images.emulator.command();
        qemu.args(arguments(images, job, dir, extra));
        let log = fs::File::create(dir.join("qemu.log"))?;
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let qemu = qemu.spawn().context("cannot start QEMU")?;
        Ok(Self { qemu, began: false })
    }

    /// Waits for the job's exit status, the user leaving, QEMU's end or a limit.
    fn wait(
        &mut self,
        reports: &Receiver<Report>,
        left: Option<&Receiver<()>>,
        job: &Job,
        heard: &LastHeard,
    ) -> Result<u8> {
        let mut deadline = Instant::now() + BOOT_LIMIT;
        loop {
            match reports.recv_timeout(Duration::from_millis(50)) {
                Ok(Report::Ended(status)) => return Ok(status),
                Ok(Report::Began) => {
                    self.began = true;
                    deadline = Instant::now() + job.limit;
                    heard.touch();
                }
                Err(RecvTimeoutError::Timeout) => self.check_qemu()?,
                Err(RecvTimeoutError::Disconnected) => bail!("the inner host ended early"),
            }
            if left.is_some_and(|left| left.try_recv() != Err(TryRecvError::Empty)) {
                return Ok(0);
            }
            if Instant::now() >= deadline {
                bail!("the inner host was stopped at its time limit");
            }
            if let Some(silence) = job.silence
                && self.began
                && heard.silence() > silence
            {
                bail!(
                    "the inner host has said nothing for {} s",
                    silence.as_secs()
                );
            }
        }
    }

    /// A QEMU that refuses its arguments never connects, so no channel closes.
    fn check_qemu(&mut self) -> Result<()> {
        match self.qemu.try_wait()? {
            Some(status) if !status.success() => bail!("QEMU ended early: {status}"),
            _ => Ok(()),
        }
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn arguments(images: &Images, job: &Job, dir: &Path, extra: &str) -> Vec<String> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let host = job.host;
    let mut words: Vec<String> = Vec::new();
    let mut push = |pair: [&str; 2]| words.extend(pair.map(str::to_owned));
    push(["-name", &format!("bulkhead-{name}")]);
    push(["-accel", "tcg,thread=multi,tb-size=512"]);
    push(["-M", host.machine]);
    push(["-cpu", host.cpu]);
    push(["-smp", CPUS]);
    push(["-m", host.memory]);
    for pair in [
        ["-display", "none"],
        ["-nic", "none"],
        ["-monitor", "none"],
        ["-vga", "none"],
    ] {
        push(pair);
    }
    push(["-kernel", &images.kernel.display().to_string()]);
    push(["-initrd", &images.initramfs.display().to_string()]);
    let work = match images.third {
        Third::Guests(_) => "",
        Third::Work(_) => " lab.work",
    };
    push(["-append", &format!("{}{work}{extra}", cmdline(job))]);
    push([
        "-serial",
        &format!("file:{}", dir.join("console.log").display()),
    ]);
    for drive in drives(images, dir) {
        push(["-drive", &drive]);
    }
    push(["-device", "virtio-serial-pci,id=ports"]);
    for (number, name) in ["tty", "out", "err", "exit"].iter().enumerate() {
        let kind = if number == 0 {
            "virtconsole"
        } else {
            "virtserialport"
        };
        let path = dir.join(name);
        push([
            "-chardev",
            &format!("socket,id={name},path={}", path.display()),
        ]);
        push([
            "-device",
            &format!("{kind},bus=ports.0,nr={number},chardev={name},name={name}"),
        ]);
    }
    words.extend(["-no-reboot", "-no-user-config"].map(str::to_owned));
    words
}

/// Its three disks.
fn drives(images: &Images, dir: &Path) -> [String; 3] {
    let payload = dir.join("payload.cpio");
    let (third, options) = match &images.third {
        Third::Guests(path) => (path, READ_ONLY),
        // Its file stays as small as what is in use.
        Third::Work(path) => (path, "discard=unmap,cache=unsafe"),
    };
    let disks = [
        (&images.root, READ_ONLY),
        (&payload, READ_ONLY),
        (third, options),
    ];
    disks.map(|(image, options)| {
        let path = image.display();
        format!("file={path},format=raw,if=virtio,{options}")
    })
}

/// What the inner host's kernel and its init are told.
fn cmdline(job: &Job) -> String {
    let (host, console) = (job.host, job.host.console);
    let mut words = format!("console={console} quiet panic=-1 mitigations=off");
    for module in host.modules {
        words.push_str(&format!(" lab.module={module}"));
    }
    // What holds is among our programs.
    if host.is_held && !job.binaries.is_empty() {
        words.push_str(" lab.hold");
    }
    words
}

/// The end of what the inner host's kernel and QEMU said.
fn console_tail(dir: &Path) -> String {
    let mut text = String::new();
    for name in ["console.log", "qemu.log"] {
        let log = fs::read(dir.join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| !NOISE.iter().any(|noise| line.contains(noise)))
            .collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            text.push_str("\n    ");
            text.push_str(line.trim_end());
        }
    }
    if text.is_empty() {
        return "the lab failed; its console said nothing".to_owned();
    }
    format!("the lab failed; the end of its console:{text}\n ")
}
