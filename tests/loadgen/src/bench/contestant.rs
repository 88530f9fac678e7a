// SPDX-License-Identifier: Apache-2.0
//! Who is measured, and how each is started.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use loadgen::load::{self, Load};

use super::{BenchOptions, Case, duration, machine};
use crate::report::{Report, cpu_seconds};
use crate::target::Target;

/// One way to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// Our backend with io_uring, polling as it does by default.
    Uring,
    /// The same without polling.
    UringSleepy,
    /// Our backend with threads.
    Threads,
    /// QEMU's storage daemon with io_uring.
    Qsd,
    /// fio with io_uring, without a backend.
    FioUring,
    /// fio with one blocking call after the other, without a backend.
    FioPsync,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) iops: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) rss_kib: u64,
}

impl Contestant {
    /// All of them; those that do one thing at a time only where there is one thing, or the cache.
    pub(crate) fn all(case: &Case) -> Vec<Self> {
        let mut all = vec![
            Self::FioUring,
            Self::Uring,
            Self::UringSleepy,
            Self::Threads,
            Self::Qsd,
        ];
        if case.depth == 1 || !case.direct {
            all.push(Self::FioPsync);
        }
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uring => "bulkhead uring",
            Self::UringSleepy => "bulkhead uring poll-us=0",
            Self::Threads => "bulkhead threads",
            Self::Qsd => "qemu-storage-daemon",
            Self::FioUring => "fio io_uring",
            Self::FioPsync => "fio psync",
        }
    }

    pub(crate) fn measure(self, options: &BenchOptions, case: &Case) -> Result<Sample> {
        match self {
            Self::FioUring => fio("io_uring", options, case),
            Self::FioPsync => fio("psync", options, case),
            _ => self.through_backend(options, case),
        }
    }

    fn through_backend(self, options: &BenchOptions, case: &Case) -> Result<Sample> {
        let socket = std::env::temp_dir().join(format!("bench-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let command = match self {
            Self::Qsd => qsd(&options.file, &socket, case),
            _ => self.ours(options, &socket, case),
        };
        let process = Process::start(&command)?;
        let sample = drive(&socket, process.0.id(), options, case);
        drop(process);
        let _ = std::fs::remove_file(&socket);
        sample
    }

    fn ours(self, options: &BenchOptions, socket: &Path, case: &Case) -> Vec<String> {
        // As the jailer has them.
        let mut disk = format!(
            "path={},queues={},queue-size=256",
            options.file.display(),
            case.queues
        );
        disk += if case.direct { ",direct" } else { "" };
        disk += match self {
            Self::UringSleepy => ",poll-us=0",
            Self::Threads => ",engine=threads",
            _ => "",
        };
        let program = options.backend.display().to_string();
        let socket = socket.display().to_string();
        [program.as_str(), "--socket-path", &socket, "--disk", &disk]
            .map(String::from)
            .to_vec()
    }
}

fn qsd(file: &Path, socket: &Path, case: &Case) -> Vec<String> {
    let direct = if case.direct { "on" } else { "off" };
    let file = file.display();
    let blockdev = format!(
        "driver=raw,node-name=disk,cache.direct={direct},file.driver=file,file.filename={file},\
         file.aio=io_uring,file.cache.direct={direct}"
    );
    let export = format!(
        "type=vhost-user-blk,id=disk,node-name=disk,writable=on,num-queues={},\
         addr.type=unix,addr.path={}",
        case.queues,
        socket.display()
    );
    let program = "qemu-storage-daemon";
    [program, "--blockdev", &blockdev, "--export", &export]
        .map(String::from)
        .to_vec()
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(command: &[String]) -> Result<Self> {
        let [program, arguments @ ..] = command else {
            bail!("nothing to start");
        };
        let child = Command::new(program).args(arguments).spawn();
        Ok(Self(
            child.with_context(|| format!("cannot start {program}"))?,
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Loads a backend and asks it what that cost.
fn drive(socket: &Path, pid: u32, options: &BenchOptions, case: &Case) -> Result<Sample> {
    let target = Target::of(socket, case.queues);
    let mut attached = target.start(case.depth, case.block_bytes)?;
    let load = Load {
        write_percent: if case.write { 100 } else { 0 },
        random: case.random,
        block_bytes: case.block_bytes,
        depth: case.depth,
        duration: duration(options),
        rate: None,
        span_bytes: attached.capacity_bytes,
        seed: 1,
        // As a guest that halts when it waits.
        spin: Duration::ZERO,
    };
    let before = cpu_seconds(pid);
    let outcome = load::run(&attached.memory, &mut attached.queues, &load)?;
    ensure!(outcome.errors == 0, "{} requests failed", outcome.errors);
    let report = Report::new(&outcome, case.block_bytes, Some(cpu_seconds(pid) - before));
    Ok(Sample {
        iops: report.iops,
        p50_us: report.p50_us,
        p99_us: report.p99_us,
        cpu_us: report.cpu_us_per_request.unwrap_or(0.0),
        rss_kib: machine::rss_kib(pid),
    })
}

fn fio(engine: &str, options: &BenchOptions, case: &Case) -> Result<Sample> {
    let rw = match (case.random, case.write) {
        (true, true) => "randwrite",
        (true, false) => "randread",
        (false, true) => "write",
        (false, false) => "read",
    };
    // Sequential jobs each have their own part of the file, random ones all of it.
    let (part, apart) = match options.size_mib / u64::from(case.queues) {
        _ if case.random => (options.size_mib, 0),
        part => (part, part),
    };
    let output = Command::new("fio")
        .args([
            "--name=raw",
            "--output-format=json",
            "--time_based",
            "--invalidate=0",
        ])
        .args([
            "--group_reporting",
            "--fallocate=none",
            "--allow_file_create=0",
        ])
        .arg(format!("--filename={}", options.file.display()))
        .arg(format!("--size={part}M"))
        .arg(format!("--offset_increment={apart}M"))
        .arg(format!("--rw={rw}"))
        .arg(format!("--bs={}", case.block_bytes))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--iodepth={}", case.depth))
        .arg(format!("--numjobs={}", case.queues))
        .arg(format!("--direct={}", u8::from(case.direct)))
        .arg(format!("--runtime={}ms", duration(options).as_millis()))
        .output()
        .context("cannot start fio")?;
    ensure!(
        output.status.success(),
        "fio: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    // There may be a remark in front of it.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text
        .find('{')
        .and_then(|at| text.get(at..))
        .unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(json)?;
    let job = &report["jobs"][0];
    let side = &job[if case.write { "write" } else { "read" }];
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(0.0);
    let busy = (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0;
    let iops = number(&side["iops"]);
    let percentile = |p: &str| number(&side["clat_ns"]["percentile"][p]) / 1e3;
    Ok(Sample {
        iops,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        cpu_us: busy * f64::from(case.queues) * 1e6 / iops.max(1.0),
        rss_kib: 0,
    })
}
