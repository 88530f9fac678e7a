// SPDX-License-Identifier: Apache-2.0
//! Packages of a Debian release, whatever release and architecture this machine is, from its mirror.
//!
//! A private apt configuration with its own lists; mirrors, proxies and other transport settings are
//! the machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::arch::Arch;
use crate::command::{command, output, quiet};
use crate::progress;
use crate::scratch::Scratch;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One Debian release for one architecture, ready to download from.
pub(crate) struct Release {
    name: &'static str,
    arch: Arch,
    dir: Scratch,
}

impl Release {
    /// Fetches the package lists of release `name`.
    pub(crate) fn open(name: &'static str, arch: Arch) -> Result<Self> {
        let release = Self {
            name,
            arch,
            dir: Scratch::new("apt")?,
        };
        let root = release.dir.path();
        for sub in ["state/lists/partial", "cache/archives/partial", "downloads"] {
            fs::create_dir_all(root.join(sub))?;
        }
        fs::write(release.sources(), sources_list(name, Updates::With)?)?;
        fs::write(root.join("apt.conf"), private_config(root, arch))?;
        let step = format!("fetching Debian {name}'s package lists for {arch}");
        match release.update(&step) {
            Ok(()) => Ok(release),
            Err(error) if arch.is_own() => Err(error),
            Err(_) => {
                // A mirror may lag behind with the updates of a less common architecture, for days.
                fs::write(release.sources(), sources_list(name, Updates::Without)?)?;
                release.update(&format!("{step}, without updates"))?;
                Ok(release)
            }
        }
    }

    fn update(&self, step: &str) -> Result<()> {
        progress::step(step, || quiet(self.apt("apt-get").args(["update", "-q"])))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// The release's `sources.list`.
    pub(crate) fn sources(&self) -> PathBuf {
        self.dir.path().join("sources.list")
    }

    /// Downloads `package` and unpacks it into `target`.
    pub(crate) fn unpack(&self, package: &str, target: &Path) -> Result<()> {
        let downloads = self.dir.path().join("downloads");
        progress::step(
            &format!("downloading {package} from Debian {}", self.name),
            || {
                quiet(
                    self.apt("apt-get")
                        .args(["download", "-q", package])
                        .current_dir(&downloads),
                )
            },
        )?;
        for entry in fs::read_dir(&downloads)? {
            let archive = entry?.path();
            quiet(command("dpkg-deb", ["-x"]).arg(&archive).arg(target))?;
            fs::remove_file(archive)?;
        }
        Ok(())
    }

    /// The package that a kernel's meta package stands for.
    pub(crate) fn kernel(&self, meta: &str) -> Result<String> {
        let text = output(self.apt("apt-cache").args(["depends", meta]))?;
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with("linux-image-"))
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("Debian {}: {meta} depends on no kernel", self.name))
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = command(program, [""; 0]);
        apt.env("APT_CONFIG", self.dir.path().join("apt.conf"));
        apt
    }
}

/// This machine's `Acquire` settings, as a configuration file's text.
pub(crate) fn transport_settings() -> Result<String> {
    let dump = output(&mut command("apt-config", ["dump"]))?;
    let dump = String::from_utf8_lossy(&dump).into_owned();
    let mut lines: Vec<&str> = dump
        .lines()
        .filter(|line| line.starts_with("Acquire::"))
        .collect();
    lines.push("");
    Ok(lines.join("\n"))
}

fn private_config(root: &Path, arch: Arch) -> String {
    let (root, arch) = (root.display(), arch.names().debian);
    format!(
        "Dir::State \"{root}/state\";\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Cache \"{root}/cache\";\n\
         Dir::Etc::sourcelist \"{root}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         APT::Sandbox::User \"root\";\n\
         APT::Architecture \"{arch}\";\n\
         APT::Architectures \"{arch}\";\n"
    )
}

/// Whether packages come with what was changed since the release, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Updates {
    With,
    Without,
}

fn sources_list(release: &str, updates: Updates) -> Result<String> {
    let own = own_codename()?;
    let (main, security) = own_mirrors(&own)?;
    let keyring = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    let mut list = format!("deb {keyring}{main} {release} main\n");
    if updates == Updates::Without {
        return Ok(list);
    }
    list.push_str(&format!("deb {keyring}{main} {release}-updates main\n"));
    if let Some(security) = security {
        list.push_str(&format!(
            "deb {keyring}{security} {release}-security main\n"
        ));
    }
    Ok(list)
}

fn own_codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| anyhow!("/etc/os-release names no VERSION_CODENAME; is this Debian?"))
}

/// The mirrors this machine's apt uses for its own release and that release's security updates.
fn own_mirrors(codename: &str) -> Result<(String, Option<String>)> {
    let format = [
        "indextargets",
        "--format",
        "$(RELEASE) $(REPO_URI)",
        "Identifier: Packages",
    ];
    let text = output(&mut command("apt-get", format))?;
    let text = String::from_utf8_lossy(&text);
    let mirror = |suite: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == suite)
            .map(|(_, uri)| uri.to_owned())
    };
    let main = mirror(codename)
        .ok_or_else(|| anyhow!("this machine's apt has no mirror for Debian {codename}"))?;
    Ok((main, mirror(&format!("{codename}-security"))))
}
