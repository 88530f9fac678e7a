// SPDX-License-Identifier: Apache-2.0
//! A NIC whose backend is somebody else's process: how it is shown, and that frames go on
//! with the next process at its socket. Ours, which runs alone, takes the place of another program.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::tap;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::exchange::Exchange;
use crate::exchange::wires::{Frames, TAP};
use crate::harness::Harness;
use crate::network::{enter_empty, ip};
use crate::vm::PATIENCE;

/// For how long frames are exchanged with each process.
const SERVICE: Duration = Duration::from_millis(300);

pub(super) fn cases() -> Vec<Case> {
    vec![Case::native(
        "nic_of_a_foreign_backend_is_shown_and_goes_on_with_the_next_one",
        goes_on,
    )]
}

/// A process that serves the tap, and ends when it is dropped.
struct Backend(Child);

impl Backend {
    fn start(context: &Context, tap: &OwnedFd, socket: &Path) -> Result<Self> {
        let inherited = tap.try_clone()?;
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let child = Command::new(context.program("net-backend"))
            .arg("--socket-path")
            .arg(socket)
            .args(["--tap-fd", &inherited.as_raw_fd().to_string()])
            .spawn();
        let backend = Self(child.context("cannot start net-backend")?);
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < PATIENCE, "no socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The NIC, as `inspect` has it; it is to be in this state soon.
fn shown(harness: &Harness, state: &str) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let inspected: Value = serde_json::from_str(&harness.bulkhead_ok("inspect", &["--json"])?)?;
        let nic = &inspected["devices"][0];
        if nic["state"] == state {
            return Ok(nic.clone());
        }
        ensure!(begun.elapsed() < PATIENCE, "not {state}: {nic}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn goes_on(context: &Context) -> Result<()> {
    enter_empty()?;
    let queues = tap::open(TAP, 1)?;
    let queue = queues.first().context("a tap has a queue")?;
    ensure!(tap::check(queue.as_fd()).is_ok(), "not a tap for a NIC");
    ip(&format!("link set {TAP} up"))?;
    let socket = context.dir().join("card.sock");
    let theirs = Backend::start(context, queue, &socket)?;
    let mut harness = Harness::start_with(context, "foreign", 0, |_| {
        let value = format!("type=net,id=theirs,queues=2,socket={}", socket.display());
        Ok(("--vhost-user", value))
    })?;
    let named = format!("vhost-user {:?}", socket.display().to_string());
    let nic = shown(&harness, "serving")?;
    let (id, role) = (nic["id"].as_str(), nic["role"].as_str());
    ensure!(
        (id, role) == (Some("theirs"), Some(named.as_str())),
        "{nic}"
    );
    ensure!(nic["link_up"] == true && nic["restarts"] == 0, "{nic}");

    let exchange = Exchange::start(Frames::new()?);
    std::thread::sleep(SERVICE);
    drop(theirs);
    ensure!(
        shown(&harness, "connecting")?["restarts"] == 1,
        "not counted"
    );
    let next = Backend::start(context, queue, &socket)?;
    shown(&harness, "serving")?;
    std::thread::sleep(SERVICE);

    harness.bulkhead_ok("link", &["theirs", "down"])?;
    ensure!(
        shown(&harness, "serving")?["link_up"] == false,
        "link is up"
    );
    let text = harness.bulkhead_ok("inspect", &[])?;
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.first() == Some(&"theirs"));
    let line = line.with_context(|| format!("the NIC is not in {text}"))?;
    ensure!(line.ends_with(&["serving", "1", "down"]), "{line:?}");
    // What it does is not ours to count, and its process not ours to show.
    let stats: Value = serde_json::from_str(&harness.bulkhead_ok("stats", &["--json"])?)?;
    ensure!(stats["devices"] == Value::Array(Vec::new()), "{stats}");
    let processes = stats["processes"].as_array().context("no processes")?;
    let mut roles = processes
        .iter()
        .filter_map(|process| process["role"].as_str());
    ensure!(
        processes.len() >= 3 && !roles.any(|role| role.starts_with("net ")),
        "{stats}"
    );

    let (seen, _) = exchange.finish()?;
    println!("{seen:?}");
    harness.stop()?;
    drop(next);
    seen.explained_by(1)
}
