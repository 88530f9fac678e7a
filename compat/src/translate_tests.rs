// SPDX-License-Identifier: Apache-2.0
//! What documents of libvirt, Kata and the generated clients become.

use serde_json::json;

use super::*;
use crate::document::complete;

fn spec_of(mut document: Value, taps: &TapFds) -> Result<VmSpec, Fault> {
    complete(&mut document)?;
    translate(&document, &"vm".parse().unwrap(), taps)
}

fn refusal(document: Value) -> String {
    let fault = spec_of(document, &TapFds::new()).unwrap_err();
    assert_eq!(fault.status, 400);
    fault.chain.join(": ")
}

#[test]
fn document_of_libvirt_11_becomes_a_vm() {
    let document = json!({
        "serial": {"mode": "Pty"}, "cpus": {"boot_vcpus": 2, "max_vcpus": 4},
        "memory": {"size": 1 << 30},
        "payload": {"kernel": "/k", "cmdline": "console=ttyS0", "initramfs": "/i"},
        "disks": [{"path": "/d"}, {"path": "/e", "readonly": true}],
        "net": [{"id": "net_0", "mac": "52:54:00:00:00:01", "num_queues": 4}],
    });
    let spec = spec_of(document, &TapFds::from([(0, vec![7, 8])])).unwrap();
    assert_eq!(
        (spec.cpus, spec.mem, &spec.console),
        (2, ByteSize(1 << 30), &Console::Pty)
    );
    assert_eq!(spec.cmdline.as_deref(), Some("console=ttyS0"));
    assert_eq!(spec.initrd, Some("/i".into()));
    assert_eq!(spec.cgroup, Some(Cgroup::Inherit));
    let disks: Vec<_> = spec
        .disks
        .iter()
        .map(|d| (d.readonly, d.id.clone()))
        .collect();
    assert_eq!(disks, [(false, None), (true, None)]);
    let net = &spec.nets[0];
    assert_eq!(
        (net.id.as_deref(), &net.fd, net.queues),
        (Some("net_0"), &vec![7, 8], 2)
    );
}

#[test]
fn document_of_libvirt_9_names_a_tap() {
    let document = json!({
        "kernel": {"path": "/k"}, "memory": {"size": 1 << 28}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "net": [{"tap": "vnet0", "mac": "52:54:00:00:00:01", "ip": "10.0.0.1"}],
    });
    let spec = spec_of(document, &TapFds::new()).unwrap();
    assert_eq!(spec.nets[0].tap.as_deref(), Some("vnet0"));
    assert_eq!(spec.console, Console::None);
}

#[test]
fn document_with_external_backends_becomes_vhost_user_devices() {
    let document = json!({
        "payload": {"kernel": "/k"}, "memory": {"size": 1 << 30, "hugepages": true, "shared": true},
        "fs": [{"tag": "root", "socket": "/s", "num_queues": 1, "queue_size": 1024, "pci_segment": 1}],
        "disks": [{"vhost_user": true, "vhost_socket": "/b"}],
        "serial": {"mode": "Socket", "socket": "/c"}, "console": {"mode": "Off"},
    });
    let spec = spec_of(document, &TapFds::new()).unwrap();
    let of = |kind| {
        spec.vhost_user
            .iter()
            .find(|device| device.kind == kind)
            .unwrap()
    };
    let fs = of(VhostUserType::Fs);
    assert_eq!((fs.tag.as_deref(), fs.queues), (Some("root"), Some(2)));
    assert_eq!(of(VhostUserType::Blk).socket, PathBuf::from("/b"));
    assert_eq!(
        (spec.hugepages, spec.console),
        (HugePages::Size2M, Console::SocketAt("/c".into()))
    );
}

#[test]
fn console_of_libvirt_9_is_the_serial_port_and_beside_one_it_is_refused() {
    let of = |serial: &str| {
        let document = json!({"payload": {"kernel": "/k"}, "serial": {"mode": serial},
            "console": {"mode": "Pty"}});
        spec_of(document, &TapFds::new())
    };
    assert_eq!(of("Null").unwrap().console, Console::Pty);
    let refused = of("Pty").unwrap_err().chain.join(": ");
    assert!(refused.starts_with("console.mode Pty"), "{refused}");
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    let with = |key: &str, value: Value| {
        let mut document = json!({"payload": {"kernel": "/k"}});
        document[key] = value;
        document
    };
    for (document, words) in [
        (json!({}), "payload.kernel"),
        (
            with("cpus", json!({"boot_vcpus": 2, "max_vcpus": 1})),
            "cpus.max_vcpus",
        ),
        (
            with("cpus", json!({"boot_vcpus": "two"})),
            "cpus.boot_vcpus",
        ),
        (with("cpus", json!({"boot_vcpus": 4000})), "cpus \"4000\""),
        (with("memory", json!({"size": -1})), "memory.size"),
        (
            with(
                "memory",
                json!({"size": 1, "hugepages": true, "hugepage_size": 3}),
            ),
            "hugepage_size 3",
        ),
        (with("serial", json!({"mode": "File"})), "serial.file"),
        (with("serial", json!({"mode": "Loud"})), "serial.mode"),
        (
            with("console", json!({"mode": "File", "file": "/f"})),
            "virtio-console. Use serial",
        ),
        (with("disks", json!([{}])), "disks[0].path"),
        (
            with("disks", json!([{"path": "/a", "image_type": "Qcow2"}])),
            "disks[0].image_type",
        ),
        (with("net", json!([{}])), "net[0].tap"),
        (
            with("net", json!([{"tap": "t", "num_queues": 3}])),
            "net[0].num_queues",
        ),
        (
            with("net", json!([{"vhost_user": true}])),
            "net[0].vhost_socket",
        ),
    ] {
        let reason = refusal(document);
        assert!(reason.contains(words), "{words}: {reason}");
    }
}
