// SPDX-License-Identifier: Apache-2.0
//! Numbered frames to a NIC that sends them back, while something happens to its backend:
//! which came back, and when none did.
//!
//! Few are under way at a time, so that no queue on the way ever overflows: what is lost, a backend
//! has lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use loadgen::gaps::Gaps;

pub mod wires;

/// The time from one frame to the next, and from one look to the next.
const EVERY: Duration = Duration::from_micros(500);
/// The most that are under way, unless nothing comes back for a while.
const WINDOW: u64 = 48;
const SILENCE: Duration = Duration::from_millis(50);
/// How long the last ones may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way to the NIC and back.
pub trait Wire: Send {
    /// Sends the frame of this number.
    ///
    /// # Errors
    /// When the network does not take it.
    fn send(&mut self, number: u64) -> io::Result<()>;

    /// What has come back: of which frame, and which of its parts. `None` if there is nothing now.
    ///
    /// # Errors
    /// When the network gives nothing any more.
    fn receive(&mut self) -> io::Result<Option<Back>>;

    /// In how many parts a frame comes back.
    fn parts(&self) -> u8 {
        1
    }
}

/// What has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// A part of a frame.
    Part {
        /// The number of the frame.
        number: u64,
        /// Which part of it.
        part: u8,
    },
    /// Something that was never sent.
    Wrong,
}

/// What became of the frames.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Frames that were sent.
    pub sent: u64,
    /// Those that did not come back, or not as a whole.
    pub lost: u64,
    /// Those that came back more than once.
    pub repeated: u64,
    /// Parts that came after a later frame's.
    pub backwards: u64,
    /// What came and was never sent.
    pub wrong: u64,
}

impl Seen {
    /// Whether so many deaths of backends explain what is missing: at each, one frame at most that
    /// was taken from the tap and not yet shown to the driver, and one that was sent and not yet
    /// shown as used.
    ///
    /// # Errors
    /// When they do not.
    pub fn explained_by(&self, deaths: u64) -> Result<()> {
        ensure!(
            self.lost <= deaths && self.repeated <= deaths,
            "{deaths} deaths do not explain {self:?}"
        );
        ensure!((self.backwards, self.wrong) == (0, 0), "{self:?}");
        Ok(())
    }
}

/// The exchange, which goes on beside its owner.
#[derive(Debug)]
pub struct Exchange {
    over: Arc<AtomicBool>,
    gaps: Arc<Gaps>,
    thread: JoinHandle<io::Result<Seen>>,
}

impl Exchange {
    /// Starts it, on a thread that inherits the caller's network.
    #[must_use]
    pub fn start(wire: impl Wire + 'static) -> Self {
        let (over, gaps) = (Arc::<AtomicBool>::default(), Arc::<Gaps>::default());
        let thread = thread::spawn({
            let (over, gaps) = (Arc::clone(&over), Arc::clone(&gaps));
            move || Book::new(wire).run(&over, &gaps)
        });
        Self { over, gaps, thread }
    }

    /// Ends it. What came back, and the times without anything, in ns of CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When the network failed, or nothing came back at all.
    pub fn finish(self) -> Result<(Seen, Vec<(u64, u64)>)> {
        self.over.store(true, Relaxed);
        let seen = self.thread.join();
        let seen = seen.map_err(|_| anyhow!("a thread panicked"))?;
        let seen = seen.context("the host's side of the NIC")?;
        ensure!(seen.lost < seen.sent, "nothing came back: {seen:?}");
        Ok((seen, self.gaps.take()))
    }
}

/// What is kept of the frames.
struct Book<W> {
    wire: W,
    /// Of each frame, how often each part came, up to three times: two bits for each.
    frames: Vec<u16>,
    /// Frames, of which any part came, up to the last.
    reached: u64,
    backwards: u64,
    wrong: u64,
}

impl<W: Wire> Book<W> {
    fn new(wire: W) -> Self {
        Self {
            wire,
            frames: Vec::new(),
            reached: 0,
            backwards: 0,
            wrong: 0,
        }
    }

