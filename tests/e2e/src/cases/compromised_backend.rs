// SPDX-License-Identifier: Apache-2.0
//! Backends that were taken over, in a VM with one that was not: each does something else to what it
//! shares with the supervisor. The supervisor goes on, answers and does not grow; the disk beside them
//! loses nothing; there is an end to each of them that dies again and again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use super::Case;
use crate::context::Context;
use crate::harness::{Device, Harness, Setup};
use crate::network::enter_empty;
use crate::procs;
use crate::vm::PATIENCE;

/// What a supervisor may have of its own, whatever it is told.
const SUPERVISOR_MAX_KIB: u64 = 8 << 10;
/// To what length the log may have grown before it is cut: as long as the longest file that a backend
/// may write.
const LOG_MAX_BYTES: u64 = SHOUTERS_IMAGE_BYTES + (1 << 20);
const IMAGE_BYTES: u64 = 1 << 20;
/// More than a log may ever be.
const SHOUTERS_IMAGE_BYTES: u64 = 1 << 29;
/// Those that go on for ever, and are served for ever.
const STAY: [&str; 3] = ["makes-excuses", "shouts", "n-makes-excuses"];
/// Those that die, are killed for what they say, or are found hung, again and again.
const FALL: [&str; 8] = [
    "talks",
    "babbles",
    "leaves",
    "hangs-up",
    "turns-away",
    "n-talks",
    "n-babbles",
    "n-leaves",
];
/// Those of which only the supervisor's health matters here.
const OTHERS: [&str; 2] = ["lies", "n-lies"];
/// One whose remains seem to be there for ever.
const CLINGS: &str = "clings";

/// How much longer those that are to fall may take for it than they are watched anyway.
const FALL_PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn cases() -> Vec<Case> {
    let (short, long) = (Duration::from_secs(35), Duration::from_secs(600));
    let limit = |least| least + FALL_PATIENCE + 2 * PATIENCE;
    vec![
        Case::native("backends_taken_over_do_no_harm_to_others", move |context| {
            taken_over(context, short)
        })
        .within(limit(short)),
        Case::native(
            "backends_taken_over_for_long_do_no_harm_to_others",
            move |context| taken_over(context, long),
        )
        .soak(limit(long)),
    ]
}

/// All programs, with an escape probe in the place of the backends.
fn programs(context: &Context) -> Result<PathBuf> {
    let bin = context.dir().join("programs");
    fs::create_dir(&bin)?;
    for name in ["bulkhead", "jailer", "fake-vmm", "input-backend"] {
        fs::copy(context.program(name), bin.join(name)).context(name)?;
    }
    for name in ["blk-backend", "net-backend"] {
        fs::copy(context.program("escape-probe"), bin.join(name)).context("escape-probe")?;
    }
    Ok(bin)
}

/// Watches them for so long at least, and until all that are to fall have fallen.
fn taken_over(context: &Context, least: Duration) -> Result<()> {
    // Where nobody else has taps.
    enter_empty()?;
    let bin = programs(context)?;
    let mut more = Vec::new();
    let all = STAY.iter().chain(&FALL).chain(&OTHERS).chain([&CLINGS]);
    for (number, id) in all.enumerate() {
        more.extend(match id.starts_with("n-") {
            true => ["--net".to_owned(), format!("tap=t{number},id={id}")],
            false => {
                let len = match *id {
                    "shouts" => SHOUTERS_IMAGE_BYTES,
                    _ => IMAGE_BYTES,
                };
                let image = context.sparse_file(id, len)?;
                let disk = format!("path={},id={id}", image.display());
                ["--disk".to_owned(), disk]
            }
        });
    }
    let setup = Setup {
        bin: &bin,
        more: &more,
        ..Setup::new(context, (least + 2 * FALL_PATIENCE).as_secs())
    };
    let mut harness = Harness::start_as(context, "taken", setup, Device::Disk(",id=honest"))?;
    let supervisor = supervisor()?;
    let log = context.state_dir("taken").join("log");
    let before = descriptors(supervisor);

    let (begun, mut seen) = (Instant::now(), Seen::default());
    while begun.elapsed() < least || !seen.have_fallen() {
        let patience = least + FALL_PATIENCE;
        ensure!(begun.elapsed() < patience, "not all fell: {seen:?}");
        let info = harness.info()?;
        harness.events()?;
        // Refused, but answered; to be asked for would keep a device's malice from beginning.
        harness.bulkhead("stats", &["--json"])?;
        harness.bulkhead("restart", &["nobody"])?;
        for device in info["devices"].as_array().context("no devices")? {
            let id = device["id"].as_str().unwrap_or_default().to_owned();
            let state = device["state"].as_str().unwrap_or_default().to_owned();
            let restarts = device["restarts"].as_u64().unwrap_or_default();
            seen.devices.insert(id, (state, restarts));
        }
        seen.rounds += 1;
        let kib = procs::anonymous_kib(supervisor).context("the supervisor is gone")?;
        seen.most_kib = seen.most_kib.max(kib);
        seen.log_bytes = seen.log_bytes.max(fs::metadata(&log)?.len());
        std::thread::sleep(Duration::from_millis(100));
    }
    let after = descriptors(supervisor);
    let mut text = Vec::new();
    File::open(&log)?.take(1 << 20).read_to_end(&mut text)?;
    harness.press_power_button()?;
    let gaps = harness.finish()?.gaps;

    let pause = gaps.iter().map(|(from, to)| (to - from) / 1_000_000).max();
    println!("SEEN taken over {seen:?} descriptors={before}..{after} longest_pause_ms={pause:?}");
    ensure!(seen.most_kib < SUPERVISOR_MAX_KIB, "the supervisor grew");
    ensure!(after <= before, "the supervisor has more descriptors");
    ensure!(seen.log_bytes <= LOG_MAX_BYTES, "nobody cut the log");
    let text = String::from_utf8_lossy(&text);
    ensure!(!text.contains("panicked"), "somebody panicked");
    seen.judge()
}

/// What was seen of it.
#[derive(Debug, Default)]
struct Seen {
    rounds: u32,
    most_kib: u64,
    log_bytes: u64,
    /// The last state and the number of restarts of each device.
    devices: BTreeMap<String, (String, u64)>,
}

impl Seen {
    /// Whether all that are to be given up have been, and the one that clings has had successors.
    fn have_fallen(&self) -> bool {
        let stalls = |(state, _): &(String, u64)| state == "stalled";
        let fallen = |id: &&str| self.devices.get(*id).is_some_and(stalls);
        let followed = |(_, restarts): &(String, u64)| *restarts > 1;
        FALL.iter().all(fallen) && self.devices.get(CLINGS).is_some_and(followed)
    }

    fn judge(&self) -> Result<()> {
        let of = |id: &str| self.devices.get(id).context(format!("no device {id}"));
        let (state, restarts) = of("honest")?;
        ensure!(
            state == "serving" && *restarts == 0,
            "the honest one: {state} after {restarts}"
        );
        for id in STAY {
            let (state, _) = of(id)?;
            ensure!(state == "serving" || state == "connecting", "{id}: {state}");
        }
        Ok(())
    }
}

/// The supervisor below this process.
fn supervisor() -> Result<Pid> {
    let all = procs::living_descendants();
    let found = all.iter().find(|process| process.name == "supervisor");
    Ok(found.context("there is no supervisor")?.pid)
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
