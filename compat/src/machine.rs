// SPDX-License-Identifier: Apache-2.0
//! A VM as the dialect sees it: none, one that is created (a document), one that runs (a jailer).

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use serde::Serialize;
use serde_json::{Value, json};
use spec::api::{EventKind, Reboot, Stats, Stop, VmInfo, VmState};
use spec::{Console, VmName};

use crate::VERSION;
use crate::document;
use crate::endpoints::Action;
use crate::fault::Fault;
use crate::fields;
use crate::follower::Follower;
use crate::http::Answer;
use crate::jailer::Jailer;
use crate::monitor::Monitor;
use crate::native::Native;
use crate::translate::{TapFds, translate};

mod counters;
mod taps;

/// How long a guest may take to power off when libvirt asks for a reboot, in seconds; then it is reset.
const REBOOT_TIMEOUT: u32 = 60;

/// How the program was started.
#[derive(Debug, Clone)]
pub struct Manner {
    /// What the VM is called, also by `bulkhead ps`.
    pub name: VmName,
    /// libvirt has started us: `vm.shutdown` and `vm.reboot` ask the guest, because `virsh shutdown` and
    /// `virsh reboot` mean that. For other clients they are what they are in Cloud Hypervisor: at once.
    pub asks_guest: bool,
    /// The process stays when the guest powers off.
    pub stays: bool,
}

/// A VM, and who is told what happens to it.
#[derive(Debug)]
pub struct Machine {
    manner: Manner,
    monitor: Monitor,
    config: Option<Config>,
    running: Option<Running>,
    exit: Option<u8>,
}

/// A VM that was created.
#[derive(Debug)]
struct Config {
    document: Value,
    /// The queues of its cards, which stay open for as long as the document does: the VM may be booted
    /// again.
    taps: BTreeMap<usize, Vec<OwnedFd>>,
}

impl Config {
    fn numbers(&self) -> TapFds {
        let numbers = |queues: &Vec<OwnedFd>| queues.iter().map(AsRawFd::as_raw_fd).collect();
        let all = self.taps.iter();
        all.map(|(card, queues)| (*card, numbers(queues))).collect()
    }
}

#[derive(Debug)]
struct Running {
    jailer: Jailer,
    native: Native,
    follower: Option<Follower>,
}

impl Machine {
    /// No VM yet.
    pub fn new(manner: Manner, mut monitor: Monitor) -> Self {
        monitor.tell("vmm", "starting");
        Self {
            manner,
            monitor,
            config: None,
            running: None,
            exit: None,
        }
    }

    /// The status that the process is to exit with, once it is to exit.
    pub fn exit(&self) -> Option<u8> {
        self.exit
    }

    /// The events of the VM that runs.
    pub fn follower(&self) -> Option<&Follower> {
        let follower = self.running.as_ref()?.follower.as_ref()?;
        (!follower.is_over()).then_some(follower)
    }

    /// Does what a client asks for.
    pub fn serve(&mut self, action: Action, body: &[u8], descriptors: Vec<OwnedFd>) -> Answer {
        let served = match action {
            Action::Ping => Ok(Answer::Json(ping())),
            Action::Exit => self.stop(0),
            Action::Create => document::read(body).and_then(|document| self.create(document)),
            Action::Delete => self.delete(),
            Action::Boot => self.boot(),
            Action::Info => self.info(),
            Action::Counters => self.counters(),
            Action::Pause => self.switch("pausing", "/v1/vm/pause"),
            Action::Resume => self.switch("resuming", "/v1/vm/resume"),
            Action::PowerButton => self.press(),
            Action::Shutdown if self.manner.asks_guest => self.press(),
            Action::Shutdown => self.shutdown(),
            Action::Reboot => self.reboot(),
            Action::AddNet => self.add_net(body, descriptors),
        };
        served.unwrap_or_else(Answer::Refused)
    }