    fn sent(&self) -> u64 {
        self.frames.len() as u64
    }

    fn run(mut self, over: &AtomicBool, gaps: &Gaps) -> io::Result<Seen> {
        let mut last = Instant::now();
        while !over.load(Relaxed) {
            if self.sent() - self.reached < WINDOW || last.elapsed() > SILENCE {
                self.wire.send(self.sent())?;
                self.frames.push(0);
                last = Instant::now();
            }
            thread::sleep(EVERY);
            if self.take()? {
                gaps.event();
                last = Instant::now();
            }
        }
        let begun = Instant::now();
        while self.reached < self.sent() && begun.elapsed() < PATIENCE {
            thread::sleep(EVERY);
            if self.take()? {
                gaps.event();
            }
        }
        // Other parts of the last one.
        thread::sleep(SILENCE);
        self.take()?;
        Ok(self.seen())
    }

    /// Notes what has come back. Whether anything has.
    fn take(&mut self) -> io::Result<bool> {
        let mut any = false;
        while let Some(back) = self.wire.receive()? {
            any = true;
            let Back::Part { number, part } = back else {
                self.wrong += 1;
                continue;
            };
            let frame = usize::try_from(number).ok();
            let Some(frame) = frame.and_then(|number| self.frames.get_mut(number)) else {
                self.wrong += 1;
                continue;
            };
            let times = *frame >> (2 * part) & 3;
            if times < 3 {
                *frame += 1 << (2 * part);
            }
            self.backwards += u64::from(number + 1 < self.reached);
            self.reached = self.reached.max(number + 1);
        }
        Ok(any)
    }

    fn seen(&self) -> Seen {
        let parts = self.wire.parts();
        let times = |frame: u16| (0..parts).map(move |part| frame >> (2 * part) & 3);
        let count = |of: &dyn Fn(u16) -> bool| {
            let frames = self.frames.iter().filter(|frame| of(**frame));
            frames.count() as u64
        };
        Seen {
            sent: self.sent(),
            lost: count(&|frame| times(frame).any(|times| times == 0)),
            repeated: count(&|frame| times(frame).any(|times| times > 1)),
            backwards: self.backwards,
            wrong: self.wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Loses, repeats and misplaces what it is told to.
    #[derive(Default)]
    struct Crooked {
        back: VecDeque<Back>,
    }

    impl Wire for Crooked {
        fn send(&mut self, number: u64) -> io::Result<()> {
            let part = |number, part| Back::Part { number, part };
            match number {
                2 => {}
                // Its second part is lost.
                3 => self.back.push_back(part(3, 0)),
                5 => self
                    .back
                    .extend([part(5, 0), part(5, 1), part(5, 0), part(5, 1)]),
                7 => self.back.extend([part(7, 0), part(6, 0), part(7, 1)]),
                9 => self
                    .back
                    .extend([Back::Wrong, part(9, 0), part(9, 1), part(1 << 40, 0)]),
                _ => self.back.extend([part(number, 0), part(number, 1)]),
            }
            Ok(())
        }

        fn receive(&mut self) -> io::Result<Option<Back>> {
            Ok(self.back.pop_front())
        }

        fn parts(&self) -> u8 {
            2
        }
    }

    #[test]
    fn frames_lost_repeated_misplaced_or_wrong_are_told() {
        let exchange = Exchange::start(Crooked::default());
        thread::sleep(Duration::from_millis(400));
        let (seen, _) = exchange.finish().unwrap();
        assert!(seen.sent >= 10, "{seen:?}");
        let told = (seen.lost, seen.repeated, seen.backwards, seen.wrong);
        assert_eq!(told, (2, 2, 1, 2));
        assert!(seen.explained_by(2).is_err());
        let honest = Seen {
            backwards: 0,
            wrong: 0,
            ..seen
        };
        assert!(honest.explained_by(2).is_ok() && honest.explained_by(1).is_err());
    }
}
