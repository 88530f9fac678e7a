// SPDX-License-Identifier: Apache-2.0
//! NICs on taps that whoever starts the VM has opened: frames go through them, also after their
//! backends were killed and replaced, and they stay as they were. Those that cannot be used are
//! refused.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use host::tap;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use super::Case;
use super::bad_input::{ERROR, complains};
use super::net_launch::run;
use crate::context::Context;
use crate::exchange::Exchange;
use crate::exchange::wires::{Frames, MAC, TAP};
use crate::harness::Harness;
use crate::network::{enter_empty, ip};
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

/// For how long frames are exchanged with each backend.
const SERVICE: Duration = Duration::from_millis(300);
/// How often the backend is killed.
const KILLS: u32 = 3;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("net_inherited_tap_is_kept_over_killed_backends", kept),
        Case::native("net_inherited_tap_is_left_as_it_was", left_alone),
        Case::native(
            "net_inherited_descriptors_that_are_no_tap_are_refused",
            refused,
        ),
        Case::native("net_inherited_tap_of_a_running_vm_is_refused", busy),
    ]
}

/// The same descriptor, for what is started from now on.
fn inheritable(fd: &impl std::os::fd::AsFd) -> Result<OwnedFd> {
    let copy = fd.as_fd().try_clone_to_owned()?;
    fcntl(&copy, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(copy)
}

fn kept(context: &Context) -> Result<()> {
    enter_empty()?;
    let mut queues = tap::open(TAP, 1)?;
    let ours = queues.pop().context("a tap has a queue")?;
    let inherited = inheritable(&ours)?;
    ip(&format!("link set {TAP} up"))?;
    let net = format!("fd={},mac={MAC}", inherited.as_raw_fd());
    let mut harness = Harness::start_with(context, "given", 0, |_| Ok(("--net", net)))?;
    drop(inherited);

    let exchange = Exchange::start(Frames::new()?);
    for _ in 0..KILLS {
        std::thread::sleep(SERVICE);
        let (killed, _) = harness.signal(Signal::SIGKILL)?;
        harness.backend_after(killed)?;
    }
    std::thread::sleep(SERVICE);
    let (seen, _) = exchange.finish()?;
    println!("{seen:?}");
    harness.stop()?;

    let shown = run("ip", &format!("-o link show dev {TAP}"))?;
    ensure!(shown.contains(",UP"), "it is {shown}");
    drop(ours);
    let gone = run("ip", &format!("-o link show dev {TAP}"));
    ensure!(gone.is_err(), "something still has it open: {gone:?}");
    seen.explained_by(KILLS.into())
}

fn spinning(context: &Context, name: &str, net: &str) -> Result<Vm> {
    let kernel = NoOsKernel::new().say("spinning\n").spin();
    let builder = context.vm(name).boots_no_os(&kernel);
    let mut vm = builder.arg("--net", net).start()?;
    vm.wait_for("spinning", PATIENCE)?;
    Ok(vm)
}

fn stop(context: &Context, mut vm: Vm) -> Result<()> {
    context.run_ok(&["stop", "--force", vm.name()])?;
    vm.wait_exit(PATIENCE).map(drop)
}

/// A tap that is down, with two queues, on a bridge, with an MTU of its own.
fn left_alone(context: &Context) -> Result<()> {
    enter_empty()?;
    let queues = tap::open("theirs", 2)?;
    ip("link add br0 type bridge")?;
    ip("link set theirs master br0 mtu 1400")?;
    let show = || run("ip", "-o link show dev theirs");
    let before = show()?;
    let copies: Vec<_> = queues.iter().map(inheritable).collect::<Result<_>>()?;
    let fds = copies.iter().map(|fd| format!("fd={}", fd.as_raw_fd()));
    let net = fds.collect::<Vec<_>>().join(",");
    let vm = spinning(context, "given", &net)?;
    let while_it_runs = show()?;
    stop(context, vm)?;
    let after = show()?;

    ensure!(before == while_it_runs, "changed: {before}{while_it_runs}");
    ensure!(before == after, "changed: {before}{after}");
    ensure!(
        before.contains("mtu 1400") && !before.contains(",UP"),
        "{before}"
    );
    Ok(())
}

/// A queue of a new tap or tun with these flags alone.
#[allow(unsafe_code)] // nobody wraps it
fn attached(name: &str, flags: libc::c_int) -> Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut field = [0; libc::IFNAMSIZ];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let request = libc::ifreq {
        ifr_name: field,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: flags.try_into()?,
        },
    };
    // SAFETY: `request` is initialised and outlives the call.
    let set = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
    ensure!(set == 0, "{name}: {}", std::io::Error::last_os_error());
    inheritable(&device)
}

