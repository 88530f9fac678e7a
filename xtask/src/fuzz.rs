// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz [TARGET] [--minutes N]`: the targets of the crate `fuzz` under libFuzzer and
//! AddressSanitizer.
//!
//! Instrumentation is not stable in rustc. This command, and nothing else here, sets RUSTC_BOOTSTRAP
//! to have it from the same stable compiler that builds everything else. What is found lands in
//! `tests/fuzz/regressions/`, where every `cargo test` replays it; what has been reached is kept in the
//! cache directory, so that the next run goes on from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{cache, compile, packages, progress, signals};

const FLAGS: &[&str] = &[
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Cforce-frame-pointers",
];
/// A profile that shows where, and goes on where `abort` would lose the input.
const PROFILE: &[(&str, &str)] = &[
    ("LTO", "off"),
    ("CODEGEN_UNITS", "16"),
    ("PANIC", "unwind"),
    ("DEBUG", "1"),
    ("STRIP", "none"),
];
/// No input may take longer, or more memory.
const INPUT_SECONDS: u32 = 20;
const RSS_MIB: u32 = 2048;
const INPUT_BYTES: u32 = 4096;

/// What a run of one target came to.
pub(crate) struct Outcome {
    pub(crate) target: String,
    /// One line for the user.
    pub(crate) summary: String,
    pub(crate) clean: bool,
}

/// Runs one target, or all of them.
pub(crate) fn run(target: Option<&str>, minutes: u32) -> Result<ExitCode> {
    let all = targets()?;
    let chosen = match target {
        None => all,
        Some(name) if all.iter().any(|target| target == name) => vec![name.to_owned()],
        Some(name) => bail!("target {name:?}: must be one of {}", all.join(", ")),
    };
    let outcomes = each(&chosen, Duration::from_secs(u64::from(minutes) * 60))?;
    let found = outcomes.iter().filter(|outcome| !outcome.clean).count();
    println!("{} targets, {found} found something", outcomes.len());
    Ok(match found {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Every target for a moment.
pub(crate) fn short(time: Duration) -> Result<Vec<Outcome>> {
    each(&targets()?, time)
}

/// The targets: each has a corpus.
fn targets() -> Result<Vec<String>> {
    let corpus = compile::root()?.join("tests/fuzz/corpus");
    let entries =
        fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Runs targets, one on each processor.
fn each(targets: &[String], time: Duration) -> Result<Vec<Outcome>> {
    packages::ensure(packages::FUZZ)?;
    let fuzzer = build()?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (todo, outcomes) = (Mutex::new(targets.iter()), Mutex::new(Vec::new()));
    let what = format!(
        "fuzzing {} targets, {} s each",
        targets.len(),
        time.as_secs()
    );
    progress::step(&what, || {
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let next = todo.lock().ok().and_then(|mut todo| todo.next());
                    let Some(target) = next else { return Ok(()) };
                    let outcome = one(&fuzzer, target, time)?;
                    println!("{}", outcome.summary);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            };
            let workers: Vec<_> = (0..processors).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|worker| match worker.join() {
                Ok(done) => done,
                Err(_) => bail!("a thread ended early"),
            });
            joined.collect::<Result<Vec<()>>>()
        })
    })?;
    signals::wait_if_stopping();
    outcomes.into_inner().context("a thread ended early")
}

/// The fuzzer, instrumented, in a target directory of its own.
fn build() -> Result<PathBuf> {
    let mut cargo = compile::cargo()?;
    cargo
        .args(["build", "--quiet", "--release", "--package", "fuzz"])
        .args(["--bin", "fuzz", "--features", "libfuzzer"])
        .arg("--target-dir")
        .arg(compile::target_dir()?.join("fuzz"))
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    for (name, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    let messages = progress::step("building the fuzzer", || {
        let built = cargo.stderr(Stdio::inherit()).output()?;
        ensure!(built.status.success(), "the build failed");
        Ok(built.stdout)
    })?;
    let built = compile::executables(&String::from_utf8_lossy(&messages))?;
    built.into_iter().next().context("the build made nothing")
}

fn one(fuzzer: &Path, target: &str, time: Duration) -> Result<Outcome> {
    let root = compile::root()?.join("tests/fuzz");
    let reached = cache::dir()?.join("fuzz").join(target);
    let (corpus, found) = (
        root.join("corpus").join(target),
        root.join("regressions").join(target),
    );
    for dir in [&reached, &found] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let output = Command::new(fuzzer)
        .env("BULKHEAD_FUZZ_TARGET", target)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={RSS_MIB}"))
        .arg(format!("-max_len={INPUT_BYTES}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args([&reached, &corpus, &found])
        .stdin(Stdio::null())
        .output()
        .context("cannot run the fuzzer")?;
    let _ = fs::remove_dir(&found); // only if it is empty
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let clean = output.status.success();
    if !clean {
        println!("{said}");
    }
    let stat = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    let word = if clean { "ok      " } else { "FAILED  " };
    let summary = format!(
        "{word} fuzz {target}: {} inputs in {} s, {} reached something new, {} MiB",
        stat("stat::number_of_executed_units:"),
        time.as_secs(),
        stat("stat::new_units_added:"),
        stat("stat::peak_rss_mb:"),
    );
    Ok(Outcome {
        target: target.to_owned(),
        summary,
        clean,
    })
}
