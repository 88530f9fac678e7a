// SPDX-License-Identifier: Apache-2.0
//! What the worker threads and the protocol thread share: the NIC, its taps, the driver's settings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::sync::{Arc, Mutex};

use device_backend::lock;
use device_backend::memory::Memory;
use device_backend::shared_mem::SharedMem;
use host::tap;
use ipc::health::{Drops, HealthPage, QueueHealth};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use crate::config::{Nic, has};
use crate::ctrl_commands::{Command, CommandFault};
use crate::settings::Settings;
use crate::state::State;

/// What the threads share.
#[derive(Debug)]
pub struct Shared {
    /// The NIC.
    pub nic: Nic,
    /// The last ping; workers answer it in the health page.
    pub ping: AtomicU32,
    taps: Vec<OwnedFd>,
    health: &'static HealthPage,
    /// Guest memory.
    pub memory: Memory,
    driver_config: Mutex<DriverConfig>,
    settings_generation: AtomicU32,
}

/// What the settings are made from, and the settings.
#[derive(Debug)]
struct DriverConfig {
    features: u64,
    /// The driver's settings as they are stored.
    state: SharedMem,
    /// Whether that memory outlives the process.
    kept: bool,
    /// Whether this process serves the control queue, and not the frontend.
    control_running: bool,
    link_up: bool,
    settings: Arc<Settings>,
    /// Which pairs have a receive ring in service.
    running: Vec<bool>,
    /// Which of the tap's queues are in use; unknown at first.
    used: Vec<Option<bool>>,
}

impl Shared {
    /// A device without memory and features. `state` is the memory for the driver's settings, if it
    /// outlives the process.
    pub fn new(
        nic: Nic,
        taps: Vec<OwnedFd>,
        state: Option<SharedMem>,
        link_up: bool,
        health: &'static HealthPage,
    ) -> Arc<Self> {
        let kept = state.is_some();
        let state = state.unwrap_or_else(|| SharedMem::private(ipc::fd::net::STATE_BYTES));
        let settings = Settings::new(&nic, 0, &State::default(), link_up);
        let pairs = usize::from(nic.pairs);
        Arc::new(Self {
            nic,
            ping: AtomicU32::new(0),
            taps,
            health,
            memory: Memory::default(),
            driver_config: Mutex::new(DriverConfig {
                features: 0,
                state,
                kept,
                control_running: false,
                link_up,
                settings: Arc::new(settings),
                running: vec![false; pairs],
                used: vec![None; pairs],
            }),
            settings_generation: AtomicU32::new(0),
        })
    }

    /// The number of a worker's queue.
    pub fn queue_of(&self, pair: u16, slot: usize) -> u16 {
        match slot {
            0 => 2 * pair,
            1 => 2 * pair + 1,
            _ => 2 * self.nic.pairs,
        }
    }

