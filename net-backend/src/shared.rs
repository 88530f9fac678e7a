// SPDX-License-Identifier: Apache-2.0
//! What the workers and the protocol thread share: the card, its taps, the driver's settings.

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

/// What is shared.
#[derive(Debug)]
pub struct Shared {
    /// The card.
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

/// What the settings are made of, and the settings.
#[derive(Debug)]
struct DriverConfig {
    features: u64,
    /// Where the driver's settings are kept.
    state: SharedMem,
    /// Whether that outlives the process.
    kept: bool,
    /// Whether the control queue is served here, and not by the frontend.
    control_running: bool,
    link_up: bool,
    settings: Arc<Settings>,
    /// Which pairs have a receive ring that may be used.
    running: Vec<bool>,
    /// Which of the tap's queues are in use; unknown at first.
    used: Vec<Option<bool>>,
}

impl Shared {
    /// What a device starts with: no memory, no features. `state` is where the driver's settings are
    /// kept if that outlives the process.
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
        // There are as many as pairs, and a worker for each.
        self.taps[usize::from(pair) % self.taps.len()].as_fd()
    }

    /// The part of the health page that belongs to a queue; the control queue has none.
    pub fn health(&self, queue: u16) -> &QueueHealth {
        &self.health.queues[usize::from(queue) % ipc::health::QUEUES]
    }

    /// Where is counted what goes no further.
    pub fn drops(&self) -> &Drops {
        &self.health.drops
    }

    /// The settings as they are now, and the number that goes with them.
    pub fn settings(&self) -> (u32, Arc<Settings>) {
        // Loaded first: a change in between leads to one look too many, never to one too few.
        let generation = self.settings_generation();
        (generation, lock(&self.driver_config).settings.clone())
    }

    /// A number that is another one after the settings have changed.
    pub fn settings_generation(&self) -> u32 {
        self.settings_generation.load(Acquire)
    }

    /// The driver has acknowledged features: it is a new one, unless this process is.
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

    /// The link goes up, or down.
    pub fn set_link(&self, up: bool) {
        self.change(|driver_config| driver_config.link_up = up);
    }

    /// The control queue is served, or not any more. What is kept may have been cleared meanwhile.
    pub fn set_control_running(&self, running: bool) {
        self.change(|driver_config| driver_config.control_running = running);
        if running {
            self.set_offloads(&self.settings().1);
        }
    }

    /// A pair's receive ring can be used, or not any more.
    pub fn set_pair_running(&self, pair: u16, running: bool) {
        self.change(|driver_config| {
            if let Some(known) = driver_config.running.get_mut(usize::from(pair)) {
                *known = running;
            }
        });
    }

    /// Does what the driver says.
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
        // It is the tap's, whichever of its queues is asked.
        if let Some(tap) = self.taps.first() {
            note(tap::set_offload(tap.as_fd(), settings.offloads));
        }
    }

    fn change(&self, change: impl FnOnce(&mut DriverConfig)) {
        let driver_config = &mut *lock(&self.driver_config);
        change(driver_config);
        let mut state = State::load(&driver_config.state);
        // Written by who knows what; more pairs than there are do no harm, and less than one would.
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
        // A frontend of somebody else may obey the driver itself, and enable what is to be used.
        if !driver_config.control_running && !driver_config.kept {
            settings.pairs = None;
        }
        driver_config.settings = Arc::new(settings);
        self.use_taps(driver_config);
        self.settings_generation.fetch_add(1, AcqRel);
    }
}

impl Shared {
    /// Takes the tap's queues into use or out of use, with the driver's: before the driver hears that
    /// it may go on. The kernel throws away what waits in a queue that goes out of use; so where the
    /// driver's settings outlive this process they alone decide, not its rings, which stand still while
    /// one process follows another.
    fn use_taps(&self, driver_config: &mut DriverConfig) {
        // While one process follows another nobody has said yet what the driver is.
        let unknown = driver_config.kept && !has(driver_config.features, VIRTIO_F_VERSION_1);
        if self.nic.pairs == 1 || unknown {
            return;
        }
        // A driver that has no way to say how many has one; or it says so to a frontend of somebody else.
        let unsaid = if driver_config.kept {
            1
        } else {
            self.nic.pairs
        };
        let counted = driver_config.settings.pairs.unwrap_or(unsaid);
        for ((pair, tap), running) in (0..).zip(&self.taps).zip(&driver_config.running) {
            // The first stays, so that there is always one to send to.
            let used = pair == 0 || (pair < counted && (*running || driver_config.kept));
            let known = driver_config.used.get_mut(usize::from(pair));
            if let Some(known) = known.filter(|known| **known != Some(used)) {
                *known = Some(used);
                note(tap::set_queue(tap.as_fd(), used));
            }
        }
    }
}

/// A tap that does not do what it is told is the host's affair; frames may still go through.
fn note(outcome: Result<(), tap::TapError>) {
    if let Err(e) = outcome {
        log::warn!("{}", host::log::chain(&e));
    }
}
