// SPDX-License-Identifier: Apache-2.0
//! A TCP stream whose every byte is known in advance: what a guest downloads, and perhaps sends back,
//! while its network backend comes and goes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::pauses::Pauses;
use crate::random::Random;

/// How many bytes are made, sent and checked at once.
const PIECE: usize = 64 << 10;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came through.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Bytes received, up to the end of the stream.
    pub bytes: u64,
    /// Bytes that were not what was sent.
    pub wrong: u64,
    /// A checksum of all of them, the same as the sender's.
    pub sum: u64,
    /// Times without a byte.
    pub pauses: Pauses,
}

/// The stream: pieces of noise that follow from a seed, and the checksum of all so far.
#[derive(Debug)]
struct Source {
    random: Random,
    piece: Vec<u8>,
}

impl Source {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            piece: vec![0; PIECE],
        }
    }

    fn next(&mut self) -> &[u8] {
        for word in self.piece.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.number().to_le_bytes());
        }
        &self.piece
    }
}

/// Sends the stream to the first who connects, for `duration`; returns its length in bytes and its
/// checksum.
pub fn serve(listener: &TcpListener, duration: Duration, seed: u64) -> io::Result<(u64, u64)> {
    let (peer, _) = listener.accept()?;
    let deadline = Instant::now() + duration;
    send(&peer, seed, || Instant::now() < deadline)
}

/// Sends the stream for as long as it is to go on, and then its end; returns its length in bytes and
/// its checksum.
pub fn send(
    mut peer: &TcpStream,
    seed: u64,
    mut going: impl FnMut() -> bool,
) -> io::Result<(u64, u64)> {
    peer.set_write_timeout(Some(PATIENCE))?;
    let mut source = Source::new(seed);
    let (mut bytes, mut sum) = (0, 0);
    while going() {
        let piece = source.next();
        peer.write_all(piece)?;
        bytes += piece.len() as u64;
        sum = add(sum, piece);
    }
    peer.shutdown(Shutdown::Write)?;
    Ok((bytes, sum))
}

/// Receives and checks the stream, to its end; sends what came back again, if asked to.
pub fn receive(server: impl ToSocketAddrs, seed: u64, echo: bool) -> io::Result<Outcome> {
    let peer = TcpStream::connect(server)?;
    peer.set_write_timeout(Some(PATIENCE))?;
    check(&peer, seed, |piece| match echo {
        true => (&peer).write_all(piece),
        false => Ok(()),
    })
}

/// Receives and checks the stream, to its end, and hands on each piece.
pub fn check(
    mut peer: &TcpStream,
    seed: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Outcome> {
    peer.set_read_timeout(Some(PATIENCE))?;
    let mut source = Source::new(seed);
    let mut outcome = Outcome::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let len = fill(&mut peer, &mut buffer, &mut outcome.pauses)?;
        let expected = &source.next()[..len];
        let got = &buffer[..len];
        let differing = got.iter().zip(expected).filter(|(got, sent)| got != sent);
        outcome.wrong += differing.count() as u64;
        outcome.bytes += len as u64;
        outcome.sum = add(outcome.sum, got);
        each(got)?;
        if len < PIECE {
            return Ok(outcome);
        }
    }
}

/// Fills the buffer, or less than that at the end of the stream.
fn fill(peer: &mut impl Read, buffer: &mut [u8], pauses: &mut Pauses) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match peer.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => {
                pauses.event();
                len += more;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A checksum in the manner of FNV-1a, continued.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(sum, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn run(receiver_seed: u64) -> ((u64, u64), Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let sender = thread::spawn(move || serve(&listener, Duration::from_millis(50), 7).unwrap());
        let outcome = receive(address, receiver_seed, false).unwrap();
        (sender.join().unwrap(), outcome)
    }

    #[test]
    fn stream_arrives_as_it_was_sent() {
        let (sent, got) = run(7);
        assert_eq!((got.bytes, got.sum, got.wrong), (sent.0, sent.1, 0));
        assert!(got.bytes > 0);
    }

    #[test]
    fn stream_of_another_seed_is_wrong() {
        let (_, got) = run(8);
        assert!(got.wrong > got.bytes / 2);
    }

    #[test]
    fn stream_sent_back_is_the_stream() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let echo = thread::spawn(move || receive(address, 7, true).unwrap());
        let (peer, _) = listener.accept().unwrap();
        let mut pieces = 20;
        let sender = peer.try_clone().unwrap();
        let sender = thread::spawn(move || {
            send(&sender, 7, || {
                pieces -= 1;
                pieces >= 0
            })
            .unwrap()
        });
        let back = check(&peer, 7, |_| Ok(())).unwrap();
        let (bytes, sum) = sender.join().unwrap();
        assert_eq!(bytes, 20 * PIECE as u64);
        assert_eq!((back.bytes, back.sum, back.wrong), (bytes, sum, 0));
        assert_eq!(echo.join().unwrap().sum, sum);
    }
}
