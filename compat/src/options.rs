// SPDX-License-Identifier: Apache-2.0
//! Options of the command line, `key=value,key=value`, as parts of a `vm.create` document.

use serde_json::{Map, Value, json};

/// What a value is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Number,
    /// Bytes, `512M`.
    Size,
    /// `on` or `off`.
    Flag,
}

use Kind::{Flag, Number, Size, Text};

/// Of each option its keys: as written, in the document, and what the value is.
type Keys = &'static [(&'static str, &'static str, Kind)];

const CPUS: Keys = &[
    ("boot", "boot_vcpus", Number),
    ("max", "max_vcpus", Number),
    ("kvm_hyperv", "kvm_hyperv", Flag),
    ("nested", "nested", Flag),
    ("max_phys_bits", "max_phys_bits", Number),
];
const MEMORY: Keys = &[
    ("size", "size", Size),
    ("shared", "shared", Flag),
    ("hugepages", "hugepages", Flag),
    ("hugepage_size", "hugepage_size", Size),
    ("prefault", "prefault", Flag),
    ("mergeable", "mergeable", Flag),
    ("thp", "thp", Flag),
    ("hotplug_size", "hotplug_size", Size),
    ("hotplug_method", "hotplug_method", Text),
];
const DISK: Keys = &[
    ("path", "path", Text),
    ("readonly", "readonly", Flag),
    ("direct", "direct", Flag),
    ("id", "id", Text),
    ("serial", "serial", Text),
    ("image_type", "image_type", Text),
    ("num_queues", "num_queues", Number),
    ("queue_size", "queue_size", Number),
    ("vhost_user", "vhost_user", Flag),
    ("socket", "vhost_socket", Text),
    ("iommu", "iommu", Flag),
    ("sparse", "sparse", Flag),
    ("backing_files", "backing_files", Flag),
    ("pci_segment", "pci_segment", Number),
];
const NET: Keys = &[
    ("tap", "tap", Text),
    ("fd", "fd", Text),
    ("mac", "mac", Text),
    ("host_mac", "host_mac", Text),
    ("ip", "ip", Text),
    ("mask", "mask", Text),
    ("mtu", "mtu", Number),
    ("id", "id", Text),
    ("num_queues", "num_queues", Number),
    ("queue_size", "queue_size", Number),
    ("vhost_user", "vhost_user", Flag),
    ("socket", "vhost_socket", Text),
    ("vhost_mode", "vhost_mode", Text),
    ("iommu", "iommu", Flag),
    ("pci_segment", "pci_segment", Number),
];
const FS: Keys = &[
    ("tag", "tag", Text),
    ("socket", "socket", Text),
    ("num_queues", "num_queues", Number),
    ("queue_size", "queue_size", Number),
    ("id", "id", Text),
    ("pci_segment", "pci_segment", Number),
];
const RNG: Keys = &[("src", "src", Text), ("iommu", "iommu", Flag)];
const VSOCK: Keys = &[
    ("cid", "cid", Number),
    ("socket", "socket", Text),
    ("id", "id", Text),
    ("iommu", "iommu", Flag),
];

/// A part of a document, of what stands behind an option.
///
/// # Errors
/// What is wrong with it, in one line that names the option.
pub fn part(option: &str, text: &str) -> Result<Value, String> {
    let keys = match option {
        "cpus" => CPUS,
        "memory" => MEMORY,
        "disk" => DISK,
        "net" => NET,
        "fs" => FS,
        "rng" => RNG,
        "vsock" => VSOCK,
        _ => return port(option, text),
    };
    let mut part = Map::new();
    for piece in pieces(text) {
        let (key, value) = piece
            .split_once('=')
            .ok_or_else(|| format!("--{option} {piece}: expected key=value"))?;
        let mut known = keys.iter();
        let (_, field, kind) = known
            .find(|(name, ..)| *name == key)
            .ok_or_else(|| format!("--{option} {key}: there is no such key here"))?;
        let value =
            typed(*kind, value).map_err(|why| format!("--{option} {key}={value}: {why}"))?;
        part.insert((*field).into(), value);
    }
    Ok(part.into())
}

