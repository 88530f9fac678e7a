// SPDX-License-Identifier: Apache-2.0
//! Storage that can stand still: an ext4 file system in a file in another such file system. The kernel
//! holds back what is written to a frozen file system. If the upper one is frozen, calls wait that
//! write; if the lower one is, requests are accepted, and the block device does nothing about them. It
//! needs root, loop devices and a mount namespace, and no device mapper.
//!
//! A process of its own holds it, which thaws and unmounts it as soon as its standard input ends: what
//! waits for a frozen file system hears no SIGKILL, so that nothing may be left frozen, whoever is killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::context::{Context, Skip, need_root};

/// The files that the file systems are in. They are sparse.
const LOWER_BYTES: u64 = 2 << 30;
const UPPER: &str = "1G";

/// Arguments: the file of the lower file system, where to mount it, where to mount the upper one, and
/// the length of that.
const KEEPER: &str = r#"
trap '' TERM INT HUP
mkfs.ext4 -q -F "$1" && mount -o loop "$1" "$2" || exit 1
truncate --size "$4" "$2/upper" && mkfs.ext4 -q -F "$2/upper" && mount -o loop "$2/upper" "$3" || {
    umount "$2"
    exit 1
}
echo mounted
while read -r word dir; do
    case $word in
    freeze) fsfreeze --freeze "$dir" && echo done || echo failed ;;
    thaw) fsfreeze --unfreeze "$dir" && echo done || echo failed ;;
    esac
done
fsfreeze --unfreeze "$2" 2> /dev/null
fsfreeze --unfreeze "$3" 2> /dev/null
for _ in $(seq 300); do
    umount "$3" 2> /dev/null && umount "$2" && exit 0
    sleep 0.1
done
umount --lazy "$3"
umount --lazy "$2"
exit 1
"#;

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Calls that write.
    Calls,
    /// The block device.
    Device,
}

/// The file system; thawed, unmounted and its loop device gone when it is dropped.
#[derive(Debug)]
pub(super) struct Freezable {
    lower: PathBuf,
    dir: PathBuf,
    keeper: Child,
    pipes: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
}

impl Freezable {
    /// Makes it, in a mount namespace that this process and what it starts from now on are in.
    ///
    /// # Errors
    /// [`Skip`] when not root, or when this kernel has no loop devices; when it cannot be made.
    pub(super) fn make(context: &Context) -> Result<Self> {
        need_root()?;
        if !Path::new("/dev/loop-control").exists() {
            return Err(Skip("there is no loop device".to_owned()).into());
        }
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("a private mount")?;
        let file = context.sparse_file("storage.ext4", LOWER_BYTES)?;
        let lower = context.dir().join("lower");
        let dir = context.dir().join("storage");
        std::fs::create_dir(&lower)?;
        std::fs::create_dir(&dir)?;
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&file, &lower, &dir])
            .arg(UPPER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("sh")?;
        let input = keeper.stdin.take().context("no standard input")?;
        let output = keeper.stdout.take().context("no standard output")?;
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "mounted\n", "cannot mount {}", file.display());
        Ok(Self {
            lower,
            dir,
            keeper,
            pipes: Mutex::new(Some((input, output))),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets every write wait that begins from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn freeze(&self, level: Level) -> Result<()> {
        self.tell("freeze", level)
    }

    /// Goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn thaw(&self, level: Level) -> Result<()> {
        self.tell("thaw", level)
    }

    fn tell(&self, word: &str, level: Level) -> Result<()> {
        let dir = match level {
            Level::Calls => &self.dir,
            Level::Device => &self.lower,
        };
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, output) = pipes.as_mut().context("it is gone")?;
        writeln!(input, "{word} {}", dir.display())?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "done\n", "cannot {word} {}", dir.display());
        Ok(())
    }

    /// Thaws and unmounts it.
    ///
    /// # Errors
    /// When something in it is still in use.
    pub(super) fn end(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        drop(
            self.pipes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let status = self.keeper.wait()?;
        ensure!(status.success(), "the storage is still in use: {status}");
        Ok(())
    }
}

impl Drop for Freezable {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}
