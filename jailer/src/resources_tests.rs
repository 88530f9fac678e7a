// SPDX-License-Identifier: Apache-2.0
//! What cannot be opened, and how it is said.

use super::*;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::SfdFlags;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use spec::VmSpec;

fn no_signals() -> SignalFd {
    SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_NONBLOCK).unwrap()
}

struct Scene {
    dir: tempfile::TempDir,
    host: Host,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |file: &str| dir.path().join(file);
        for file in ["kernel", "initrd", "vmm", "kvm"] {
            fs::write(at(file), "content").unwrap();
        }
        fs::write(at("meminfo"), "MemTotal: 1048576 kB\n").unwrap();
        let pool = at("hugepages").join("hugepages-2048kB");
        fs::create_dir_all(&pool).unwrap();
        for (file, count) in [("nr_hugepages", "8"), ("free_hugepages", "8")] {
            fs::write(pool.join(file), count).unwrap();
        }
        let host = Host {
            kvm: at("kvm"),
            vmm: at("vmm"),
            blk: at("blk-backend"),
            net: "/nonexistent".into(),
            input: "/nonexistent".into(),
            passt: None,
            meminfo: at("meminfo"),
            hugepages: at("hugepages"),
            cpus: at("cpus"),
            nodes: at("nodes"),
        };
        Self { dir, host }
    }

    fn at(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn spec(&self) -> VmSpec {
        let mut spec = VmSpec::new(self.at("kernel"));
        spec.mem = ByteSize(16 << 20);
        spec
    }

    fn errors(&self, spec: VmSpec) -> Vec<String> {
        let vm = Vm::try_from(spec).unwrap();
        let opened = Resources::open(&vm, &self.host, BTreeMap::new(), &no_signals());
        let errors = opened.unwrap().unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    fn error(&self, spec: VmSpec) -> String {
        let errors = self.errors(spec);
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].clone()
    }
}

#[test]
fn everything_there_is_opened() {
    let scene = Scene::new();
    let mut spec = scene.spec();
    spec.initrd = Some(scene.at("initrd"));
    spec.console = Console::File(scene.at("out"));
    let vm = Vm::try_from(spec).unwrap();
    let resources = Resources::open(&vm, &scene.host, BTreeMap::new(), &no_signals())
        .unwrap()
        .unwrap();
    assert!(resources.guest.initrd.is_some());
    assert!(matches!(resources.console, Some(ConsoleKind::Fixed(_))));
}

#[test]
fn several_faults_are_told_together() {
    let mut scene = Scene::new();
    scene.host.kvm = "/nonexistent".into();
    let mut spec = scene.spec();
    spec.kernel = "/nonexistent".into();
    spec.initrd = Some("/nonexistent".into());
    spec.console = Console::File("/nonexistent/out".into());
    let errors = scene.errors(spec);
    for field in ["kvm ", "kernel ", "initrd ", "console "] {
        assert!(errors.iter().any(|e| e.starts_with(field)), "{errors:?}");
    }
    assert_eq!(errors.len(), 4);
}

#[test]
fn kernel_that_is_no_file_with_content_is_refused() {
    let scene = Scene::new();
    fs::write(scene.at("empty"), "").unwrap();
    mkfifo(&scene.at("fifo"), Mode::S_IRWXU).unwrap();
    fs::create_dir(scene.at("dir")).unwrap();
    for (file, reason) in [
        ("missing", "No such file or directory"),
        ("empty", "is empty"),
        ("fifo", "is a named pipe, not a regular file"),
        ("dir", "is a directory, not a regular file"),
    ] {
        let mut spec = scene.spec();
        spec.kernel = scene.at(file);
        let wanted = format!(
            "kernel {:?}: {reason}",
            scene.at(file).display().to_string()
        );
        assert_eq!(scene.error(spec), wanted);
    }
}

#[test]
fn initrd_that_does_not_fit_is_refused_with_both_sizes() {
    let scene = Scene::new();
    let large = File::create(scene.at("large")).unwrap();
    large.set_len(16 << 20).unwrap();
    let mut spec = scene.spec();
    spec.initrd = Some(scene.at("large"));
    let line = scene.error(spec);
    assert!(
        line.contains("16777216 bytes") && line.contains("mem 16M"),
        "{line}"
    );
}

#[test]
fn memory_larger_than_the_host_names_both_sizes() {
    let scene = Scene::new();
    let mut spec = scene.spec();
    spec.mem = ByteSize(2 << 30);
    assert_eq!(
        scene.error(spec),
        "mem \"2G\": is more than this host has, 1024M"
    );
}

#[test]
fn hugepages_that_are_not_there_are_refused_with_the_remedy() {
    let scene = Scene::new();
    let mut spec = scene.spec();
    spec.hugepages = HugePages::Size2M;
    spec.mem = ByteSize(18 << 20);
    let line = scene.error(spec);
    assert!(line.starts_with("hugepages \"2M\": mem 18M takes 9 pages, 8 are free of 8"));
    assert!(line.ends_with("hugepages-2048kB/nr_hugepages"), "{line}");

    let mut spec = scene.spec();
    spec.hugepages = HugePages::Size1G;
    spec.mem = ByteSize(1 << 30);
    assert!(scene.error(spec).contains("no pages of that size"));
}

#[test]
fn kvm_missing_and_kvm_forbidden_differ_and_name_the_remedy() {
    let missing = open_kvm(Path::new("/nonexistent")).unwrap_err();
    assert!(missing.reason.contains("load the module"), "{missing}");
    let forbidden = kvm_remedy(&io::Error::from(Errno::EACCES));
    assert!(forbidden.contains("usermod -aG kvm"), "{forbidden}");
}

#[test]
fn memory_that_is_no_multiple_of_the_hosts_pages_is_refused() {
    let size = ByteSize((16 << 20) + (4 << 10));
    assert_eq!(not_on_pages(size, 4 << 10), None);
    let reason = not_on_pages(size, 16 << 10).unwrap();
    assert!(reason.ends_with("page size, 16K"), "{reason}");
}
