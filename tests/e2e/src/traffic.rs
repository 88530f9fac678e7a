// SPDX-License-Identifier: Apache-2.0
//! Traffic between the host and a guest while something happens to the guest's NIC: one TCP
//! connection, on which the host sends a stream that the guest checks and sends back, and the host
//! checks again. Where there is no guest, the host talks to itself across the NIC.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use loadgen::stream::{self, Outcome};

use crate::context::Context;
use crate::vm::{PATIENCE, Vm};

/// The load generator in the guest.
pub const TOOL: &str = "/run/loadgen";
/// Disks come in sectors.
const SECTOR: usize = 512;
const SEED: u64 = 7;
/// Where the guest's half leaves what it says, and its exit status.
const SAID: &str = "/run/stream";
/// So much more coming back is traffic that goes on.
const MORE_BYTES: u64 = 256 << 10;

/// The load generator as a disk for a guest.
///
/// # Errors
/// When it cannot be copied.
pub fn tool(context: &Context) -> Result<PathBuf> {
    let mut bytes = fs::read(context.program("loadgen")).context("loadgen")?;
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    context.file("tool.img", &bytes)
}

/// Takes the load generator off the guest's second disk.
///
/// # Errors
/// When it does not run there.
pub fn install_tool(vm: &mut Vm) -> Result<()> {
    vm.sh(&format!(
        "cat /dev/vdb > {TOOL} && chmod +x {TOOL} && {TOOL} --help > /dev/null"
    ))
    .map(drop)
}

/// What the host's two halves share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    back: AtomicU64,
}

/// The connection.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    sender: JoinHandle<std::io::Result<(u64, u64)>>,
    checker: JoinHandle<std::io::Result<Outcome>>,
}

impl Traffic {
    /// Has the guest, which has the tool, connect to this address of the host.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(vm: &mut Vm, host: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).context("a server for the guest")?;
        let port = listener.local_addr()?.port();
        let accepting = thread::spawn(move || listener.accept());
        vm.sh(&format!(
            "(({TOOL} stream {host}:{port} --seed {SEED} --echo > {SAID} 2>&1; echo status $? >> {SAID}) &)"
        ))?;
        let (peer, _) = joined(accepting)?;
        Self::between(peer.try_clone()?, peer, Duration::ZERO)
    }

    /// Has the host connect to an address whose packets a driver sends back to this address of its
    /// own; it pauses so long after each piece that it sends.
    ///
    /// # Errors
    /// When nothing comes back.
    pub fn across(own: &str, driver: &str, pause: Duration) -> Result<Self> {
        let listener = TcpListener::bind((own, 0)).context("a server")?;
        let port = listener.local_addr()?.port();
        let accepting = thread::spawn(move || listener.accept());
        let sending = TcpStream::connect((driver, port)).context("connecting across the NIC")?;
        let (receiving, _) = joined(accepting)?;
        Self::between(sending, receiving, pause)
    }

    fn between(sending: TcpStream, receiving: TcpStream, pause: Duration) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let sender = send(sending, Arc::clone(&shared), pause);
        let checker = check(receiving, Arc::clone(&shared));
        let traffic = Self {
            shared,
            sender,
            checker,
        };
        traffic.goes_on()?;
        Ok(traffic)
    }

    /// Waits until more has come back than was under way.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn goes_on(&self) -> Result<()> {
        let wanted = self.shared.back.load(Relaxed) + MORE_BYTES;
        let begun = Instant::now();
        while self.shared.back.load(Relaxed) < wanted {
            ensure!(!self.checker.is_finished(), "the connection has ended");
            ensure!(begun.elapsed() < PATIENCE, "no traffic for long");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends it, and sees to it that the host got every byte right. What came back.
    ///
    /// # Errors
    /// When it did not.
    pub fn end(self) -> Result<Outcome> {
        self.shared.stop.store(true, Relaxed);
        let (bytes, sum) = joined(self.sender).context("sending")?;
        let back = joined(self.checker).context("receiving")?;
        println!("sent {bytes} bytes, sum {sum:016x}; back came {back:?}");
        ensure!(
            (back.bytes, back.sum, back.wrong) == (bytes, sum, 0),
            "what came back is not what was sent"
        );
        Ok(back)
    }

    /// The same, and the guest got every byte right, too.
    ///
    /// # Errors
    /// When one of them did not.
    pub fn finish(self, vm: &mut Vm) -> Result<Outcome> {
        let back = self.end()?;
        let said = vm.sh(&format!(
            "until grep -q status {SAID}; do sleep 0.1; done; cat {SAID}"
        ))?;
        println!("the guest says {said}");
        let guests = format!("bytes={} wrong=0 sum={:016x}", back.bytes, back.sum);
        ensure!(
            said.contains(&guests) && said.ends_with("status 0"),
            "what came to the guest is not what was sent"
        );
        Ok(back)
    }
}

fn send(
    peer: TcpStream,
    shared: Arc<Shared>,
    pause: Duration,
) -> JoinHandle<std::io::Result<(u64, u64)>> {
    thread::spawn(move || {
        stream::send(&peer, SEED, || {
            thread::sleep(pause);
            !shared.stop.load(Relaxed)
        })
    })
}

fn check(peer: TcpStream, shared: Arc<Shared>) -> JoinHandle<std::io::Result<Outcome>> {
    thread::spawn(move || {
        stream::check(&peer, SEED, |piece| {
            shared.back.fetch_add(piece.len() as u64, Relaxed);
            Ok(())
        })
    })
}

fn joined<T>(thread: JoinHandle<std::io::Result<T>>) -> Result<T> {
    let outcome = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    Ok(outcome?)
}
