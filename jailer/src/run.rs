// SPDX-License-Identifier: Apache-2.0
//! One VM from start to end, as the privileged process sees it.
//!
//! It reads the spec, opens everything the VM may use and reports all errors before it starts
//! anything, takes the state directory, spawns the supervisor with all of that, waits for it to
//! end, and cleans up. Single-threaded, and the only process that sees the host.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use handover::host_resources::{ConsoleKind, DeviceParts, HostResources, Identity, Log};
use handover::outcome::{Outcome, say};
use handover::supervisor_init::SupervisorInit;
use host::clock::monotonic_ns;
use ipc::broker::Status;
use ipc::control::Channel;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, geteuid};
use spec::{Console, SpecError, UidRange, Vm, VmName, VmSpec};

use crate::args::Args;
use crate::host::Host;
use crate::inherited::Inherited;
use crate::{
    cgroups, config, console_socket, ended, notify, opening, signals, spawn, starter, state, uids,
};

use crate::cgroups::Cgroups;
use crate::cgroups::Drive;
use crate::console_socket::ConsoleSocket;
use crate::deferred::{Deferred, Unplaced};
use crate::errands::Errands;
use crate::monitor::{Answers, Monitor};
use crate::opening::Ended;
use crate::passt::Passts;
use crate::rate_limit::RateLimit;
use crate::resources::Resources;
use crate::state::StateDir;
use crate::tap_setup::TapSetup;

/// What the user is told when the jailer is not root.
pub(crate) const ROOTLESS: &str =
    "not started by root: the VM's processes are all one user, the one that started it";

/// Runs one VM; `main` is the supervisor's entry point. An `Err` is what was refused before
/// anything was started.
pub(crate) fn run(
    args: &Args,
    inherited: Inherited,
    host: &Host,
    main: impl FnOnce(SupervisorInit, Pid) -> Infallible,
) -> Result<Outcome, Outcome> {
    let started_ns = monotonic_ns();
    let signals = signals::take_over().map_err(refused)?;
    starter::part_with().map_err(refused)?;
    let spec = config::read(&args.config).map_err(refused)?;
    let vm = validate(&spec, inherited.config.is_some())?;
    drop(inherited.config);
    let name = name(&vm)?;
    let client = inherited.console.map(console_client).transpose();
    let client = client.map_err(refused)?;
    let resources = Resources::open(&vm, host, inherited.taps, &signals)?;
    let claim = claim_users(&vm);
    let state = state_dir(args, &name);
    let (mut resources, claim, state) = match (resources, claim, state) {
        (Ok(resources), Ok(claim), Ok(state)) => (resources, claim, state),
        (resources, claim, state) => {
            let mut errors = resources.err().unwrap_or_default();
            errors.extend(claim.err());
            errors.extend(state.err());
            return Err(Outcome::new(Status::Error, errors));
        }
    };
    notice(&state, &name);
    let range = claim.as_ref().map(|claim| claim.range);
    let log = state.open_log().map_err(refused)?;
    let passts = Passts::new(&vm, host.passt.clone(), range, &log).map_err(refused)?;
    let taps = std::mem::take(&mut resources.devices.taps);
    let set_up = state
        .undo_log()
        .and_then(|d| TapSetup::set_up(&vm, taps, d));
    let (tap_setup, taps) = set_up.map_err(refused)?;
    let streams = passts.start_all().map_err(refused)?;
    let identity = Identity {
        spec: VmSpec {
            name: Some(name.as_str().to_string()),
            ..spec
        },
        name: name.clone(),
        vm,
        started_ns,
    };
    let (witnesses, images, drives) = opening::part(std::mem::take(&mut resources.devices.images));
    let (cgroups, missing) = make_cgroups(&identity, &state, &drives)?;
    let (mut resources, console_socket) = gather(identity, resources, log, &state, client)?;
    resources.devices.images = images;
    resources.devices.taps = taps;
    resources.devices.streams.splice(0..0, streams);
    resources.missing = missing;
    if range.is_none() {
        resources.missing.push(ROOTLESS.into());
    }
    ended::forget(&state.base(), &name);
    let answers = Answers::new(&resources.identity.vm, witnesses, passts);
    let monitor = begin(resources, signals, range, cgroups, answers, main)?;
    // Other processes of the same user must not inspect a process that sees the host.
    let _ = nix::sys::prctl::set_dumpable(false);
    let outcome = monitor.keep();
    // The `down` scripts run while the taps still exist; the state directory goes last.
    drop(tap_setup);
    drop(console_socket);
    ended::keep(&state.base(), &name, &outcome, started_ns);
    drop((claim, state));
    Ok(outcome)
}

