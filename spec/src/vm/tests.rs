// SPDX-License-Identifier: Apache-2.0
//! Specs read, checked and refused.

use super::*;
use crate::CMDLINE_MAX_BYTES;

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
    let error = serde_json::from_str::<VmSpec>(r#"{"kernel":"/k","colour":2}"#).unwrap_err();
    assert!(error.to_string().contains("`colour`"), "{error}");
}

#[test]
fn spec_out_of_range_names_field_and_value() {
    type Case = (&'static str, fn(&mut VmSpec), &'static str);
    let cases: [Case; 9] = [
        ("uid-range", |s| s.uid_range = "7:1".parse().ok(), "7:1"),
        ("machine", |s| s.machine = 2, "2"),
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
fn cmdline_default_has_the_first_disk_as_root_without_an_initrd() {
    let mut spec = VmSpec::new("/k");
    spec.disks = vec![DiskSpec::new("/a")];
    let cmdline = |spec: &VmSpec| Vm::try_from(spec.clone()).unwrap().cmdline;
    assert_eq!(cmdline(&spec), "console=ttyS0 panic=1 root=/dev/vda rw");
    spec.disks[0].readonly = true;
    assert_eq!(cmdline(&spec), "console=ttyS0 panic=1 root=/dev/vda ro");
    spec.disks.push("path=/b,slot=1".parse().unwrap());
    assert_eq!(cmdline(&spec), "console=ttyS0 panic=1 root=/dev/vda rw");
    spec.initrd = Some("/i".into());
    assert_eq!(cmdline(&spec), "console=ttyS0 panic=1");
}

#[test]
fn devices_of_the_same_name_are_refused() {
    let mut spec = VmSpec::new("/k");
    spec.disks = vec![DiskSpec::new("/a"), "path=/b,id=disk0".parse().unwrap()];
    let error = Vm::try_from(spec.clone()).unwrap_err();
    assert_eq!((error.field, error.value.as_str()), ("disk.id", "disk0"));
    spec.disks.pop();
    spec.vhost_user = vec!["type=rng,socket=/s,id=disk0".parse().unwrap()];
    let error = Vm::try_from(spec.clone()).unwrap_err();
    assert_eq!(error.field, "vhost-user.id");
    spec.vhost_user.clear();
    spec.nets = vec!["user,id=disk0".parse().unwrap()];
    assert_eq!(Vm::try_from(spec.clone()).unwrap_err().field, "net.id");
}

#[test]
fn cmdline_longer_than_linux_keeps_is_refused() {
    let mut spec = VmSpec::new("/k");
    spec.cmdline = Some("x".repeat(CMDLINE_MAX_BYTES));
    assert!(Vm::try_from(spec.clone()).is_ok());
    spec.cmdline = Some("x".repeat(CMDLINE_MAX_BYTES + 1));
    assert_eq!(Vm::try_from(spec).unwrap_err().field, "cmdline");
}

#[test]
fn model_of_a_processor_is_refused_elsewhere_with_the_reason() {
    let model: CpuModel = "x86-64-v3".parse().unwrap();
    assert_eq!(check_cpu(model.clone(), "x86_64"), Ok(model.clone()));
    let host = CpuModel::default();
    assert_eq!(check_cpu(host.clone(), "riscv64"), Ok(host));
    let told = check_cpu(model, "aarch64").unwrap_err().to_string();
    assert!(
        told.starts_with("cpu \"x86-64-v3\": models are of x86_64"),
        "{told}"
    );
}
