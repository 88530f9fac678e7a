// SPDX-License-Identifier: Apache-2.0
//! The whole VM: [`VmSpec`] as it is written, [`Vm`] as it is meant.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Console, HugePages, Memory, SpecError, VmName};

/// The most vCPUs a VM may have: APIC ids are 8 bits wide and 255 means all of them.
pub const CPUS_MAX: u32 = 254;
/// The longest kernel command line, in bytes: what Linux keeps (COMMAND_LINE_SIZE), less its NUL.
pub const CMDLINE_MAX_BYTES: usize = 2047;

/// What the VM does when the guest reboots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OnReboot {
    /// A fresh vmm with fresh memory from the same record.
    #[default]
    Restart,
    /// The VM ends, as on power-off.
    Exit,
}

/// What a system call outside the filters does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// It kills the process.
    #[default]
    On,
    /// It kills the process too, after the call's name went to the log.
    Log,
}

impl FromStr for OnReboot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "restart" => Ok(Self::Restart),
            "exit" => Ok(Self::Exit),
            _ => Err("expected restart or exit".into()),
        }
    }
}

impl fmt::Display for OnReboot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Exit => "exit",
        })
    }
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            _ => Err("expected on or log".into()),
        }
    }
}

impl fmt::Display for Seccomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Log => "log",
        })
    }
}

/// One VM as it is written: `vm.json`, or the flags of `bulkhead run`. Unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The VM's name; by default `vm-` and the jailer's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The guest kernel: bzImage or ELF with a PVH entry.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel command line, in place of the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The number of vCPUs, 1 to 254.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// The guest's memory.
    #[serde(default = "default_mem")]
    pub mem: ByteSize,
    /// The page size guest memory comes in.
    #[serde(default)]
    pub hugepages: HugePages,
    /// Whether all guest memory is allocated before the guest starts.
    #[serde(default)]
    pub prefault: bool,
    /// Where COM1 leads.
    #[serde(default)]
    pub console: Console,
    /// What a guest reboot does.
    #[serde(default)]
    pub on_reboot: OnReboot,
    /// What a system call outside the filters does.
    #[serde(default)]
    pub seccomp: Seccomp,
}

fn default_cpus() -> u32 {
    1
}

fn default_mem() -> ByteSize {
    ByteSize(512 << 20)
}

impl VmSpec {
    /// A VM that boots `kernel`, everything else at its default.
    pub fn new(kernel: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            kernel: kernel.into(),
            initrd: None,
            cmdline: None,
            cpus: default_cpus(),
            mem: default_mem(),
            hugepages: HugePages::default(),
            prefault: false,
            console: Console::default(),
            on_reboot: OnReboot::default(),
            seccomp: Seccomp::default(),
        }
    }
}

/// One VM, validated; what can be known without looking at the host is known to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// The VM's name, if it was given one.
    pub name: Option<VmName>,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// An initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The effective kernel command line: no NUL, at most [`CMDLINE_MAX_BYTES`].
    pub cmdline: String,
    /// The number of vCPUs, 1 to [`CPUS_MAX`].
    pub cpus: u8,
    /// The guest's memory.
    pub memory: Memory,
    /// Where COM1 leads.
    pub console: Console,
    /// What a guest reboot does.
    pub on_reboot: OnReboot,
    /// What a system call outside the filters does.
    pub seccomp: Seccomp,
}

/// The command line of a VM that was given none: the console is COM1, and a panic reboots after a
/// second instead of hanging for ever.
fn default_cmdline(console: &Console) -> String {
    match console {
        Console::None => "panic=1".into(),
        _ => "console=ttyS0 panic=1".into(),
    }
}

impl TryFrom<VmSpec> for Vm {
    type Error = SpecError;