/// `fd=N` for each number.
fn of(fds: &[&OwnedFd]) -> String {
    let all = fds.iter().map(|fd| format!("fd={}", fd.as_raw_fd()));
    all.collect::<Vec<_>>().join(",")
}

/// The queues of a new tap, for what is started from now on.
fn queues(name: &str, count: u16) -> Result<Vec<OwnedFd>> {
    let queues = tap::open(name, count)?;
    queues.iter().map(inheritable).collect()
}

/// A VM with these cards is refused in one line that says all this.
fn refuse(context: &Context, nets: &[String], words: &[&str]) -> Result<()> {
    let kernel = NoOsKernel::new().spin();
    let builder = context.vm("bad").boots_no_os(&kernel);
    let builder = nets
        .iter()
        .fold(builder, |builder, net| builder.arg("--net", net));
    complains(&mut builder.command()?, ERROR, words)
}

fn refused(context: &Context) -> Result<()> {
    enter_empty()?;
    let tun = attached("tun", libc::IFF_TUN | libc::IFF_NO_PI)?;
    let bare = attached("bare", libc::IFF_TAP | libc::IFF_NO_PI)?;
    let prefixed = attached("prefixed", libc::IFF_TAP | libc::IFF_VNET_HDR)?;
    let file = inheritable(&File::open("/dev/null")?)?;
    let device = File::options().read(true).write(true).open("/dev/net/tun");
    let unattached = inheritable(&device?)?;
    let (single, other) = (queues("single", 1)?, queues("other", 1)?);
    let (multi, more) = (queues("multi", 2)?, queues("more", 2)?);
    let no_tap = "is no queue of a tap";
    for (net, words) in [
        ("fd=999".to_owned(), "start bulkhead with it open"),
        ("fd=1".to_owned(), "3 or more"),
        (of(&[&file]), no_tap),
        (of(&[&unattached]), no_tap),
        (
            of(&[&tun]),
            "without IFF_TAP and IFF_VNET_HDR: attach it with",
        ),
        (of(&[&bare]), "without IFF_VNET_HDR: attach it with"),
        (of(&[&prefixed]), "without IFF_NO_PI: attach it with"),
        (of(&[&single[0], &other[0]]), "IFF_MULTI_QUEUE"),
        (
            of(&[&multi[0], &more[0]]),
            "is a queue of more, and the first one of multi",
        ),
        (of(&[&single[0], &single[0]]), "is given twice"),
    ] {
        refuse(context, &[net], &["net.fd", words])?;
    }
    let bridged = format!("{},bridge=br0", of(&[&single[0]]));
    refuse(
        context,
        &[bridged],
        &["net.bridge", "\"br0\"", "not for fd"],
    )?;
    let two = [of(&[&multi[0]]), of(&[&multi[1]])];
    let words = ["net.fd", "\"multi\"", "in use by another VM or card"];
    refuse(context, &two, &words)
}

fn busy(context: &Context) -> Result<()> {
    enter_empty()?;
    let queue = inheritable(tap::open("theirs", 1)?.first().context("a queue")?)?;
    let net = format!("fd={}", queue.as_raw_fd());
    let vm = spinning(context, "first", &net)?;
    let kernel = NoOsKernel::new().spin();
    let builder = context.vm("second").boots_no_os(&kernel).arg("--net", &net);
    let words = ["net.fd", "\"theirs\"", "in use by another VM"];
    let second = complains(&mut builder.command()?, ERROR, &words);
    stop(context, vm)?;
    second?;
    stop(context, spinning(context, "third", &net)?)
}
