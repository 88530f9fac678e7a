// SPDX-License-Identifier: Apache-2.0
//! A file system of one file, `image`, that stops answering when it is told to: storage that hangs, as a
//! network file system does whose server is gone. It takes root and /dev/fuse.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::context::{Skip, need_root};

/// What a file system is asked to do; the numbers of the protocol (linux/fuse.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// stat(2) and the like.
    Getattr = 3,
    /// open(2).
    Open = 14,
    /// read(2).
    Read = 15,
    /// write(2), or writing back.
    Write = 16,
    /// fsync(2) and fdatasync(2).
    Fsync = 20,
    /// close(2).
    Flush = 25,
}

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const SETATTR: u32 = 4;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const DESTROY: u32 = 38;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The root directory and the file.
const ROOT: u64 = 1;
const IMAGE: u64 = 2;
/// The length of a request's header, and of an answer's.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// FUSE_WRITEBACK_CACHE.
const WRITEBACK_CACHE: u32 = 1 << 16;
/// The longest write.
const WRITE_MAX: u32 = 128 << 10;

/// The file system; gone, and done with hanging, when it is dropped.
#[derive(Debug)]
pub struct Fuse {
    dir: PathBuf,
    served: Arc<Served>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Served {
    device: File,
    image: File,
    /// A bit for each operation that is not answered.
    hung: AtomicU64,
    /// A bit for each operation that fails.
    failing: AtomicU64,
    /// What the kernel may do, in the bits of the protocol.
    flags: u32,
    /// What is to be answered later.
    held: Mutex<VecDeque<Request>>,
}

#[derive(Debug)]
struct Request {
    op: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

impl Fuse {
    /// Mounts it at an empty directory, with an image of so many bytes.
    ///
    /// # Errors
    /// When it cannot be mounted; [`Skip`] where there is no FUSE.
    pub fn mount(dir: &Path, len_bytes: u64) -> Result<Self> {
        Self::mount_with(dir, len_bytes, 0)
    }

    /// The same, with what is written kept in the page cache until it is written back.
    ///
    /// # Errors
    /// As [`Fuse::mount`].
    pub fn mount_cached(dir: &Path, len_bytes: u64) -> Result<Self> {
        Self::mount_with(dir, len_bytes, WRITEBACK_CACHE)
    }

    fn mount_with(dir: &Path, len_bytes: u64, flags: u32) -> Result<Self> {
        let may = flags;
        need_root()?;
        let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let device = match opened {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Skip("there is no /dev/fuse".into()).into());
            }
            opened => opened.context("/dev/fuse")?,
        };
        let image = tempfile::tempfile()?;
        image.set_len(len_bytes)?;
        let fd = device.as_raw_fd();
        let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("hangs"), dir, Some("fuse"), flags, Some(data.as_str())).context("mount")?;
        let served = Arc::new(Served {
            device,
            image,
            hung: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            flags: may,
            held: Mutex::default(),
        });
        let thread = thread::spawn({
            let served = Arc::clone(&served);
            move || served.serve()
        });
        Ok(Self {
            dir: dir.to_path_buf(),
            served,
            thread: Some(thread),
        })
    }

    /// The file.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// From now on these are not answered.
    pub fn hang(&self, ops: &[Op]) {
        self.served.hung.fetch_or(bits(ops), SeqCst);
    }

    /// From now on these fail, and no others.
    pub fn fail(&self, ops: &[Op]) {
        self.served.failing.store(bits(ops), SeqCst);
    }

    /// Whether something waits for an answer.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        !self.served.held().is_empty()
    }

    /// Answers everything, now and from now on.
    pub fn release(&self) {
        self.served.hung.store(0, SeqCst);
        let held = std::mem::take(&mut *self.served.held());
        for request in held {
            self.served.answer(&request);
        }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.release();
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
        // The mount was the last user, unless a process has the file open, which then fails.
        let connection = self.thread.take().map(JoinHandle::join);
        drop(connection);
    }
}