    /// The tap's queue of a pair.
    pub fn tap(&self, pair: u16) -> BorrowedFd<'_> {
        // The tap has a queue for each pair, and each pair has a worker.
        self.taps[usize::from(pair) % self.taps.len()].as_fd()
    }

    /// The part of the health page that belongs to a queue; the control queue has none.
    pub fn health(&self, queue: u16) -> &QueueHealth {
        &self.health.queues[usize::from(queue) % ipc::health::QUEUES]
    }

    /// The counters of dropped frames and refused commands.
    pub fn drops(&self) -> &Drops {
        &self.health.drops
    }

    /// The present settings, and their generation.
    pub fn settings(&self) -> (u32, Arc<Settings>) {
        // Loaded first: a change in between causes one look too many, never one too few.
        let generation = self.settings_generation();
        (generation, lock(&self.driver_config).settings.clone())
    }

    /// The generation of the settings, which changes with them.
    pub fn settings_generation(&self) -> u32 {
        self.settings_generation.load(Acquire)
    }

    /// Sets the features that the driver acknowledged. It is a new driver, unless this is a new
    /// process.
    pub fn set_features(&self, features: u64) {
        self.change(|driver_config| {
            driver_config.features = features;
            if !driver_config.kept {
                State::clear(&driver_config.state);
            }
        });
        let (_, settings) = self.settings();
        for tap in &self.taps {
            note(tap::set_header_bytes(tap.as_fd(), settings.header_bytes));
        }
        self.set_offloads(&settings);
    }

    /// Sets the link up or down.
    pub fn set_link(&self, up: bool) {
        self.change(|driver_config| driver_config.link_up = up);
    }

    /// The control queue's service starts or ends. The stored settings may have been cleared
    /// meanwhile.
    pub fn set_control_running(&self, running: bool) {
        self.change(|driver_config| driver_config.control_running = running);
        if running {
            self.set_offloads(&self.settings().1);
        }
    }

    /// The service of a pair's receive ring starts or ends.
    pub fn set_pair_running(&self, pair: u16, running: bool) {
        self.change(|driver_config| {
            if let Some(known) = driver_config.running.get_mut(usize::from(pair)) {
                *known = running;
            }
        });
    }

    /// Carries out a command of the driver.
    pub fn obey(&self, command: Command) -> Result<(), CommandFault> {
        let features = lock(&self.driver_config).features;
        command.check(&self.nic, features)?;
        let offloads = matches!(command, Command::Offloads(_));
        self.change(|driver_config| {
            let mut state = State::load(&driver_config.state);
            command.apply(&mut state);
            state.store(&driver_config.state);
        });
        if offloads {
            self.set_offloads(&self.settings().1);
        }
        Ok(())
    }

    fn set_offloads(&self, settings: &Settings) {
        // The offloads belong to the whole tap, so any of its queues will do.
        if let Some(tap) = self.taps.first() {
            note(tap::set_offload(tap.as_fd(), settings.offloads));
        }
    }

    fn change(&self, change: impl FnOnce(&mut DriverConfig)) {
        let driver_config = &mut *lock(&self.driver_config);
        change(driver_config);
        let mut state = State::load(&driver_config.state);
        // A compromised process may have written this. Too many pairs do no harm; none at all
        // would.
        state.pairs = state.pairs.filter(|n| (1..=self.nic.pairs).contains(n));
        if self.nic.guard.mac {
            state.mac = None;
        }
        let mut settings = Settings::new(
            &self.nic,
            driver_config.features,
            &state,
            driver_config.link_up,
        );
        // An external frontend may serve the control queue itself, and enable the rings to be used.
        if !driver_config.control_running && !driver_config.kept {
            settings.pairs = None;
        }
        driver_config.settings = Arc::new(settings);
        self.use_taps(driver_config);
        self.settings_generation.fetch_add(1, AcqRel);
    }
}

impl Shared {
    /// Attaches or detaches the tap's queues as the driver uses its own, before the driver gets its
    /// answer. The kernel drops the packets in a queue that is detached. So if the driver's
    /// settings outlive this process, only they decide, and not the rings, which stand still while
    /// one process follows another.
    fn use_taps(&self, driver_config: &mut DriverConfig) {
        // While one process follows another, the features are not known yet.
        let unknown = driver_config.kept && !has(driver_config.features, VIRTIO_F_VERSION_1);
        if self.nic.pairs == 1 || unknown {
            return;
        }
        // A driver that cannot set the number of pairs uses one; or an external frontend handles
        // it.
        let unsaid = if driver_config.kept {
            1
        } else {
            self.nic.pairs
        };
        let counted = driver_config.settings.pairs.unwrap_or(unsaid);
        for ((pair, tap), running) in (0..).zip(&self.taps).zip(&driver_config.running) {
            // The first queue stays attached, so that the host can always send to one.
            let used = pair == 0 || (pair < counted && (*running || driver_config.kept));
            let known = driver_config.used.get_mut(usize::from(pair));
            if let Some(known) = known.filter(|known| **known != Some(used)) {
                *known = Some(used);
                note(tap::set_queue(tap.as_fd(), used));
            }
        }
    }
}

/// A tap that refuses is the host's problem; frames may still go through.
fn note(outcome: Result<(), tap::TapError>) {
    if let Err(e) = outcome {
        log::warn!("{}", host::log::chain(&e));
    }
}
