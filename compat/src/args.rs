// SPDX-License-Identifier: Apache-2.0
//! The command line: that of Cloud Hypervisor, as far as it has a meaning here.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg::{Long, Short};
use lexopt::{Parser, ValueExt};
use serde_json::{Value, json};

use crate::options::{part, take_fds};

/// What `--help` prints.
pub const HELP: &str = "\
Speaks the dialect of Cloud Hypervisor for Bulkhead: its command line, its REST API and its event
monitor, of one VM, which the jailer beside this program runs.

Usage: cloud-hypervisor [--api-socket [path=]PATH|fd=N] [--event-monitor path=FILE|fd=N] [--no-shutdown]
       cloud-hypervisor --kernel FILE [--initramfs FILE] [--cmdline TEXT] [--cpus boot=N[,max=N]]
                        [--memory size=SIZE[,...]] [--disk path=FILE[,...]]... [--net tap=NAME|fd=N[,...]]...
                        [--fs tag=TAG,socket=PATH[,...]]... [--serial MODE] [--console MODE] [...]

  --api-socket      serves the API there; with fd=N on an inherited socket, as libvirt wants it
  --event-monitor   writes events there
  --no-shutdown     stays when the guest powers off
  --kernel ...      boots this VM at once; docs/compatibility.md of Bulkhead has all keys
  --serial MODE     off, null, tty, pty, file=FILE or socket=PATH
  --log-file FILE   appends messages to a file instead of standard error
  -v, --seccomp X, --rng src=X  are accepted and change nothing
  --version         print the version
  --help            print this

Docs: docs/libvirt.md, docs/compatibility.md
";

/// Where something is that the client has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a path.
    Path(PathBuf),
    /// An inherited descriptor.
    Fd(i32),
}

/// A VM that is booted at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Vm {
    /// Its document, without cards.
    pub document: Value,
    /// Its cards, and the descriptors of their taps.
    pub nets: Vec<(Value, Vec<i32>)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Args {
    /// Where the API is served.
    pub api_socket: Option<Place>,
    /// Where events are written.
    pub event_monitor: Option<Place>,
    /// Where messages go.
    pub log_file: Option<PathBuf>,
    /// Whether the process stays when the guest powers off.
    pub no_shutdown: bool,
    /// The VM that is booted at once.
    pub vm: Option<Vm>,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// Run.
    Run(Args),
    /// Print this text and exit.
    Show(String),
}

/// Parses the command line, without the program's name.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, String> {
    let mut parsed = Args::default();
    let mut document = json!({});
    let mut nets = Vec::new();
    let args: Vec<_> = args.into_iter().collect();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let flag = match arg {
            Short('V') | Long("version") => {
                return Ok(Parsed::Show(format!(
                    "cloud-hypervisor {}\n",
                    crate::VERSION
                )));
            }
            Short('h') | Long("help") => return Ok(Parsed::Show(HELP.into())),
            Short('v') => continue,
            Long("no-shutdown") => {
                parsed.no_shutdown = true;
                continue;
            }
            Long(flag) => flag.to_owned(),
            other => return Err(format!("{}; see --help", other.unexpected())),
        };
        let text = value(&mut parser, &flag)?;
        match flag.as_str() {
            "api-socket" => parsed.api_socket = Some(place(&flag, &text)?),
            "event-monitor" => parsed.event_monitor = Some(place(&flag, &text)?),
            "log-file" => parsed.log_file = Some(text.into()),
            "seccomp" => {}
            "kernel" | "initramfs" | "cmdline" | "firmware" => {
                document["payload"][flag.as_str()] = json!(text);
            }
            "cpus" | "memory" | "serial" | "console" | "rng" | "vsock" => {
                document[flag.as_str()] = part(&flag, &text)?;
            }
            "disk" | "fs" | "net" => {
                for text in std::iter::once(Ok(text)).chain(more(&mut parser, &flag)) {
                    let mut part = part(&flag, &text?)?;
                    match flag.as_str() {
                        "net" => {
                            let fds = take_fds(&mut part)?;
                            nets.push((part, fds));
                        }
                        "disk" => push(&mut document, "disks", part),
                        _ => push(&mut document, "fs", part),
                    }
                }
            }
            _ => return Err(format!("--{flag} is not supported; see --help")),
        }
    }
    if document.get("payload").is_some() {
        parsed.vm = Some(Vm { document, nets });
    }
    if parsed.vm.is_none() && parsed.api_socket.is_none() {
        return Err("--api-socket or --kernel is missing; see --help".into());
    }
    match repeated(&parsed) {
        Some(number) => Err(format!("fd={number} is given twice")),
        None => Ok(Parsed::Run(parsed)),
    }
}