/// The descriptors of `--net fd=N` or `fd=[N,N]`, which are taken out of the part.
///
/// # Errors
/// When they are no numbers.
pub fn take_fds(net: &mut Value) -> Result<Vec<i32>, String> {
    let taken = net.as_object_mut().and_then(|net| net.remove("fd"));
    let Some(Value::String(text)) = taken else {
        return Ok(Vec::new());
    };
    let inner = text.trim_start_matches('[').trim_end_matches(']');
    let numbers = inner.split(',').map(str::parse);
    let odd = |_| format!("--net fd={text}: expected numbers of file descriptors");
    numbers.collect::<Result<_, _>>().map_err(odd)
}

/// `--serial` and `--console`: `off`, `null`, `tty`, `pty`, `file=F` or `socket=F`.
fn port(option: &str, text: &str) -> Result<Value, String> {
    Ok(match (text, text.split_once('=')) {
        ("off", _) => json!({"mode": "Off"}),
        ("null", _) => json!({"mode": "Null"}),
        ("tty", _) => json!({"mode": "Tty"}),
        ("pty", _) => json!({"mode": "Pty"}),
        (_, Some(("file", path))) => json!({"mode": "File", "file": path}),
        (_, Some(("socket", path))) => json!({"mode": "Socket", "socket": path}),
        _ => {
            return Err(format!(
                "--{option} {text}: expected off, null, tty, pty, file=F or socket=F"
            ));
        }
    })
}

/// Parts at commas, but for those in brackets or quotes, which are taken off.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut piece) = (Vec::new(), String::new());
    let (mut depth, mut quoted) = (0_u32, false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if depth == 0 && !quoted => pieces.push(std::mem::take(&mut piece)),
            _ => {
                match c {
                    '[' => depth = depth.saturating_add(1),
                    ']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                piece.push(c);
            }
        }
    }
    pieces.push(piece);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

fn typed(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text => Ok(json!(text)),
        Kind::Number => {
            let number = text.parse::<u64>();
            number
                .map(Value::from)
                .map_err(|_| "expected a number".into())
        }
        Kind::Size => text.parse::<spec::ByteSize>().map(|size| json!(size.0)),
        Kind::Flag => match text {
            "on" | "true" => Ok(json!(true)),
            "off" | "false" => Ok(json!(false)),
            _ => Err("expected on or off".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_parts_of_a_document() {
        for (option, text, wanted) in [
            (
                "cpus",
                "boot=2,max=4",
                json!({"boot_vcpus": 2, "max_vcpus": 4}),
            ),
            (
                "memory",
                "size=1G,shared=on",
                json!({"size": 1 << 30, "shared": true}),
            ),
            (
                "disk",
                "path=\"/a,b\",readonly=on",
                json!({"path": "/a,b", "readonly": true}),
            ),
            (
                "net",
                "tap=t,num_queues=4",
                json!({"tap": "t", "num_queues": 4}),
            ),
            (
                "serial",
                "file=/x=y",
                json!({"mode": "File", "file": "/x=y"}),
            ),
            ("console", "off", json!({"mode": "Off"})),
        ] {
            assert_eq!(part(option, text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn descriptors_are_taken_out_of_a_card() {
        for (text, wanted) in [
            ("fd=3,mac=x", vec![3]),
            ("fd=[3,4]", vec![3, 4]),
            ("tap=t", vec![]),
        ] {
            let mut net = part("net", text).unwrap();
            assert_eq!(take_fds(&mut net), Ok(wanted));
            assert!(net.get("fd").is_none());
        }
        assert!(take_fds(&mut part("net", "fd=[x]").unwrap()).is_err());
    }

    #[test]
    fn option_that_is_wrong_is_named() {
        for (option, text, words) in [
            ("disk", "/a", "--disk /a: expected key=value"),
            ("disk", "paht=/a", "--disk paht"),
            ("cpus", "boot=two", "--cpus boot=two"),
            ("memory", "size=1X", "--memory size=1X"),
            ("memory", "shared=yes", "expected on or off"),
            ("serial", "loud", "--serial loud"),
        ] {
            let why = part(option, text).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}
