// SPDX-License-Identifier: Apache-2.0
//! A network for one case: a namespace with a bridge, and on it what guests expect to find.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::context::{Context, need_root};
use crate::vm::Vm;

/// The bridge.
pub const BRIDGE: &str = "br0";
/// The host's addresses on it.
pub const HOST: &str = "10.77.0.1";
/// The same for IPv6.
pub const HOST_V6: &str = "fd77::1";
/// The MTU of the bridge, for NICs that have as long ones.
pub const MTU: u16 = 9000;

/// The network, for as long as its case.
#[derive(Debug)]
pub struct Network {
    programs: Vec<Child>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl Network {
    /// Moves this process, and what it starts, to a network of its own: a bridge with a DHCP server,
    /// router advertisements, and a web server that serves `files`.
    ///
    /// # Errors
    /// When a part of it cannot be made; [`crate::context::Skip`] when not root.
    pub fn make(context: &Context, files: &Path) -> Result<Self> {
        enter_empty()?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("link set {BRIDGE} address 02:77:00:00:00:01 up"))?;
        ip(&format!("link set {BRIDGE} mtu {MTU}"))?;
        ip(&format!("address add {HOST}/24 dev {BRIDGE}"))?;
        ip(&format!("address add {HOST_V6}/64 dev {BRIDGE} nodad"))?;
        let mut network = Self {
            programs: Vec::new(),
        };
        let leases = context.file("leases", b"")?;
        network.start(Command::new("dnsmasq").args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file",
            "--port=0",
            "--dhcp-range=10.77.0.10,10.77.0.99,5m",
            "--dhcp-range=fd77::,ra-only,64",
            "--enable-ra",
            &format!("--interface={BRIDGE}"),
            &format!("--dhcp-leasefile={}", leases.display()),
        ]))?;
        network.start(
            Command::new("busybox")
                .args(["httpd", "-f", "-p", "80", "-h"])
                .arg(files),
        )?;
        Ok(network)
    }

    /// Starts a program that ends with the network.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        self.programs
            .push(child.with_context(|| format!("cannot start {}", name.display()))?);
        Ok(())
    }
}

/// Leaves for a network namespace with nothing in it, from which all that is started here follows.
///
/// # Errors
/// When there is none to be had; [`crate::context::Skip`] when not root.
pub fn enter_empty() -> Result<()> {
    need_root()?;
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    ip("link set lo up")
}

/// The names of all interfaces of the network that this thread is in.
///
/// # Errors
/// When the kernel does not tell.
pub fn interfaces() -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let named = table.lines().filter_map(|line| line.split_once(':'));
    Ok(named.map(|(name, _)| name.trim().to_owned()).collect())
}

/// Runs `ip` with these words.
///
/// # Errors
/// When it fails.
pub fn ip(words: &str) -> Result<()> {
    let status = Command::new("ip").args(words.split(' ')).status();
    let status = status.context("cannot start ip")?;
    ensure!(status.success(), "ip {words}: {status}");
    Ok(())
}

/// The guest's address, once a server has given it one.
///
/// # Errors
/// When nobody does.
pub fn address(vm: &mut Vm) -> Result<String> {
    vm.sh(
        "for i in $(seq 100); do a=$(ip -4 -o addr show dev eth0 scope global 2> /dev/null | \
         awk '{print $4}'); [ -n \"$a\" ] && break; sleep 0.2; done; echo ${a%/*}; [ -n \"$a\" ]",
    )
}

/// Runs a command in a guest by SSH, with the password of its root.
///
/// # Errors
/// When it fails.
pub fn ssh(address: &str, command: &str) -> Result<String> {
    let output = Command::new("dbclient")
        .args(["-y", "-y", "-l", "root", address, command])
        .env("DROPBEAR_PASSWORD", "bulkhead")
        .env("HOME", "/tmp")
        .stdin(Stdio::null())
        .output()
        .context("cannot start dbclient")?;
    ensure!(
        output.status.success(),
        "ssh: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A file of noise to be fetched, and its checksum as `sha256sum` says it.
///
/// # Errors
/// When it cannot be made.
pub fn noise(path: &Path, mib: usize) -> Result<String> {
    let mut file = std::fs::File::create(path).context("a file of noise")?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib {
        let mut chunk = Vec::with_capacity(1 << 20);
        while chunk.len() < 1 << 20 {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.extend(state.to_le_bytes());
        }
        file.write_all(&chunk)?;
    }
    drop(file);
    let output = Command::new("sha256sum").arg(path).output()?;
    let text = String::from_utf8(output.stdout)?;
    let sum = text.split_whitespace().next().context("no checksum")?;
    Ok(sum.to_owned())
}
