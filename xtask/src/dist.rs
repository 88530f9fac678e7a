// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: static release binaries, man pages and what shells need to complete the command
//! line, in `dist/` as they lie below `/usr/local`, and Debian packages of them and of the agent for
//! Pacemaker; for another architecture in `dist-ARCH/`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::arch::Arch;
use crate::command::file_name;
use crate::scratch::Scratch;
use crate::{compile, deb};

/// What shells complete the command line by: which shell, and where it looks.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/bulkhead"),
    ("zsh", "share/zsh/site-functions/_bulkhead"),
    ("fish", "share/fish/vendor_completions.d/bulkhead.fish"),
];

/// The program that has the name of another project's, so that its clients find it.
const DIALECT: &str = "cloud-hypervisor";
/// Where it goes: no PATH has it unasked.
const COMPAT: &str = "lib/bulkhead/compat";

/// Builds them and says where they are.
pub(crate) fn run(arch: Arch) -> Result<ExitCode> {
    let dist = build(arch)?;
    let work = Scratch::new("deb")?;
    for package in deb::pack(arch, &dist, &deb::changelog()?, work.path())? {
        let kept = dist.join(file_name(&package));
        fs::copy(&package, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
        println!("{}/{}", file_name(&dist), file_name(&kept));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds all but the package; where it is.
pub(crate) fn build(arch: Arch) -> Result<PathBuf> {
    lay_out(arch, compile::shipped(arch)?)
}

/// Lays out these programs and what belongs to them; where that is.
pub(crate) fn lay_out(arch: Arch, binaries: Vec<PathBuf>) -> Result<PathBuf> {
    let name = match arch.is_own() {
        true => "dist".to_owned(),
        false => format!("dist-{arch}"),
    };
    let dist = compile::root()?.join(&name);
    let speaker = compile::command(arch, &binaries)?;
    // Removed first: a running program cannot be written to, and nothing of before is to be shipped.
    match fs::remove_dir_all(&dist) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", dist.display()));
        }
        _ => {}
    }
    for binary in binaries {
        let program = file_name(&binary);
        let place = match program.as_str() {
            DIALECT => format!("{COMPAT}/{program}"),
            _ => format!("bin/{program}"),
        };
        let target = dist.join(&place);
        let dir = target.parent().unwrap_or(&dist);
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let size = fs::copy(&binary, &target)
            .with_context(|| format!("cannot write {}", target.display()))?;
        println!("{name}/{place} ({} KiB)", size / 1024);
    }
    document(&speaker, &dist)?;
    Ok(dist)
}

/// What the command says of itself.
fn document(program: &Path, dist: &Path) -> Result<()> {
    let bulkhead = |args: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new(program).args(args).output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(
            output.status.success(),
            "bulkhead {} failed",
            args.join(" ")
        );
        Ok(output.stdout)
    };
    bulkhead(&["man", &dist.join("share/man/man1").display().to_string()])?;
    println!("{}/share/man/man1", file_name(dist));
    for (shell, file) in COMPLETIONS {
        let path = dist.join(file);
        fs::create_dir_all(path.parent().unwrap_or(dist))?;
        fs::write(&path, bulkhead(&["completions", shell])?)?;
        println!("{}/{file}", file_name(dist));
    }
    Ok(())
}
