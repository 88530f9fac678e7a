// SPDX-License-Identifier: Apache-2.0
//! What a machine answers without a VM that runs.

use super::*;

fn machine() -> Machine {
    let manner = Manner {
        name: "vm".parse().unwrap(),
        asks_guest: false,
        stays: false,
    };
    Machine::new(manner, Monitor::none())
}

fn status(answer: &Answer) -> u16 {
    match answer {
        Answer::Done => 204,
        Answer::Json(_) => 200,
        Answer::Refused(fault) => fault.status,
    }
}

fn asked(machine: &mut Machine, action: Action, body: &str) -> u16 {
    status(&machine.serve(action, body.as_bytes(), Vec::new()))
}

const KERNEL: &str = r#"{"payload":{"kernel":"/k"}}"#;

#[test]
fn request_before_the_document_is_404_and_before_the_boot_500() {
    let waiting = [
        Action::Counters,
        Action::Pause,
        Action::Resume,
        Action::PowerButton,
        Action::Shutdown,
        Action::Reboot,
    ];
    let mut machine = machine();
    for action in waiting {
        assert_eq!(asked(&mut machine, action, ""), 404, "{action:?}");
    }
    for action in [Action::Boot, Action::Info, Action::AddNet] {
        assert_eq!(asked(&mut machine, action, "{}"), 404, "{action:?}");
    }
    assert_eq!(asked(&mut machine, Action::Create, KERNEL), 204);
    assert_eq!(asked(&mut machine, Action::Create, KERNEL), 500);
    for action in waiting {
        assert_eq!(asked(&mut machine, action, ""), 500, "{action:?}");
    }
    assert_eq!(asked(&mut machine, Action::Delete, ""), 204);
    assert_eq!(asked(&mut machine, Action::Info, ""), 404);
    assert_eq!(asked(&mut machine, Action::Create, KERNEL), 204);
    assert_eq!(machine.exit(), None);
    assert_eq!(asked(&mut machine, Action::Exit, ""), 204);
    assert_eq!(machine.exit(), Some(0));
}

#[test]
fn document_is_told_back_with_its_cards() {
    let mut machine = machine();
    assert_eq!(asked(&mut machine, Action::Create, KERNEL), 204);
    let net = r#"{"id":"net_0","tap":"t","mac":"52:54:00:00:00:01"}"#;
    assert_eq!(asked(&mut machine, Action::AddNet, net), 204);
    let Answer::Json(info) = machine.serve(Action::Info, b"", Vec::new()) else {
        unreachable!("a document");
    };
    assert_eq!(
        (&info["state"], &info["config"]["net"][0]["id"]),
        (&json!("Created"), &json!("net_0"))
    );
    assert_eq!(info["memory_actual_size"], 512 << 20);
}

#[test]
fn card_that_cannot_be_is_refused_and_leaves_nothing() {
    let mut machine = machine();
    assert_eq!(asked(&mut machine, Action::Create, KERNEL), 204);
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for (body, fds, words) in [
        ("{", vec![], "JSON"),
        ("{}", vec![null()], "net.fds[0]"),
        ("{\"num_queues\":4}", vec![null()], "net.num_queues 4"),
        ("{}", (0..9).map(|_| null()).collect(), "net.num_queues 2"),
        ("{}", vec![], "net[0].tap"),
        (r#"{"tap":"t","mac":"x"}"#, vec![], "mac"),
        (r#"{"tap":"t","iommu":true}"#, vec![], "net[0].iommu"),
    ] {
        let Answer::Refused(fault) = machine.serve(Action::AddNet, body.as_bytes(), fds) else {
            unreachable!("{body} is refused");
        };
        assert_eq!(fault.status, 400, "{body}");
        assert!(fault.chain.join(": ").contains(words), "{fault:?}");
    }
    let config = machine.config.unwrap();
    assert!(config.taps.is_empty() && config.document.get("net").is_none());
}

#[test]
fn ping_tells_whose_it_is_and_a_version_that_libvirt_reads() {
    let told = ping();
    let version = told["build_version"].as_str().unwrap();
    assert!(
        version.starts_with("v51.0-bulkhead-") && !version.contains('/'),
        "{version}"
    );
    assert!(told["pid"].is_u64());
}