    fn try_from(spec: VmSpec) -> Result<Self, SpecError> {
        let name = match spec.name {
            Some(text) => match text.parse::<VmName>() {
                Ok(name) => Some(name),
                Err(reason) => return Err(SpecError::new("name", text, reason)),
            },
            None => None,
        };
        let cpus = match u8::try_from(spec.cpus) {
            Ok(cpus) if cpus >= 1 && u32::from(cpus) <= CPUS_MAX => cpus,
            _ => {
                return Err(SpecError::new(
                    "cpus",
                    spec.cpus,
                    format!("must be 1 to {CPUS_MAX}"),
                ));
            }
        };
        let cmdline = spec
            .cmdline
            .unwrap_or_else(|| default_cmdline(&spec.console));
        check_cmdline(&cmdline)?;
        check_path("kernel", &spec.kernel)?;
        if let Some(initrd) = &spec.initrd {
            check_path("initrd", initrd)?;
        }
        Ok(Self {
            name,
            kernel: spec.kernel,
            initrd: spec.initrd,
            cmdline,
            cpus,
            memory: Memory::new(spec.mem, spec.hugepages, spec.prefault)?,
            console: spec.console,
            on_reboot: spec.on_reboot,
            seccomp: spec.seccomp,
        })
    }
}

fn check_path(field: &'static str, path: &std::path::Path) -> Result<(), SpecError> {
    if path.as_os_str().is_empty() {
        return Err(SpecError::new(field, "", "must name a file"));
    }
    Ok(())
}

fn check_cmdline(cmdline: &str) -> Result<(), SpecError> {
    let shown = || match cmdline.char_indices().nth(32) {
        Some((end, _)) => format!("{}…", &cmdline[..end]),
        None => cmdline.to_string(),
    };
    if cmdline.len() > CMDLINE_MAX_BYTES {
        let reason = format!(
            "is {} bytes long, at most {CMDLINE_MAX_BYTES} fit",
            cmdline.len()
        );
        return Err(SpecError::new("cmdline", shown(), reason));
    }
    if cmdline.contains('\0') {
        return Err(SpecError::new(
            "cmdline",
            shown(),
            "must not hold a NUL byte",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_minimal_gets_the_documented_defaults() {
        let spec: VmSpec = serde_json::from_str(r#"{"kernel":"/k"}"#).unwrap();
        assert_eq!(spec, VmSpec::new("/k"));
        let vm = Vm::try_from(spec).unwrap();
        assert_eq!((vm.cpus, vm.memory.size_bytes()), (1, 512 << 20));
        assert_eq!(vm.cmdline, "console=ttyS0 panic=1");
    }

    #[test]
    fn spec_written_reads_back_equal() {
        let mut spec = VmSpec::new("/k");
        spec.name = Some("a".into());
        spec.console = Console::File("/tmp/x".into());
        spec.hugepages = HugePages::Size2M;
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<VmSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn spec_with_unknown_field_is_refused_by_name() {
        let error = serde_json::from_str::<VmSpec>(r#"{"kernel":"/k","cpu":2}"#).unwrap_err();
        assert!(error.to_string().contains("`cpu`"), "{error}");
    }

    #[test]
    fn spec_out_of_range_names_field_and_value() {
        type Case = (&'static str, fn(&mut VmSpec), &'static str);
        let cases: [Case; 7] = [
            ("cpus", |s| s.cpus = 0, "0"),
            ("cpus", |s| s.cpus = 255, "255"),
            ("mem", |s| s.mem = ByteSize(0), "0"),
            ("name", |s| s.name = Some("a/b".into()), "a/b"),
            ("kernel", |s| s.kernel = PathBuf::new(), ""),
            ("initrd", |s| s.initrd = Some(PathBuf::new()), ""),
            ("cmdline", |s| s.cmdline = Some("a\0b".into()), "a\0b"),
        ];
        for (field, spoil, value) in cases {
            let mut spec = VmSpec::new("/k");
            spoil(&mut spec);
            let error = Vm::try_from(spec).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value));
        }
    }

    #[test]
    fn cmdline_longer_than_linux_keeps_is_refused() {
        let mut spec = VmSpec::new("/k");
        spec.cmdline = Some("x".repeat(CMDLINE_MAX_BYTES));
        assert!(Vm::try_from(spec.clone()).is_ok());
        spec.cmdline = Some("x".repeat(CMDLINE_MAX_BYTES + 1));
        assert_eq!(Vm::try_from(spec).unwrap_err().field, "cmdline");
    }
}
