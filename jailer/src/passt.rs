// SPDX-License-Identifier: Apache-2.0
//! passt, which makes a guest's connections from sockets of the host. The jailer starts it, because
//! it needs the host's network, as a user of the VM's own, because it needs no privilege, and ends
//! it with the VM. passt confines itself.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use handover::host_resources::Log;
use handover::users::cards_user;
use nix::sys::socket::{MsgFlags, recv};
use rustix::process::{Gid, Signal, Uid, set_parent_process_death_signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use spec::{Forward, Net, NetKind, Protocol, SpecError, UidRange, Vm};

use super::open::cause;

/// The descriptor number of passt's end of the connection.
const SOCKET: i32 = 3;
/// The resolver's address for the guest, for a host whose own resolver is on its loopback, where no
/// guest reaches it. passt tells the guest this address by DHCP, or by DHCPv6 and router
/// advertisements. It forwards packets for the ports of DNS there to the host's resolver; nothing
/// else of the host is reachable there.
const RESOLVERS: [&str; 2] = ["169.254.1.1", "fd53::1"];
/// How long passt may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes of its log are examined when it has failed.
const LOG_MAX: usize = 16 << 10;
/// The request `VHOST_USER_GET_FEATURES`, version 1, without a body; and the length of the reply.
const QUESTION: [u32; 3] = [1, 1, 0];
const ANSWER_BYTES: usize = 20;

/// A user and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User(pub(crate) u32);

/// One passt process, killed when dropped.
#[derive(Debug)]
struct Passt(Child);

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The NICs of a VM that passt serves, in order.
#[derive(Debug)]
pub(crate) struct Passts {
    program: Option<PathBuf>,
    cards: Vec<Card>,
    /// The log that passt writes to, for reading and for appending.
    reader: File,
    writer: File,
}

#[derive(Debug)]
struct Card {
    id: String,
    forwards: Vec<Forward>,
    user: Option<User>,
    serving: RefCell<Option<Passt>>,
}

/// Checks what can be known before anything is started.
pub(crate) fn check(vm: &Vm, program: Option<&Path>, errors: &mut Vec<SpecError>) {
    let mut cards = users(vm).peekable();
    if cards.peek().is_some() && program.is_none() {
        let reason = "is not installed: apt install passt, or use tap=NAME";
        errors.push(SpecError::new("net.user", "passt", reason));
    }
    for forward in cards.flat_map(|(_, forwards)| forwards) {
        if let Err(e) = try_port(*forward) {
            let reason = format!("port {} of the host: {}", forward.host, cause(&e));
            errors.push(SpecError::new("net.forward", forward, reason));
        }
    }
}

fn users(vm: &Vm) -> impl Iterator<Item = (&Net, &[Forward])> {
    vm.nets.iter().filter_map(|net| match &net.kind {
        NetKind::User(forwards) => Some((net, forwards.as_slice())),
        NetKind::Tap(_) => None,
    })
}

/// Whether a port of the host is free; the port is released at once.
fn try_port(forward: Forward) -> io::Result<()> {
    let at = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, forward.host)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, forward.host)),
    ];
    match forward.protocol {
        Protocol::Tcp => TcpListener::bind(&at[..]).map(drop)?,
        Protocol::Udp => UdpSocket::bind(&at[..]).map(drop)?,
    }
    // `bind` with several addresses succeeds if one of them does.
    match forward.protocol {
        Protocol::Tcp => TcpListener::bind(at[0]).map(drop),
        Protocol::Udp => UdpSocket::bind(at[0]).map(drop),
    }
}

impl Passts {
    /// The passts of a VM, each with a user of its own if the VM has several. Starts none yet.
    pub(crate) fn new(
        vm: &Vm,
        program: Option<PathBuf>,
        range: Option<UidRange>,
        log: &Log,
    ) -> io::Result<Self> {
        let user = |net: &Net| {
            let place = vm.nets.iter().position(|other| other.id == net.id)?;
            let user = cards_user(vm, place);
            Some(User(range?.first + u32::from(user)))
        };
        let cards = users(vm).map(|(net, forwards)| Card {
            id: net.id.to_string(),
            forwards: forwards.to_vec(),
            user: user(net),
            serving: RefCell::new(None),
        });
        Ok(Self {
            program,
            cards: cards.collect(),
            reader: log.reader.try_clone()?,
            writer: log.writer.try_clone()?,
        })
    }

    /// The number of NICs that passt serves.
    pub(crate) fn len(&self) -> usize {
        self.cards.len()
    }

    /// Starts all of them and waits until each answers; the result is the connections, in order.
    pub(crate) fn start_all(&self) -> Result<Vec<OwnedFd>, SpecError> {
        let all = self.cards.iter();
        all.map(|card| self.start_first(card)).collect()
    }