/// Validates the VM: the only place where one that is to run is validated. One that came as a
/// descriptor is what the flags of a command say. What it does not place runs where the jailer may.
fn validate(spec: &VmSpec, is_of_flags: bool) -> Result<Vm, Outcome> {
    let status = match is_of_flags {
        true => Status::Usage,
        false => Status::Error,
    };
    let mut vm = Vm::try_from(spec.clone()).map_err(|error| Outcome::new(status, [error]))?;
    if !vm.affinity.is_empty() {
        let all = host::affinity::current().map_err(refused)?;
        vm.affinity.fall_back_to(all);
    }
    Ok(vm)
}

/// Takes the VM's state directory, and opens it to the group that may use its sockets.
fn state_dir(args: &Args, name: &VmName) -> Result<StateDir, SpecError> {
    let base = state::base_dir(args.state_dir.as_deref())?;
    let mut state = StateDir::acquire(&base, name)?;
    if let Some(gid) = args.api_gid {
        state.open_to(gid, args.state_dir.is_none())?;
    }
    Ok(state)
}

/// Claims users for the VM alone, if the jailer is root.
pub(crate) fn claim_users(vm: &Vm) -> Result<Option<uids::Claim>, SpecError> {
    match (geteuid().is_root(), vm.uid_range) {
        (true, _) => {
            // All of root's VMs share one lock file, wherever their state is.
            let dir = spec::state::base(None, true, None)?;
            uids::claim(vm, &dir).map(Some)
        }
        (false, Some(range)) => {
            let reason = "only root can give a VM users: leave it out";
            Err(SpecError::new("uid-range", range, reason))
        }
        (false, None) => Ok(None),
    }
}

/// Spawns the supervisor, which takes the resources with it.
fn begin(
    resources: HostResources,
    signals: SignalFd,
    range: Option<UidRange>,
    cgroups: Cgroups,
    answers: Answers,
    main: impl FnOnce(SupervisorInit, Pid) -> Infallible,
) -> Result<Monitor, Outcome> {
    let notify = notify::connect(std::env::var_os("NOTIFY_SOCKET"));
    let (channel, its_channel) = Channel::pair().map_err(refused)?;
    for end in [&channel, &its_channel] {
        fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(refused)?;
    }
    let init = SupervisorInit {
        resources,
        channel: its_channel,
        has_range: range.is_some(),
        jailer: Pid::this(),
    };
    let log = init.resources.log.writer.try_clone().map_err(refused)?;
    let name = init.resources.identity.name.to_string();
    let format = init.resources.identity.vm.log_format.into();
    let spawned = spawn::spawn_supervisor(range, cgroups.initial_cgroup(), |pid| main(init, pid))
        .map_err(refused)?;
    host::log::init_to(log, "jailer", &name, format);
    // A variable that is left over in the environment is no reason not to run the VM.
    let notify = notify.unwrap_or_else(|error| {
        log::warn!("the start is not announced: {}", host::log::chain(&error));
        None
    });
    let supervisor = spawned.pidfd.try_clone().map(|pidfd| Unplaced {
        user: 0,
        pid: spawned.pid.as_raw(),
        pidfd,
    });
    Ok(Monitor {
        spawned,
        channel,
        signals,
        answers,
        cgroups,
        deferred: Deferred::new(supervisor.ok()),
        errands: Errands::default(),
        rate_limit: RateLimit::full(monotonic_ns()),
        notify,
    })
}

/// Removes what is left of a VM whose jailer was killed, and says so.
pub(crate) fn sweep(name: &VmName, state_dir: Option<&Path>) -> Result<Outcome, Outcome> {
    let base = state::base_dir(state_dir).map_err(refused)?;
    let state = StateDir::acquire(&base, name).map_err(refused)?;
    notice(&state, name);
    if state.swept() {
        ended::keep_lost(&state.base(), name);
    }
    cgroups::sweep_forgotten();
    Ok(Outcome::ok())
}

/// This host's control groups, and those it lacks.
pub(crate) fn cgroup_hierarchies() -> (Vec<String>, Vec<String>) {
    cgroups::describe()
}

