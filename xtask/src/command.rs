// SPDX-License-Identifier: Apache-2.0
//! Running other programs: the error names the command and shows what it said.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// `program` with its arguments, to be run by [`quiet`], [`output`] or [`loud`].
pub(crate) fn command<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command and keeps what it says for the error.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    captured(command).map(drop)
}

/// Runs a command and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    captured(command).map(|output| output.stdout)
}

/// Runs a command whose output is the user's to read; the caller judges its status.
pub(crate) fn loud(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))
}

/// Runs `source` with its output going into `sink`, which is run by [`quiet`].
pub(crate) fn piped(source: &mut Command, sink: &mut Command) -> Result<()> {
    let name = shown(source);
    let spawned = source.stdout(Stdio::piped()).spawn();
    let mut running = spawned.with_context(|| format!("cannot run {name}"))?;
    let output = running.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let taken = quiet(sink.stdin(output));
    let status = running.wait()?;
    taken?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

fn captured(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stdout).trim_end());
        eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        bail!("{}: {}", shown(command), output.status);
    }
    Ok(output)
}

fn shown(command: &Command) -> String {
    let words: Vec<&OsStr> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .collect();
    words
        .join(OsStr::new(" "))
        .to_string_lossy()
        .chars()
        .take(200)
        .collect()
}

/// Where `program` is: in `PATH` or where Debian keeps the administrator's.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.into_iter()
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// [`find`], as an argument for [`command`]; the bare name when there is none, for the error's sake.
pub(crate) fn program(name: &str) -> OsString {
    find(name).map_or_else(|| name.into(), PathBuf::into_os_string)
}

/// The file name of `path` as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        command("sh", ["-c", script])
    }

    #[test]
    fn pipe_whose_either_end_fails_fails() {
        assert!(piped(&mut sh("echo 1"), &mut sh("read n && [ $n = 1 ]")).is_ok());
        let error = piped(&mut sh("echo 1; exit 3"), &mut sh("cat > /dev/null")).unwrap_err();
        assert_eq!(error.to_string(), "sh -c echo 1; exit 3: exit status: 3");
        let error = piped(&mut sh("exit 0"), &mut sh("exit 4")).unwrap_err();
        assert_eq!(error.to_string(), "sh -c exit 4: exit status: 4");
    }
}
