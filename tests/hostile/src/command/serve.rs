// SPDX-License-Identifier: Apache-2.0
//! A backend at a socket, for a real guest: it fails every request, as a broken disk would, so that
//! the guest's kernel gets to know the disk, and is evil beside that.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use loadgen::random::Random;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::ftruncate;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use super::behaviour::{CONFIG, Plan, serve};
use crate::message::{Peer, Received};

/// How long it only fails requests, so that the guest can get to know it.
const HARMLESS: Duration = Duration::from_secs(1);
const IOERR: u8 = 1;
const NEXT: u16 = 1;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long)]
    socket: PathBuf,
    /// What it does.
    #[arg(long, value_enum)]
    malice: Malice,
    /// For how long; then it hangs up.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Malice {
    /// Calls as fast as it can.
    Flood,
    /// Lets the used index jump and uses what was never available.
    Rubbish,
    /// Tries to shorten guest memory, makes the eventfds block and fills them.
    Grab,
}

/// A queue, with everything in it mapped.
struct Queue {
    memory: Arc<GuestMemoryMmap<()>>,
    size: u16,
    desc: u64,
    used: u64,
    avail: u64,
    done: u16,
    kick: File,
    call: File,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let listener = UnixListener::bind(&options.socket).context("the socket")?;
    let (stream, _) = listener.accept()?;
    let mut peer = Peer::new(stream, &CONFIG);
    let stop = Arc::<AtomicBool>::default();
    let mut works = false;
    let (malice, seconds) = (options.malice, options.seconds);
    let hang_up = peer.stream.try_clone()?;
    let stopped = Arc::clone(&stop);
    serve(&mut peer, Plan::HONEST, |received| {
        if received.enabled > 0 && !works {
            works = true;
            let queues: Result<Vec<Queue>> = queues(received);
            let (stop, hang_up) = (Arc::clone(&stop), hang_up.try_clone());
            std::thread::spawn(move || {
                let outcome = queues.and_then(|queues| work(queues, malice, seconds, &stop));
                println!("hostile: {malice:?}: {outcome:?}");
                if let Ok(stream) = hang_up {
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                }
            });
        }
        true
    })?;
    stopped.store(true, Ordering::Relaxed);
    Ok(())
}

fn queues(received: &Received) -> Result<Vec<Queue>> {
    let regions = received.memory.iter().map(|(base, len, offset, file)| {
        let file = FileOffset::new(file.try_clone()?, *offset);
        Ok((GuestAddress(*base), usize::try_from(*len)?, Some(file)))
    });
    let regions = regions.collect::<Result<Vec<_>>>()?;
    let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files(regions)?);
    let started = received.rings.values().filter(|ring| ring.size > 0);
    let queues = started.map(|ring| {
        let [desc, used, avail] = ring.addresses;
        Ok(Queue {
            memory: Arc::clone(&memory),
            size: ring.size,
            desc,
            used,
            avail,
            done: 0,
            kick: ring.kick.as_ref().context("no kick")?.try_clone()?,
            call: ring.call.as_ref().context("no call")?.try_clone()?,
        })
    });
    queues.collect()
}

fn work(mut queues: Vec<Queue>, malice: Malice, seconds: u64, stop: &AtomicBool) -> Result<u64> {
    let (begun, mut random, mut deeds) = (Instant::now(), Random::new(1), 0);
    let end = HARMLESS + Duration::from_secs(seconds);
    while begun.elapsed() < end && !stop.load(Ordering::Relaxed) {
        for queue in &mut queues {
            queue.fail_requests()?;
            if begun.elapsed() > HARMLESS {
                queue.abuse(malice, &mut random)?;
                deeds += 1;
            }
        }
        if begun.elapsed() <= HARMLESS || malice != Malice::Flood {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(deeds)
}

impl Queue {
    /// Completes whatever is available with an error.
    fn fail_requests(&mut self) -> Result<()> {
        let available: u16 = self
            .memory
            .load(GuestAddress(self.avail + 2), Ordering::Acquire)?;
        if available == self.done {
            return Ok(());
        }
        while self.done != available {
            let slot = u64::from(self.done % self.size);
            let head: u16 = self
                .memory
                .read_obj(GuestAddress(self.avail + 4 + 2 * slot))?;
            self.fail(head)?;
            let element = [u32::from(head), 1];
            let at = self.used + 4 + 8 * slot;
            self.memory.write_obj(element[0], GuestAddress(at))?;
            self.memory.write_obj(element[1], GuestAddress(at + 4))?;
            self.done = self.done.wrapping_add(1);
        }
        let index = GuestAddress(self.used + 2);
        self.memory.store(self.done, index, Ordering::Release)?;
        self.signal()
    }

    /// Writes the status of one request: the last byte of its last buffer.
    fn fail(&self, head: u16) -> Result<()> {
        let mut index = head;
        for _ in 0..self.size {
            let at = self.desc + 16 * u64::from(index);
            let address: u64 = self.memory.read_obj(GuestAddress(at))?;
            let len: u32 = self.memory.read_obj(GuestAddress(at + 8))?;
            let flags: u16 = self.memory.read_obj(GuestAddress(at + 12))?;
            if flags & NEXT == 0 {
                let last = address + u64::from(len).saturating_sub(1);
                return Ok(self.memory.write_obj(IOERR, GuestAddress(last))?);
            }
            index = self.memory.read_obj(GuestAddress(at + 14))?;
        }
        Ok(())
    }

    fn signal(&self) -> Result<()> {
        match (&self.call).write(&1_u64.to_ne_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn abuse(&mut self, malice: Malice, random: &mut Random) -> Result<()> {
        match malice {
            Malice::Flood => {
                for _ in 0..64 {
                    self.signal()?;
                }
                Ok(())
            }
            Malice::Rubbish => self.scatter(random),
            Malice::Grab => self.grab(),
        }
    }

    fn scatter(&self, random: &mut Random) -> Result<()> {
        let slot = random.below(u64::from(self.size));
        let element = GuestAddress(self.used + 4 + 8 * slot);
        self.memory.write_obj(random.number(), element)?;
        let jump = random.number().to_be_bytes();
        let index = GuestAddress(self.used + 2);
        self.memory.write_obj([jump[0], jump[1]], index)?;
        self.signal()
    }

    fn grab(&self) -> Result<()> {
        use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
        for region in self.memory.iter() {
            let file = region.file_offset().context("a region without a file")?;
            let outcome = ftruncate(file.file(), 4096);
            ensure!(
                outcome == Err(Errno::EPERM),
                "guest memory was shortened: {outcome:?}"
            );
        }
        for eventfd in [&self.kick, &self.call] {
            fcntl(eventfd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let mut writer: &File = eventfd;
            let _ = writer.write(&(u64::MAX - 1).to_ne_bytes());
            fcntl(eventfd, FcntlArg::F_SETFL(OFlag::empty()))?;
        }
        Ok(())
    }
}
