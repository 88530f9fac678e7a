// SPDX-License-Identifier: Apache-2.0
//! How a backend behaves over one connection.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use loadgen::random::Random;

use crate::message::{FDS_MAX, HEADER_LEN, Peer, Received};

/// What the device's configuration space reads: a disk of 1 MiB.
pub(crate) const CONFIG: [u8; 2] = [0, 8];

/// What a backend does to its `at`-th answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misbehaviour {
    /// Nothing.
    None,
    /// Changes a few bytes.
    Mutate,
    /// Sends less and hangs up.
    Truncate,
    /// Announces another length.
    Length,
    /// Sends more.
    Longer,
    /// Sends it twice.
    Twice,
    /// Sends rubbish in front of it.
    Unasked,
    /// Attaches as many descriptors as go.
    Descriptors,
    /// Is quiet from here on, and still reads.
    Silent,
    /// Neither reads nor answers from here on.
    Deaf,
}

impl Misbehaviour {
    /// Those that end a connection at once.
    pub(crate) const LOUD: [Self; 7] = [
        Self::Mutate,
        Self::Truncate,
        Self::Length,
        Self::Longer,
        Self::Twice,
        Self::Unasked,
        Self::Descriptors,
    ];
}

/// A plan for one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) misbehaviour: Misbehaviour,
    pub(crate) at: u64,
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) const HONEST: Self = Self {
        misbehaviour: Misbehaviour::None,
        at: 0,
        seed: 0,
    };
}

/// A thread that is one backend after the other.
pub(crate) struct Backends {
    queue: Option<Sender<(UnixStream, Plan)>>,
    thread: Option<JoinHandle<()>>,
}

impl Backends {
    pub(crate) fn start() -> Result<Self> {
        let (queue, plans) = channel::<(UnixStream, Plan)>();
        let work = move || {
            for (stream, plan) in plans {
                let mut peer = Peer::new(stream, &CONFIG);
                // What became of the connection shows at the frontend.
                let _ = serve(&mut peer, plan, |_| true);
            }
        };
        let thread = std::thread::Builder::new()
            .name("backend".into())
            .spawn(work)?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Gets the next backend; returns the frontend's end of the stream.
    pub(crate) fn next(&self, plan: Plan) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let queue = self.queue.as_ref().context("it has ended")?;
        queue
            .send((theirs, plan))
            .context("the backends' thread ended")?;
        Ok(ours)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.queue = None;
        let joined = self.thread.take().map(JoinHandle::join);
        ensure!(
            matches!(joined, Some(Ok(()))),
            "the backends' thread ended early"
        );
        Ok(())
    }
}

/// Talks until the frontend hangs up, or `go_on` says no: asked after each request that was answered
/// as planned.
pub(crate) fn serve(
    peer: &mut Peer,
    plan: Plan,
    mut go_on: impl FnMut(&Received) -> bool,
) -> Result<()> {
    let mut random = Random::new(plan.seed);
    let mut answered = 0;
    while let Some(request) = peer.receive()? {
        if let Some(answer) = peer.answer(&request) {
            let due = answered == plan.at;
            answered += 1;
            let misbehaviour = if due {
                plan.misbehaviour
            } else {
                Misbehaviour::None
            };
            match misbehaviour {
                Misbehaviour::Silent => return listen(peer),
                Misbehaviour::Deaf => return wait(peer),
                _ => {}
            }
            if !send(peer, answer, misbehaviour, &mut random) {
                peer.hang_up();
                return Ok(());
            }
        }
        if !go_on(&peer.received) {
            return Ok(());
        }
    }
    Ok(())
}

fn listen(peer: &mut Peer) -> Result<()> {
    while peer.receive()?.is_some() {}
    Ok(())
}

/// Waits for the frontend to hang up without reading anything.
fn wait(peer: &Peer) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(peer.stream.as_fd(), PollFlags::POLLHUP)];
    poll(&mut fds, PollTimeout::NONE)?;
    Ok(())
}

/// Sends an answer in the planned way. Whether to go on.
fn send(peer: &Peer, mut answer: Vec<u8>, misbehaviour: Misbehaviour, random: &mut Random) -> bool {
    let below = |random: &mut Random, bound: usize| {
        usize::try_from(random.below(bound as u64)).unwrap_or(0)
    };
    let byte = |random: &mut Random| random.number().to_be_bytes()[0];
    match misbehaviour {
        Misbehaviour::None | Misbehaviour::Silent | Misbehaviour::Deaf => {}
        Misbehaviour::Mutate => {
            for _ in 0..=random.below(4) {
                let at = below(random, answer.len());
                answer[at] = byte(random);
            }
        }
        Misbehaviour::Truncate => {
            let len = below(random, answer.len());
            answer.truncate(len);
            let _ = peer.send(&answer, 0);
            return false;
        }
        Misbehaviour::Length => {
            let len = u32::try_from(random.number() >> random.below(64)).unwrap_or(u32::MAX);
            answer[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&len.to_ne_bytes());
            let _ = peer.send(&answer, 0);
            return false;
        }
        Misbehaviour::Longer => answer.extend((0..=random.below(64)).map(|at| at.to_le_bytes()[0])),
        Misbehaviour::Twice => answer.extend(answer.clone()),
        Misbehaviour::Unasked => {
            let stray: Vec<u8> = (0..=random.below(64)).map(|_| byte(random)).collect();
            answer.splice(0..0, stray);
        }
        Misbehaviour::Descriptors => return peer.send(&answer, FDS_MAX),
    }
    peer.send(&answer, 0)
}