/// A descriptor that is named twice.
fn repeated(args: &Args) -> Option<i32> {
    let places = [&args.api_socket, &args.event_monitor];
    let single = places.into_iter().filter_map(|place| match place {
        Some(Place::Fd(number)) => Some(*number),
        _ => None,
    });
    let nets = args.vm.iter().flat_map(|vm| &vm.nets);
    let mut seen = std::collections::BTreeSet::new();
    let mut all = single.chain(nets.flat_map(|(_, fds)| fds.iter().copied()));
    all.find(|number| !seen.insert(*number))
}

fn push(document: &mut Value, list: &str, part: Value) {
    match document[list].as_array_mut() {
        Some(parts) => parts.push(part),
        None => document[list] = json!([part]),
    }
}

fn value(parser: &mut Parser, flag: &str) -> Result<String, String> {
    let value = parser
        .value()
        .map_err(|_| format!("--{flag} needs a value"))?;
    value
        .string()
        .map_err(|_| format!("--{flag}: its value is not UTF-8"))
}

/// The values that follow the first one of a flag.
fn more(parser: &mut Parser, flag: &str) -> Vec<Result<String, String>> {
    let values = parser.values().into_iter().flatten();
    let texts = values.map(|value| value.string().map_err(|_| format!("--{flag}: not UTF-8")));
    texts.collect()
}

/// `PATH`, `path=PATH` or `fd=N`.
fn place(flag: &str, text: &str) -> Result<Place, String> {
    match text.split_once('=') {
        Some(("fd", number)) => {
            let number = number.parse();
            let odd = |_| format!("--{flag} {text}: expected the number of a file descriptor");
            number.map(Place::Fd).map_err(odd)
        }
        Some(("path", path)) => Ok(Place::Path(path.into())),
        _ => Ok(Place::Path(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Parsed, String> {
        parse(words.split_whitespace().map(OsString::from))
    }

    fn args(words: &str) -> Args {
        match parse_words(words).unwrap() {
            Parsed::Run(args) => args,
            Parsed::Show(text) => unreachable!("{text}"),
        }
    }

    #[test]
    fn command_line_of_libvirt_is_understood() {
        let args = args("--api-socket fd=7 --event-monitor path=/run/fifo -vv");
        assert_eq!(args.api_socket, Some(Place::Fd(7)));
        assert_eq!(args.event_monitor, Some(Place::Path("/run/fifo".into())));
        assert!(args.vm.is_none());
    }

    #[test]
    fn command_line_with_a_vm_becomes_its_document() {
        let args = args(
            "--api-socket /s --kernel /k --cpus boot=2 --memory size=1G --disk path=/a path=/b \
             --net fd=[8,9],num_queues=4 --net tap=t --serial tty --console off --seccomp false",
        );
        assert_eq!(args.api_socket, Some(Place::Path("/s".into())));
        let vm = args.vm.unwrap();
        assert_eq!(vm.document["payload"]["kernel"], "/k");
        assert_eq!(vm.document["cpus"]["boot_vcpus"], 2);
        assert_eq!(
            vm.document["disks"],
            json!([{"path": "/a"}, {"path": "/b"}])
        );
        assert_eq!(vm.document["serial"]["mode"], "Tty");
        let nets = [
            (json!({"num_queues": 4}), vec![8, 9]),
            (json!({"tap": "t"}), vec![]),
        ];
        assert_eq!(vm.nets, nets);
    }

    #[test]
    fn version_is_what_libvirt_reads() {
        for words in ["--version", "-V"] {
            let Ok(Parsed::Show(text)) = parse_words(words) else {
                unreachable!("a text");
            };
            assert!(
                text.starts_with("cloud-hypervisor v51.0-bulkhead"),
                "{text}"
            );
            assert!(!text.contains('/') && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn command_line_that_is_wrong_is_refused_by_name() {
        for (words, named) in [
            ("", "--api-socket"),
            ("--api-socket", "--api-socket needs"),
            ("--api-socket fd=x", "fd=x"),
            ("--tpm socket=/x --api-socket /s", "--tpm is not supported"),
            ("--kernel /k --disk paht=/x", "--disk paht"),
            ("stray", "stray"),
            (
                "--api-socket fd=7 --kernel /k --net fd=[8,7]",
                "fd=7 is given twice",
            ),
        ] {
            let why = parse_words(words).unwrap_err();
            assert!(why.contains(named), "{why}");
        }
    }
}