    /// Replaces the passt of the NIC at this place. The jailer does not wait: the vmm, which speaks
    /// to passt, finds out whether it answers.
    pub(crate) fn start_again(&self, index: usize) -> io::Result<OwnedFd> {
        let card = self.cards.get(index);
        let card = card.ok_or(io::Error::from_raw_os_error(libc::ENODEV))?;
        self.start(card).map(OwnedFd::from)
    }

    fn start_first(&self, card: &Card) -> Result<OwnedFd, SpecError> {
        let before = self.reader.metadata().map_or(0, |found| found.len());
        let answers = self.start(card).and_then(|stream| {
            knock(&stream)?;
            Ok(stream.into())
        });
        answers.map_err(|error| {
            let program = self.program.as_deref().unwrap_or("passt".as_ref());
            let reason = explain(&error, &self.said_since(before), program);
            SpecError::new("net.user", &card.id, reason)
        })
    }

    fn start(&self, card: &Card) -> io::Result<UnixStream> {
        let program = self.program.as_deref();
        let program = program.ok_or(io::Error::from_raw_os_error(libc::ENOENT))?;
        // The old passt must end first: the new one binds the same ports.
        card.serving.borrow_mut().take();
        let (passt, stream) = spawn(program, card, &self.writer)?;
        *card.serving.borrow_mut() = Some(passt);
        Ok(stream)
    }

    fn said_since(&self, offset: u64) -> String {
        let mut text = vec![0; LOG_MAX];
        let len = self.reader.read_at(&mut text, offset).unwrap_or(0);
        String::from_utf8_lossy(&text[..len]).into_owned()
    }
}

fn spawn(program: &Path, card: &Card, log: &File) -> io::Result<(Passt, UnixStream)> {
    let (ours, its) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .args(["--vhost-user", "--foreground", "--quiet", "--no-map-gw"])
        .args(
            RESOLVERS
                .iter()
                .flat_map(|address| ["--dns-forward", *address]),
        )
        .args(["--fd", &SOCKET.to_string()])
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone()?);
    for forward in &card.forwards {
        let option = match forward.protocol {
            Protocol::Tcp => "--tcp-ports",
            Protocol::Udp => "--udp-ports",
        };
        command.args([option, &format!("{}:{}", forward.host, forward.guest)]);
    }
    let (socket, user) = (its.as_raw_fd(), card.user);
    // SAFETY: between fork and exec only calls that are async-signal-safe are made; nothing is
    // allocated, and no lock is taken.
    unsafe { command.pre_exec(move || prepare(socket, user)) };
    let child = command.spawn()?;
    Ok((Passt(child), ours))
}

/// Runs in the new process: gives its end of the connection its number, and drops all privilege.
fn prepare(socket: i32, user: Option<User>) -> io::Result<()> {
    let placed = if socket == SOCKET {
        // SAFETY: no pointers.
        unsafe { libc::fcntl(SOCKET, libc::F_SETFD, 0) }
    } else {
        // SAFETY: no pointers; the other descriptors below it are standard ones.
        unsafe { libc::dup2(socket, SOCKET) }
    };
    if placed == -1 {
        return Err(io::Error::last_os_error());
    }
    if let Some(User(id)) = user {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    // It ends when its connection does; this is for one that does not notice. Lost when it changes
    // its user once more, which it does only as root.
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Waits until passt answers a request that changes nothing, at most [`PATIENCE`] however slowly
/// the answer arrives.
fn knock(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = stream;
    let question: Vec<u8> = QUESTION
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    stream.write_all(&question)?;
    // One call, so that the timeout covers the whole answer.
    let mut answer = [0; ANSWER_BYTES];
    match recv(stream.as_raw_fd(), &mut answer, MsgFlags::MSG_WAITALL)? {
        ANSWER_BYTES => stream.set_read_timeout(None),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::other("its answer is cut short")),
    }
}

/// Why passt does not serve: the last line that it logged, if there is one.
fn explain(error: &io::Error, said: &str, program: &Path) -> String {
    let program = program.display();
    if said.contains("unrecognized option") || said.contains("invalid option") {
        return format!(
            "{program} is too old: it has no --vhost-user, which came in 2025 (Debian 13 has it); \
             or use tap=NAME"
        );
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    match (last, error.kind()) {
        (Some(line), _) => format!("{program} says: {}", line.trim()),
        (None, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            format!("{program} does not answer within {PATIENCE:?}")
        }
        (None, _) => format!("{program}: {}", cause(error)),
    }
}

#[cfg(test)]
mod tests;