impl Served {
    fn held(&self) -> std::sync::MutexGuard<'_, VecDeque<Request>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is unmounted.
    fn serve(&self) {
        let mut buffer = vec![0; (WRITE_MAX as usize) + 4096];
        loop {
            match (&self.device).read(&mut buffer) {
                Ok(len) => {
                    let Some(request) = Request::parse(&buffer[..len]) else {
                        return;
                    };
                    let mut held = self.held();
                    if self.hung.load(SeqCst) & (1 << request.op.min(63)) != 0 {
                        held.push_back(request);
                        continue;
                    }
                    drop(held);
                    self.answer(&request);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {}
                Err(_) => return,
            }
        }
    }

    fn answer(&self, request: &Request) {
        let answer = match request.op {
            FORGET | BATCH_FORGET | INTERRUPT => return,
            op if self.failing.load(SeqCst) & (1 << op.min(63)) != 0 => Err(libc::EIO),
            INIT => Ok(init(self.flags)),
            LOOKUP if request.name() == b"image" => Ok(self.entry()),
            LOOKUP => Err(libc::ENOENT),
            op if op == Op::Getattr as u32 => Ok(self.attributes(request.node)),
            SETATTR => Ok(self.attributes(request.node)),
            op if op == Op::Open as u32 => Ok(vec![0; 16]),
            op if op == Op::Read as u32 => self.read(request),
            op if op == Op::Write as u32 => self.write(request),
            op if op == Op::Fsync as u32 || op == Op::Flush as u32 => Ok(Vec::new()),
            RELEASE | DESTROY => Ok(Vec::new()),
            STATFS => Ok(vec![0; 80]),
            _ => Err(libc::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        let len = u32::try_from(OUT_HEADER + body.len()).unwrap_or(u32::MAX);
        let mut message = len.to_ne_bytes().to_vec();
        message.extend(error.to_ne_bytes());
        message.extend(request.unique.to_ne_bytes());
        message.extend(body);
        // Whoever asked may be gone.
        let _ = (&self.device).write_all(&message);
    }

    /// `struct fuse_entry_out`: node, generation, how long name and attributes hold, attributes.
    fn entry(&self) -> Vec<u8> {
        let mut entry = IMAGE.to_ne_bytes().to_vec();
        entry.extend([0; 32]);
        entry.extend(self.attr(IMAGE));
        entry
    }

    /// `struct fuse_attr_out`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let mut attributes = vec![0; 16];
        attributes.extend(self.attr(node));
        attributes
    }

    /// `struct fuse_attr`.
    fn attr(&self, node: u64) -> Vec<u8> {
        let (mode, len): (u32, u64) = match node {
            ROOT => (libc::S_IFDIR | 0o755, 0),
            _ => {
                let len = self.image.metadata().map_or(0, |found| found.len());
                (libc::S_IFREG | 0o644, len)
            }
        };
        let mut attr = Vec::with_capacity(88);
        for word in [node, len, len.div_ceil(512), 0, 0, 0] {
            attr.extend(word.to_ne_bytes());
        }
        for half in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            attr.extend(half.to_ne_bytes());
        }
        attr
    }

    fn read(&self, request: &Request) -> Result<Vec<u8>, i32> {
        let wanted = usize::try_from(request.word(16, 4)).map_err(|_| libc::EINVAL)?;
        let mut data = vec![0; wanted];
        let len = self.image.read_at(&mut data, request.word(8, 8));
        data.truncate(len.map_err(|_| libc::EIO)?);
        Ok(data)
    }

    fn write(&self, request: &Request) -> Result<Vec<u8>, i32> {
        let data = request.body.get(40..).unwrap_or_default();
        let written = self.image.write_all_at(data, request.word(8, 8));
        written.map_err(|_| libc::EIO)?;
        let len = u32::try_from(data.len()).unwrap_or(0);
        Ok([len.to_ne_bytes(), [0; 4]].concat())
    }
}

fn bits(ops: &[Op]) -> u64 {
    ops.iter().fold(0, |all, op| all | 1 << (*op as u32))
}

/// `struct fuse_init_out` of version 7.31.
fn init(flags: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for word in [7, 31, 128 << 10, flags] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(16_u16.to_ne_bytes());
    out.extend(12_u16.to_ne_bytes());
    for word in [WRITE_MAX, 1] {
        out.extend(word.to_ne_bytes());
    }
    out.resize(64, 0);
    out
}

impl Request {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..IN_HEADER)?;
        Some(Self {
            op: u32::from_ne_bytes(header[4..8].try_into().ok()?),
            unique: u64::from_ne_bytes(header[8..16].try_into().ok()?),
            node: u64::from_ne_bytes(header[16..24].try_into().ok()?),
            body: bytes[IN_HEADER..].to_vec(),
        })
    }

    /// The name that is looked up.
    fn name(&self) -> &[u8] {
        self.body.strip_suffix(&[0]).unwrap_or(&self.body)
    }

    /// A number of `len` bytes in the body.
    fn word(&self, at: usize, len: usize) -> u64 {
        let mut word = [0; 8];
        if let Some(bytes) = self.body.get(at..at + len) {
            word[..len].copy_from_slice(bytes);
        }
        u64::from_ne_bytes(word)
    }
}