/// Which versions of control groups this host has.
pub(crate) fn cgroup_versions() -> Result<String, String> {
    cgroups::versions()
}

/// Tells the user what was swept, if anything was.
fn notice(state: &StateDir, name: &VmName) {
    if state.swept() {
        let (name, path) = (name.as_str(), state.path().display());
        say(&format!("name {name:?}: swept {path}, left by a dead VM"));
    }
}

/// Makes the files of the state directory, and assembles what the supervisor gets.
fn gather(
    identity: Identity,
    resources: Resources,
    log: Log,
    state: &StateDir,
    client: Option<UnixStream>,
) -> Result<(HostResources, Option<ConsoleSocket>), Outcome> {
    state.write_spec(&identity.spec).map_err(refused)?;
    let mut socket = None;
    let console = match (resources.console, &identity.vm.console) {
        (Some(kind), _) => {
            if let ConsoleKind::Pty { path, .. } = &kind {
                say(&format!("console \"pty\": is {path}"));
            }
            kind
        }
        (None, Console::Stdio | Console::Socket) => ConsoleKind::Socket {
            listener: state.listen(spec::state::CONSOLE_SOCKET).map_err(refused)?,
            client,
            path: state.path().join(spec::state::CONSOLE_SOCKET),
        },
        (None, Console::SocketAt(path)) => {
            let path = console_socket::absolute(path).map_err(refused)?;
            let record = state.console_record().map_err(refused)?;
            let listening = console_socket::listen(&path, state.group(), record);
            let (listener, made) = listening.map_err(refused)?;
            socket = Some(made);
            ConsoleKind::Socket {
                listener,
                client,
                path,
            }
        }
        (None, _) => {
            let null = resources.binaries.null.try_clone();
            ConsoleKind::Fixed(null.map_err(refused)?)
        }
    };
    let resources = HostResources {
        api: state.listen(spec::state::API_SOCKET).map_err(refused)?,
        missing: Vec::new(),
        binaries: resources.binaries,
        guest: resources.guest,
        devices: DeviceParts {
            images: Vec::new(),
            taps: Vec::new(),
            streams: resources.devices.streams,
        },
        console,
        log,
        identity,
    };
    Ok((resources, socket))
}

/// Makes the VM's control groups after their paths are recorded, and returns what this host lacks.
fn make_cgroups(
    identity: &Identity,
    state: &StateDir,
    drives: &[Drive],
) -> Result<(Cgroups, Vec<String>), Outcome> {
    let name = identity.name.as_str();
    let planned = Cgroups::plan(&identity.vm, name, Pid::this());
    let (mut cgroups, mut missing) = planned.map_err(refused)?;
    state.write_cgroups(cgroups.dirs()).map_err(refused)?;
    missing.extend(cgroups.make().map_err(refused)?);
    cgroups.limit(&identity.vm, drives).map_err(refused)?;
    Ok((cgroups, missing))
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Asked { signal, line } => {
                // As for a VM that runs: SIGTERM and SIGINT ask, the others end it.
                let ends = [libc::SIGHUP, libc::SIGQUIT].contains(&signal);
                let number = u8::try_from(signal).unwrap_or(0);
                let status = if ends {
                    Status::Signal(number)
                } else {
                    Status::Ok
                };
                Self::new(status, line)
            }
            Ended::Helper(error) => refused(error),
            Ended::Died => {
                let line = "the process that opens what the VM needs has died";
                Self::new(Status::Error, [line])
            }
        }
    }
}

fn refused<E: std::error::Error>(error: E) -> Outcome {
    Outcome::new(Status::Error, [host::log::chain(&error)])
}

/// The VM's name: the spec's, or `vm-` and our process id.
fn name(vm: &Vm) -> Result<VmName, Outcome> {
    match &vm.name {
        Some(name) => Ok(name.clone()),
        None => {
            let name = format!("vm-{}", std::process::id());
            let parsed = name.parse();
            parsed.map_err(|reason: String| refused(SpecError::new("name", name, reason)))
        }
    }
}

/// The console's first client, which the jailer inherited.
fn console_client(fd: OwnedFd) -> Result<UnixStream, SpecError> {
    let stream = UnixStream::from(fd);
    let prepared = stream.set_nonblocking(true);
    let odd = |e: std::io::Error| SpecError::new("console-fd", stream.as_raw_fd(), e.to_string());
    prepared.map_err(odd)?;
    Ok(stream)
}
