// SPDX-License-Identifier: Apache-2.0
//! A VM before it is started.

use std::fmt;
use std::process::Command;

use anyhow::Result;

use super::Vm;
use crate::context::{Context, state_root};
use crate::no_os_kernel::NoOsKernel;

/// A stock kernel in one of its two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// The series: `6.1`, `6.12` or, with pages of 16 KiB, `6.12-16k`.
    pub series: &'static str,
    /// The file format.
    pub format: Format,
}

/// The file format of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As the distribution ships it: a bzImage on x86_64, an Image elsewhere.
    Shipped,
    /// Unpacked, entered through PVH.
    Elf,
}

impl Stock {
    /// The newer kernel as its distribution ships it; for cases that are not about kernels.
    pub const DEFAULT: Self = Self {
        series: "6.12",
        format: Format::Shipped,
    };

    /// Its name among the assets.
    #[must_use]
    pub fn file(self) -> String {
        match self.format {
            Format::Shipped => format!("vmlinuz-{}", self.series),
            Format::Elf => format!("vmlinux-{}", self.series),
        }
    }
}

/// What to put on the guest's kernel command line: the initrd's init reads `guest.do=`.
#[derive(Debug, Clone, Copy)]
pub struct GuestDoes(
    /// The word behind `guest.do=`.
    pub &'static str,
);

impl fmt::Display for GuestDoes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "console=ttyS0 quiet panic=1 guest.do={}", self.0)
    }
}

/// A VM before it is started.
#[derive(Debug)]
pub struct VmBuilder<'a> {
    context: &'a Context,
    name: String,
    args: Vec<String>,
    mem: Option<String>,
    console: bool,
    fault: Option<anyhow::Error>,
}

impl<'a> VmBuilder<'a> {
    pub(crate) fn new(context: &'a Context, name: String) -> Self {
        Self {
            context,
            name,
            args: Vec::new(),
            mem: None,
            console: true,
            fault: None,
        }
    }

    /// Boots a stock kernel whose init does what `does` says.
    #[must_use]
    pub fn boots(mut self, kernel: Stock, does: &'static str) -> Self {
        let files = self.context.asset(&kernel.file()).and_then(|file| {
            Ok((
                file,
                self.context
                    .asset(&format!("initrd-{}.cpio", kernel.series))?,
            ))
        });
        match files {
            Ok((file, initrd)) => self
                .arg("--kernel", file.display())
                .arg("--initrd", initrd.display())
                .arg("--cmdline", GuestDoes(does)),
            Err(error) => {
                self.fault = Some(error);
                self
            }
        }
    }

    /// Boots a hand-made kernel.
    #[must_use]
    pub fn boots_no_os(mut self, kernel: &NoOsKernel) -> Self {
        match self.context.no_os_kernel(kernel) {
            Ok(file) => self.arg("--kernel", file.display()).mem_mib(16),
            Err(error) => {
                self.fault = Some(error);
                self
            }
        }
    }

    /// The number of vCPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        self.arg("--cpus", cpus)
    }

    /// The memory, in MiB.
    #[must_use]
    pub fn mem_mib(mut self, mem_mib: u64) -> Self {
        self.mem = Some(format!("{mem_mib}M"));
        self
    }

    /// Any flag of `bulkhead run` with a value.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl fmt::Display) -> Self {
        self.args.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// Any flag of `bulkhead run` without one.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Leads the console to `to` instead of standard input and output.
    #[must_use]
    pub fn console(mut self, to: &str) -> Self {
        self.console = false;
        self.arg("--console", to)
    }

    /// `bulkhead run` for this VM.
    ///
    /// # Errors
    /// When something that the builder was given is not there.
    pub fn command(mut self) -> Result<Command> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut command = self.context.bulkhead();
        command.args(["run", "--name", &self.name]).args(&self.args);
        if let Some(mem) = &self.mem {
            command.args(["--mem", mem]);
        }
        if self.console {
            command.args(["--console", "stdio"]);
        }
        Ok(command)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When `bulkhead` cannot be started, or something that the builder was given is not there.
    pub fn start(self) -> Result<Vm> {
        let name = self.name.clone();
        let state = state_root(self.context.dir()).join(&name);
        let mut vm = Vm::spawn(name, &mut self.command()?)?;
        vm.state = Some(state);
        Ok(vm)
    }
}