    /// `vm.create`.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn create(&mut self, mut document: Value) -> Result<Answer, Fault> {
        if self.config.is_some() {
            return Err(Fault::wrong_state(
                "VM is already created: send vm.delete first",
            ));
        }
        document::complete(&mut document)?;
        fields::check(&document)?;
        let config = Config {
            document,
            taps: BTreeMap::new(),
        };
        translate(&config.document, &self.manner.name, &config.numbers())?;
        self.config = Some(config);
        Ok(Answer::Done)
    }

    /// `vm.boot`.
    ///
    /// # Errors
    /// When there is no document, or the VM does not start.
    pub fn boot(&mut self) -> Result<Answer, Fault> {
        let config = self.config.as_ref().ok_or_else(Fault::no_vm)?;
        if self.running.is_some() {
            return Err(Fault::wrong_state("VM is already running"));
        }
        let spec = translate(&config.document, &self.manner.name, &config.numbers())?;
        self.monitor.tell("vm", "booting");
        let console = (spec.console == Console::Stdio).then(crate::terminal::connect);
        let console = console.transpose().map_err(|error| Fault::of(&error))?;
        let started = Jailer::start(&spec, &self.manner.name, &config.taps, console.as_ref());
        let jailer = started.map_err(|error| Fault {
            status: 500,
            chain: [vec!["VM does not boot".into()], Fault::of(&error).chain].concat(),
        })?;
        let native = Native::new(&jailer.dir());
        // A guest may have ended by now: its jailer's end is noticed, whether there are events or not.
        let follower = native.events().ok().map(Follower::new);
        self.running = Some(Running {
            jailer,
            native,
            follower,
        });
        Ok(Answer::Done)
    }

    fn info(&self) -> Result<Answer, Fault> {
        let mut config = self
            .config
            .as_ref()
            .ok_or_else(Fault::no_vm)?
            .document
            .clone();
        let mut state = "Created";
        if let Some(running) = &self.running {
            let info = running.native.get::<VmInfo>("/v1/vm");
            let info = info.map_err(|error| Fault::of(&error))?;
            state = match info.state {
                VmState::Paused => "Paused",
                VmState::Starting | VmState::Running | VmState::Stopping => "Running",
            };
            if let Some(pty) = info.pty {
                for port in ["serial", "console"] {
                    if config[port]["mode"] == "Pty" {
                        config[port]["file"] = json!(pty);
                    }
                }
            }
        }
        let size = config["memory"]["size"].clone();
        let info = json!({"config": config, "state": state, "memory_actual_size": size});
        Ok(Answer::Json(info))
    }

    fn counters(&self) -> Result<Answer, Fault> {
        let document = &self.config.as_ref().ok_or_else(Fault::no_vm)?.document;
        let stats = self.running()?.native.get::<Stats>("/v1/stats");
        let stats = stats.map_err(|error| Fault::of(&error))?;
        Ok(Answer::Json(counters::of(document, &stats)))
    }

    fn running(&self) -> Result<&Running, Fault> {
        match (&self.running, &self.config) {
            (Some(running), _) => Ok(running),
            (None, Some(_)) => Err(Fault::wrong_state("VM is not running")),
            (None, None) => Err(Fault::no_vm()),
        }
    }

    /// Has the vCPUs stop or go on. The event that they have done so comes from the VM.
    fn switch(&mut self, event: &str, target: &str) -> Result<Answer, Fault> {
        let answer = self.order(target, None::<&Value>)?;
        self.monitor.tell("vm", event);
        Ok(answer)
    }

    fn order(&self, target: &str, body: Option<&impl Serialize>) -> Result<Answer, Fault> {
        let done = self.running()?.native.put(target, body);
        done.map_err(|error| Fault::of(&error))?;
        Ok(Answer::Done)
    }

    fn press(&self) -> Result<Answer, Fault> {
        self.order("/v1/vm/stop", Some(&Stop::default()))
    }

    fn reboot(&self) -> Result<Answer, Fault> {
        let asks = self.manner.asks_guest;
        let body = Reboot {
            force: !asks,
            stop_timeout: asks.then_some(REBOOT_TIMEOUT),
        };
        self.order("/v1/vm/reboot", Some(&body))
    }

    fn shutdown(&mut self) -> Result<Answer, Fault> {
        self.running()?;
        self.end();
        Ok(Answer::Done)
    }

    fn delete(&mut self) -> Result<Answer, Fault> {
        self.end();
        if self.config.take().is_some() {
            self.monitor.tell("vm", "deleted");
        }
        Ok(Answer::Done)
    }

    fn add_net(&mut self, body: &[u8], descriptors: Vec<OwnedFd>) -> Result<Answer, Fault> {
        let config = self.config.as_mut().ok_or_else(Fault::no_vm)?;
        if self.running.is_some() {
            let reason = "vm.add-net is not supported while the VM runs: send it before vm.boot";
            return Err(Fault::bad(reason));
        }
        let net = document::read(body)?;
        fields::check(&json!({"net": [net]}))?;
        taps::check(&net, &descriptors)?;
        let mut document = config.document.clone();
        document::add_net(&mut document, net)?;
        let at = document["net"].as_array().map_or(0, |nets| nets.len() - 1);
        let mut numbers = config.numbers();
        if !descriptors.is_empty() {
            numbers.insert(at, descriptors.iter().map(AsRawFd::as_raw_fd).collect());
        }
        translate(&document, &self.manner.name, &numbers)?;
        config.document = document;
        if !descriptors.is_empty() {
            config.taps.insert(at, descriptors);
        }
        Ok(Answer::Done)
    }

    /// Ends a VM that runs, at once.
    fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.jailer.end();
            self.monitor.tell("vm", "shutdown");
        }
    }

    /// Ends everything: the process is to exit with this status.
    ///
    /// # Errors
    /// None.
    pub fn stop(&mut self, status: u8) -> Result<Answer, Fault> {
        self.delete()?;
        self.monitor.tell("vmm", "shutdown");
        self.exit = Some(status);
        Ok(Answer::Done)
    }

    /// Passes on what has happened to the VM.
    pub fn follow(&mut self) {
        let running = self.running.as_mut();
        let Some(follower) = running.and_then(|running| running.follower.as_mut()) else {
            return;
        };
        for kind in follower.read() {
            let events: &[&str] = match kind {
                EventKind::Started => &["booted"],
                EventKind::Paused => &["paused"],
                EventKind::Resumed => &["resumed"],
                EventKind::Rebooted => &["rebooting", "rebooted"],
                _ => &[],
            };
            for event in events {
                self.monitor.tell("vm", event);
            }
        }
    }

    /// A child has ended: if it is the VM, so does the process, unless it is to stay.
    pub fn reap(&mut self) {
        self.follow();
        let Some(running) = &mut self.running else {
            return;
        };
        if let Ok(Some(status)) = running.jailer.has_ended() {
            self.running = None;
            self.monitor.tell("vm", "shutdown");
            if !self.manner.stays {
                let status = u8::from(!status.success());
                let _ = self.stop(status);
            }
        }
    }
}

fn ping() -> Value {
    json!({
        "build_version": VERSION,
        "version": VERSION.trim_start_matches('v'),
        "pid": std::process::id(),
        "features": ["kvm", "io_uring"],
    })
}

#[cfg(test)]
#[path = "machine/tests.rs"]
mod tests;
